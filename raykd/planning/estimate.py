"""How fast a job goes on its hardware, how long that takes, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raykd.clusters.hardware import Hardware
from raykd.config.job import Job
from raykd.pipeline.plan import TEACHER_REPLICAS
from raykd.planning.accelerators import Accelerator
from raykd.planning.amount import Amount
from raykd.planning.fitting import Fitting, Surroundings
from raykd.planning.layout import Layout
from raykd.planning.pieces import STUDENT_RANKS
from raykd.planning.plan_data import Cost, Speed, Writing
from raykd.planning.speed import Rates, rank_rate, replica_rate
from raykd.planning.written import best_write_rate, writing

Rate = Callable[[Accelerator | None], float | None]
"""Tokens a second of one replica or rank, by the GPU that it is on."""


@dataclass(frozen=True)
class Hours:
    """How long each phase lasts; writing is 0 where there is none, or nobody knows."""

    writing: float
    filling: float
    training: float


def speed(job: Job, around: Surroundings, fitting: Fitting, rates: Rates) -> Speed:
    """Tokens a second of both sides.

    Args:
        job: The job.
        around: Models and hardware.
        fitting: Where everything lies.
        rates: What is known, and what is assumed.
    """
    layout = fitting.layout
    replicas = _count(layout, TEACHER_REPLICAS, job.teacher.max_replicas)
    ranks = _count(layout, STUDENT_RANKS, job.student.num_workers)
    of_replicas = _each(replicas, lambda gpu: replica_rate(job, around.models, rates, gpu), around)
    of_ranks = _each(ranks, lambda gpu: rank_rate(job, around.models, rates, gpu), around)
    teacher = student = None
    if of_replicas:
        teacher = sum(n * one for n, one in zip(replicas.values(), of_replicas, strict=True))
    if of_ranks:
        # Ranks go step by step together: the slowest decides.
        student = min(of_ranks) * sum(ranks.values())
    asks = teacher_works_in_training(job)
    together = student if not asks else _least(teacher, student)
    if not asks and not teacher_works(job):
        teacher, replicas = None, {}
    return Speed(
        teacher_tokens_per_s=teacher,
        student_tokens_per_s=student,
        tokens_per_s=together,
        student_waits=_waits(together, student),
        teacher_waits=_waits(together, teacher) if asks else None,
        replicas=sum(replicas.values()),
        ranks=sum(ranks.values()),
        teacher_source=_source(rates, rates.teacher_tokens_per_s, rates.teacher_mfu, teacher),
        student_source=_source(rates, rates.student_tokens_per_s, rates.student_mfu, student),
    )


def teacher_works(job: Job) -> bool:
    """Whether training rows are scored by a teacher at all."""
    return job.needs_teacher_for_training and job.soft_targets.store_mode != "only"


def teacher_works_in_training(job: Job) -> bool:
    """Whether the student learns from the teacher as it speaks."""
    return teacher_works(job) and job.soft_targets.store_mode != "fill"


def _count(layout: Layout | None, part: str, wanted: int) -> dict[str | None, int]:
    """How many lie on each node type; all on one's own hardware without a cluster file."""
    if layout is None:
        return {None: wanted}
    found: dict[str | None, int] = {}
    return found | layout.on(part)


def _each(counts: Mapping[str | None, int], of_gpu: Rate, around: Surroundings) -> list[float]:
    """The rate of one on each node type; nothing where one of them is unknown."""
    types = {t.name: t for t in around.hardware.node_types} if around.hardware else {}
    found = [of_gpu(around.gpu(None if name is None else types[name])) for name in counts]
    known = [rate for rate in found if rate is not None]
    return known if len(known) == len(found) else []


