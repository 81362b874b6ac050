"""The plan of a job: every part of the arithmetic, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.clusters.hardware import Hardware, NodeType
from raykd.clusters.machines import machine
from raykd.config.job import Job
from raykd.errors import JobError
from raykd.pipeline.plan import TEACHER_REPLICAS
from raykd.planning import estimate
from raykd.planning.accelerators import Accelerator
from raykd.planning.amount import Amount, amount
from raykd.planning.fitting import Fitting, Surroundings, fit
from raykd.planning.layout import Layout
from raykd.planning.lora import trained_and_frozen
from raykd.planning.model_files import Models
from raykd.planning.notes import is_placed, notes
from raykd.planning.pieces import MILLI, STUDENT_RANKS, Piece, pieces
from raykd.planning.plan_data import CodecLine, Demanded, ModelLine, NodesUsed, Plan, Speed
from raykd.planning.remedies import remedies
from raykd.planning.shape import total
from raykd.planning.speed import Rates
from raykd.planning.split import best_split
from raykd.planning.traffic import ROW_BYTES, WireCodec, all_codecs

OBJECT_STORE_SHARE = 0.3
"""Of a node's memory: Ray's default for its object store."""
STREAM_SHARE = 0.25
"""Of the smallest object store: raykd's default for rows on their way."""


@dataclass(frozen=True)
class Asked:
    """What a plan is made of beside the job.

    Attributes:
        models: Both models' shapes.
        hardware: The cluster; None for one's own.
        accelerators: GPUs by name.
        accelerator: The GPU to reckon with where no cluster file names one.
        rates: What is known of speed, and what is assumed.
        rows: Training rows of an epoch, where the person knows.
        prompts: Prompts of the corpus that the teacher writes to, likewise.
    """

    models: Models
    hardware: Hardware | None
    accelerators: Mapping[str, Accelerator]
    rates: Rates
    accelerator: str | None = None
    rows: int | None = None
    prompts: int | None = None


def make_plan(job: Job, asked: Asked) -> Plan:
    """Plan a job.

    Args:
        job: The job.
        asked: Models, hardware, and what is known of speed and rows.

    Raises:
        JobError: A replica is to stand on several nodes, which is not laid out here.
    """
    if job.teacher.pipeline_parallel > 1:
        raise JobError(
            f"teacher.pipeline_parallel: {job.teacher.pipeline_parallel} puts a replica on several "
            "nodes, and `raykd plan` lays each out on one; `raykd check` says whether its stages "
            "find room"
        )
    around = Surroundings(asked.models, asked.hardware, asked.accelerators, asked.accelerator)
    fitting = fit(job, around)
    how_much = amount(job, asked.rows)
    speed = estimate.speed(job, around, fitting, asked.rates)
    written = estimate.written(job, around, fitting, asked.rates, asked.prompts)
    hours = estimate.hours(job, how_much, speed, written) if fitting.fits else None
    hardware = asked.hardware
    return Plan(
        name=job.name,
        cluster=None if hardware is None else str(hardware.source or hardware.provider),
        models=_models(job, asked.models),
        rows=how_much.rows,
        steps=how_much.steps,
        tokens=how_much.tokens(job),
        amount_source=how_much.source,
        demands=_demands(job, fitting.layout),
        nodes=() if hardware is None else _nodes(hardware, fitting.layout),
        memory=fitting.memory,
        codecs=_codecs(job, asked, fitting, speed, how_much),
        speed=speed,
        writing=written,
        cost=estimate.cost(job, hardware, fitting.layout, hours, speed),
        split=best_split(job, around, fitting, asked.rates),
        problems=tuple(text for texts in fitting.problems.values() for text in texts),
        remedies=tuple(remedies(job, around, fitting.problems)),
        notes=tuple(notes(job, asked.hardware, fitting)),
    )


def _models(job: Job, models: Models) -> tuple[ModelLine, ...]:
    teacher, student = models.teacher, models.student
    trained, _ = trained_and_frozen(student, job.student.lora)
    added = 0 if job.student.lora is None else total(trained)
    planned = ModelLine(
        "teacher", models.teacher_source, teacher.model_type, teacher.num_parameters, 0
    )
    return (
        *((planned,) if is_placed(job) else ()),
        ModelLine(
            "student",
            models.student_source,
            student.model_type,
            student.num_parameters + added,
            total(trained),
        ),
    )


def _demands(job: Job, layout: Layout | None) -> tuple[Demanded, ...]:
    phases = pieces(job) if layout is None else layout.phases
    found = []
    for phase, held in phases.items():
        placement = None if layout is None else layout.placements[phase]
        for piece in held:
            on = None if placement is None else placement.on(piece.part)
            found.append(
                Demanded(
                    phase,
                    piece.part,
                    piece.count,
                    piece.cpus / MILLI,
                    piece.gpus,
                    piece.labels,
                    _bundles(job, piece),
                    on,
                )
            )
    return tuple(found)


