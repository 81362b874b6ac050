"""Does a job fit: places for its pieces, and memory where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.clusters.hardware import Hardware, NodeType
from raykd.config.job import Job
from raykd.pipeline.plan import TEACHER_REPLICAS
from raykd.planning.accelerators import USABLE, Accelerator
from raykd.planning.layout import Layout, lay_out, why_not
from raykd.planning.memory import Memory, student_memory, teacher_memory
from raykd.planning.model_files import Models
from raykd.planning.pieces import STUDENT_RANKS, pieces
from raykd.planning.placement import allows
from raykd.planning.plan_data import MemoryLine
from raykd.planning.units import gib
from raykd.planning.writing_memory import on_gpu, too_little_for_vllm, with_cache

SHARD, RANK = "teacher shard", "student rank"


@dataclass(frozen=True)
class Surroundings:
    """What a job is judged against.

    Attributes:
        models: Both models' shapes.
        hardware: The cluster; None for one's own.
        accelerators: GPUs by name.
        accelerator: The GPU to reckon with where no cluster file names one.
    """

    models: Models
    hardware: Hardware | None
    accelerators: Mapping[str, Accelerator]
    accelerator: str | None = None

    def gpu(self, node_type: NodeType | None) -> Accelerator | None:
        """The GPU of a node type; None where it has none, or one that is not in the table."""
        name = self.accelerator if node_type is None else node_type.accelerator
        return self.accelerators.get(name) if name else None


@dataclass(frozen=True)
class Fitting:
    """A job on its hardware.

    Attributes:
        layout: Where everything lies; None without a cluster file.
        memory: Each part on each kind of node where it may lie.
        problems: Aspect (`placement`, `teacher memory`, `student memory`, `node memory`) to what
            is wrong; nothing where all fits.
    """

    layout: Layout | None
    memory: tuple[MemoryLine, ...]
    problems: Mapping[str, list[str]]

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def fit(job: Job, around: Surroundings) -> Fitting:
    """Judge a job.

    Args:
        job: The job.
        around: What it is judged against.
    """
    problems: dict[str, list[str]] = {}
    layout = None
    if around.hardware is not None:
        layout = lay_out(job, around.hardware.node_types)
        if not layout.fits:
            problems["placement"] = why_not(job, layout, around.hardware)
    uses = {RANK: student_memory(job, around.models)}
    phases = pieces(job) if layout is None else layout.phases
    if any(piece.part == TEACHER_REPLICAS for phase in phases.values() for piece in phase):
        models = around.models
        shard = teacher_memory(
            job, models.teacher, models.vocab_size, models.mixed_in, models.of_slices
        )
        uses = {SHARD: with_cache(job, models.teacher, shard), **uses}
    lines = [
        line for part, use in uses.items() for line in _on_gpus(job, part, use, layout, around)
    ]
    if layout is not None and around.hardware is not None:
        lines += _on_nodes(job, uses, layout, around.hardware)
    if SHARD in uses and job.teacher.device == "gpu":
        for gpu in _gpus(SHARD, layout, around):
            if said := too_little_for_vllm(job, on_gpu(job, uses[SHARD], gpu), gpu):
                problems.setdefault("teacher memory", []).append(said)
    for line in lines:
        if not line.fits:
            aspect = "node memory" if line.place == "node" else f"{line.part.split()[0]} memory"
            problems.setdefault(aspect, []).append(_short(line))
    return Fitting(layout, tuple(lines), problems)


def _short(line: MemoryLine) -> str:
    where = f" on {line.node_type}" if line.node_type else ""
    assert line.have_bytes is not None
    have = gib(line.have_bytes)
    greatest = sorted(line.parts.items(), key=lambda item: -item[1])[:3]
    what = "one node's processes need" if line.place == "node" else f"a {line.part} needs"
    return (
        f"{what} {gib(line.need_bytes)}{where}, where {have} may be filled; most is "
        + ", ".join(f"{name} {gib(size)}" for name, size in greatest)
    )


def _on_gpus(
    job: Job, part: str, use: Memory, layout: Layout | None, around: Surroundings
) -> list[MemoryLine]:
    """A line for each node type where the part lies on a GPU; one without a cluster."""
    device = job.teacher.device if part == SHARD else job.student.device
    place = "gpu" if device == "gpu" else "cpu"
    if place == "cpu":
        return [MemoryLine(part, None, place, use.device, None, {**use.kept, **use.passing})]
    if layout is None or around.hardware is None:
        return [_on_gpu(job, part, use, None, around)]
    types = _where(_piece(part), layout, around.hardware)
    return [_on_gpu(job, part, use, each, around) for each in types]


def _on_gpu(
    job: Job, part: str, use: Memory, node_type: NodeType | None, around: Surroundings
) -> MemoryLine:
    gpu = around.gpu(node_type)
    have = gpu.usable_bytes if gpu else None
    held = on_gpu(job, use, gpu) if part == SHARD else use
    name = None if node_type is None else node_type.name
    return MemoryLine(part, name, "gpu", held.device, have, {**held.kept, **held.passing})


def _gpus(part: str, layout: Layout | None, around: Surroundings) -> list[Accelerator]:
    """The GPUs of a part that are in the table, each once."""
    if layout is None or around.hardware is None:
        found = [around.gpu(None)]
    else:
        found = [around.gpu(each) for each in _where(_piece(part), layout, around.hardware)]
    return list(dict.fromkeys(gpu for gpu in found if gpu is not None))


def _where(part: str, layout: Layout, hardware: Hardware) -> list[NodeType]:
    """The node types where a part lies; without a place for all, those that could hold one."""
    lies = [each for each in hardware.node_types if each.name in layout.on(part)]
    phases = [piece for phase in layout.phases.values() for piece in phase if piece.part == part]
    could = [each for each in hardware.node_types if each.max_nodes and allows(phases[0], each)]
    return lies or could


def _piece(part: str) -> str:
    return TEACHER_REPLICAS if part == SHARD else STUDENT_RANKS


def _on_nodes(
    job: Job, uses: Mapping[str, Memory], layout: Layout, hardware: Hardware
) -> list[MemoryLine]:
    """CPU memory of the fullest node of each type: CPU parts, and what is offloaded there."""
    each = {}
    for part, use in uses.items():
        on_gpu = (job.teacher if part == SHARD else job.student).device == "gpu"
        copies = job.teacher.num_shards if part == SHARD else 1
        each[_piece(part)] = copies * (use.host if on_gpu else use.device)
    lines = []
    for node_type in hardware.node_types:
        fullest: dict[str, int] = {}
        for placement in layout.placements.values():
            for load in placement.loads if placement else ():
                if load.node_type == node_type.name:
                    held = {p: n * each.get(p, 0) for p, n in load.holds.items() if each.get(p)}
                    fullest = max(fullest, held, key=lambda one: sum(one.values()))
        if fullest:
            have = node_type.memory_bytes
            usable = None if have is None else int(have * USABLE)
            lines.append(
                MemoryLine(
                    " + ".join(fullest),
                    node_type.name,
                    "node",
                    sum(fullest.values()),
                    usable,
                    fullest,
                )
            )
    return lines