def _least(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else min(first, second)


def _waits(together: float | None, own: float | None) -> float | None:
    return None if together is None or not own else 1.0 - together / own


def _source(rates: Rates, measured: float | None, mfu: float, found: float | None) -> str:
    if measured is not None:
        return f"measured: {rates.source}"
    if found is None:
        return "unknown: run `raykd probe`, or give its tokens/s or, for a GPU, its name"
    return f"assumed: {mfu:.0%} of the GPU's dense bf16 speed"


def written(
    job: Job, around: Surroundings, fitting: Fitting, rates: Rates, prompts: int | None
) -> Writing | None:
    """What the teacher writes first, and how fast; None where it writes nothing.

    Args:
        job: The job.
        around: Models and hardware.
        fitting: Where everything lies.
        rates: What is known.
        prompts: Of the corpus, where the person knows.
    """
    if job.generation is None:
        return None
    replicas = _writers(job, fitting.layout)
    source = "unknown: give --write-rate TOKENS_PER_S"
    if rates.write_tokens_per_s is not None:
        source = "the command line"
        each: list[float] = [rates.write_tokens_per_s for _ in replicas]
    else:
        teacher = around.models.teacher
        each = _each(replicas, lambda gpu: best_write_rate(job, teacher, gpu), around)
        if each:
            source = "at best: weights and cache read once a step, at the GPU's memory bandwidth"
    together = (
        sum(n * one for n, one in zip(replicas.values(), each, strict=True)) if each else None
    )
    return writing(job, prompts, together, sum(replicas.values()), source)


def _writers(job: Job, layout: Layout | None) -> dict[str | None, int]:
    """Replicas that write, on each node type; all on one's own hardware without a cluster file."""
    if job.teacher.endpoint is not None:
        return {}
    if layout is None:
        return {None: job.teacher.max_replicas}
    placement = layout.placements.get("writing")
    found: dict[str | None, int] = {}
    if placement is not None:
        found.update(placement.on(TEACHER_REPLICAS))
    return found


def hours(job: Job, amount: Amount, speed: Speed, writing: Writing | None = None) -> Hours | None:
    """How long each phase lasts; None where a rate or the rows are unknown.

    Later epochs read what was kept of the first one, unless nothing is kept.
    """
    tokens = amount.tokens(job)
    if tokens is None or speed.student_tokens_per_s is None or speed.tokens_per_s is None:
        return None
    first = tokens
    if job.soft_targets.store_mode != "off":
        first = round(tokens * amount.first_epoch_share(job))
    filling = 0.0
    if teacher_works(job) and not teacher_works_in_training(job):
        if speed.teacher_tokens_per_s is None:
            return None
        filling = first / speed.teacher_tokens_per_s
    training = first / speed.tokens_per_s + (tokens - first) / speed.student_tokens_per_s
    writing_hours = 0.0 if writing is None else writing.hours or 0.0
    return Hours(writing_hours, filling / 3600, training / 3600)


def cost(
    job: Job, hardware: Hardware | None, layout: Layout | None, hours: Hours | None, speed: Speed
) -> Cost | None:
    """Hours by role and by node, and money; None where hours are unknown."""
    if hours is None:
        return None
    teacher_hours = hours.filling + (hours.training if teacher_works_in_training(job) else 0.0)
    teacher_hours *= speed.replicas
    if hours.writing:
        teacher_hours += sum(_writers(job, layout).values()) * hours.writing
    node_hours = {} if hardware is None or layout is None else _node_hours(hardware, layout, hours)
    on_demand, as_planned, missing = _money(hardware, node_hours)
    return Cost(
        hours=hours.writing + hours.filling + hours.training,
        writing_hours=hours.writing,
        filling_hours=hours.filling,
        teacher_gpu_hours=(
            job.teacher.num_shards * teacher_hours if job.teacher.device == "gpu" else None
        ),
        student_gpu_hours=(speed.ranks * hours.training if job.student.device == "gpu" else None),
        node_hours=node_hours,
        on_demand=on_demand,
        as_planned=as_planned,
        missing=missing,
    )


def _node_hours(hardware: Hardware, layout: Layout, hours: Hours) -> dict[str, float]:
    """Nodes that a phase needs, or that always run, times its hours."""
    lasting = {"writing": hours.writing, "filling": hours.filling, "training": hours.training}
    found = {}
    for each in hardware.node_types:
        spent = 0.0
        for phase, placement in layout.placements.items():
            used = placement.nodes(each.name) if placement else 0
            spent += max(used, each.min_nodes) * lasting.get(phase, 0.0)
        if spent:
            found[each.name] = spent
    return found


def _money(
    hardware: Hardware | None, node_hours: Mapping[str, float]
) -> tuple[float | None, float | None, tuple[str, ...]]:
    if hardware is None:
        return None, None, ()
    on_demand, as_planned = 0.0, 0.0
    missing: dict[str, None] = {}
    known = [True, True]
    for each in hardware.node_types:
        if each.name not in node_hours:
            continue
        full, spot = hardware.prices.get(each.name, (None, None))
        own = spot if each.spot else full
        what = each.instance or each.name
        if full is None:
            known[0] = False
            missing[f"{what} on demand"] = None
        if own is None:
            known[1] = False
            missing[f"{what} {'spot' if each.spot else 'on demand'}"] = None
        on_demand += node_hours[each.name] * (full or 0.0)
        as_planned += node_hours[each.name] * (own or 0.0)
    return on_demand if known[0] else None, as_planned if known[1] else None, tuple(missing)


def dollars_an_hour(hardware: Hardware, layout: Layout) -> float:
    """What the nodes of the training phase cost; GPUs and CPUs stand in for missing prices."""
    total = 0.0
    placement = layout.placements.get("training")
    for each in hardware.node_types:
        nodes = placement.nodes(each.name) if placement else 0
        full, spot = hardware.prices.get(each.name, (None, None))
        price = (spot if each.spot else None) or full
        total += nodes * (price if price is not None else each.gpus + 0.02 * each.cpus)
    return total