def _bundles(job: Job, piece: Piece) -> str:
    if piece.part == TEACHER_REPLICAS:
        teacher = job.teacher
        # vLLM starts its own shards, in one bundle.
        bundles = 1 if teacher.engine == "vllm" else teacher.num_shards
        each = teacher.num_shards // bundles
        gpu = f" + {each} GPU" if teacher.device == "gpu" else ""
        return f"STRICT_PACK: 1 x 0.01 CPU, {bundles} x {each * teacher.cpus_per_shard:g} CPU{gpu}"
    gpu = f" + {piece.gpus} GPU" if piece.gpus else ""
    strategy = "PACK" if piece.part == STUDENT_RANKS else "each by itself"
    return f"{strategy}: {piece.count} x {piece.cpus / MILLI:g} CPU{gpu}"


def _nodes(hardware: Hardware, layout: Layout | None) -> tuple[NodesUsed, ...]:
    assert layout is not None
    return tuple(_node(each, layout) for each in hardware.node_types)


def _node(node_type: NodeType, layout: Layout) -> NodesUsed:
    """The phase that needs most of them decides what is idle."""
    needed, cpus, gpus = 0, 0.0, 0
    for phase, placement in layout.placements.items():
        used = placement.nodes(node_type.name) if placement else 0
        if placement is None or not used or used < needed:
            continue
        held = {p.part: p for p in layout.phases[phase]}
        on = {part: placement.on(part).get(node_type.name, 0) for part in held}
        needed = used
        cpus = used * node_type.cpus - sum(n * held[p].cpus for p, n in on.items()) / MILLI
        gpus = used * node_type.gpus - sum(n * held[p].gpus for p, n in on.items())
    return NodesUsed(
        node_type.name,
        node_type.role,
        needed,
        node_type.min_nodes,
        node_type.max_nodes,
        node_type.spot,
        round(cpus, 4),
        gpus,
    )


def _codecs(
    job: Job, asked: Asked, fitting: Fitting, speed: Speed, how_much: Amount
) -> tuple[CodecLine, ...]:
    if not job.needs_teacher_for_training:
        return ()
    network = _network_bytes_per_s(asked.hardware, fitting.layout)
    store = _stream_bytes(job, asked.hardware, fitting.layout)
    rate = speed.tokens_per_s or speed.teacher_tokens_per_s
    found = []
    for codec in all_codecs(job, asked.models, asked.rates.wire_bytes):
        each = codec.token_bytes * how_much.learned_share + codec.state_bytes + ROW_BYTES
        bytes_per_s = None if rate is None else rate * each
        found.append(
            CodecLine(
                codec.label,
                codec.token_bytes + codec.state_bytes,
                _kind(codec),
                bytes_per_s,
                None if not network or bytes_per_s is None else bytes_per_s / network,
                None if not store or not bytes_per_s else store / bytes_per_s,
            )
        )
    return tuple(found)


def _kind(codec: WireCodec) -> str:
    if codec.measured:
        return "measured"
    return "at most" if codec.bound else "computed"


def _network_bytes_per_s(hardware: Hardware | None, layout: Layout | None) -> float | None:
    """Of the narrowest side: all nodes that hold replicas, loaders, or ranks."""
    if hardware is None or layout is None:
        return None
    sides = []
    for part in (TEACHER_REPLICAS, "loaders", STUDENT_RANKS):
        side = 0.0
        for each in hardware.node_types:
            found = machine(each.instance)
            nodes = max(
                (
                    sum(x.nodes for x in p.loads if x.node_type == each.name and part in x.holds)
                    for p in layout.placements.values()
                    if p
                ),
                default=0,
            )
            if nodes and (found is None or found.network_bytes_per_s is None):
                return None
            if nodes and found is not None:
                side += nodes * (found.network_bytes_per_s or 0.0)
        if side:
            sides.append(side)
    return min(sides, default=None)


def _stream_bytes(job: Job, hardware: Hardware | None, layout: Layout | None) -> float | None:
    """What rows on their way may take of the object store, as the job or raykd's default says."""
    if job.stream.object_store_bytes is not None:
        return float(job.stream.object_store_bytes)
    if hardware is None or layout is None:
        return None
    sizes = [t.memory_bytes for t in hardware.node_types if layout.used(t.name)]
    if not sizes or any(size is None for size in sizes):
        return None
    return min(size or 0 for size in sizes) * OBJECT_STORE_SHARE * STREAM_SHARE
