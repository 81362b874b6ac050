"""What a job holds against what the cluster has, or may grow to.

What can never fit is refused at once. A cluster that does not scale itself has to have it now; the
nodes of one that does are waited for where they are needed: `waiting.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from raykd.config.job import Job
from raykd.errors import ResourceError
from raykd.pipeline import capacity, cluster
from raykd.pipeline.capacity import Growth, Place
from raykd.pipeline.plan import REWARD_MODEL, Demand, replicas

Phases = dict[str, list[Demand]]

FREE_WITHIN_S = 60.0
"""How long what another run is giving back may take to come free."""
FIX = (
    "lower teacher.replicas, teacher.cpus_per_shard, student.num_workers or "
    "student.cpus_per_worker, or add nodes"
)


def shortage(job: Job, phases: Phases) -> tuple[bool, str]:
    """Compare what is held at the same time with all that the cluster has or may have.

    A cluster that scales itself counts with all nodes that its autoscaler may start. Of an elastic
    teacher the replicas that the run begins with must fit; the sum says how far it can grow.

    Args:
        job: The job.
        phases: What is held together, phase by phase; see `plan.phases`.

    Returns:
        Whether something is short, and the sum in words.
    """
    grows = capacity.growth()
    places = capacity.places(grows)
    have = cluster.totals()
    if grows is not None:
        have = {name: capacity.most(grows, places, name) for name in ("CPU", "GPU")}
    told = []
    for name, wanted in phases.items():
        text = f"{name}: {_sum(wanted, 'CPU')}; {_sum(wanted, 'GPU')}; {_has(grows, have)}"
        missing = _missing(wanted, have) if grows is None or grows.kinds else []
        if missing:
            return True, f"{text}: {' and '.join(missing)}; {FIX}"
        told.append(text + _growth(job, wanted, have))
    unplaced = _unplaced(job, phases, grows, places)
    return bool(unplaced), unplaced or "; ".join(told)


def _has(grows: Growth | None, have: dict[str, float]) -> str:
    if grows is None:
        return f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
    if not grows.is_known:
        return "the cluster scales itself, and does not say how far"
    types = ", ".join(f"{kind.most} {kind.name}" for kind in grows.kinds)
    return f"the cluster may grow to {have['CPU']:g} CPUs and {have['GPU']:g} GPUs (nodes: {types})"


def _growth(job: Job, wanted: list[Demand], have: dict[str, float]) -> str:
    """How many of an elastic teacher's replicas fit beside what is held with them."""
    most, least = job.teacher.max_replicas, job.teacher.first_replicas
    if most == least or replicas(job) not in wanted:
        return ""
    others = [demand for demand in wanted if demand != replicas(job)]
    fitting = least
    while fitting < most and not _missing([*others, replicas(job, fitting + 1)], have):
        fitting += 1
    full = replicas(job, most)
    text = f"; all {most} teacher replicas hold {full.cpus:g} CPUs and {full.gpus:g} GPUs"
    if fitting == most:
        return f"{text}, which fit"
    return f"{text}: {fitting} fit now, others would wait for more nodes"


def require(job: Job, phases: Phases) -> None:
    """Raise if something is short, or if others hold it and do not give it back in a minute.

    Where the cluster scales itself, what is held by others may come from more nodes: the parts
    that need them wait.

    Raises:
        ResourceError: Shows the sum.
    """
    short, text = shortage(job, phases)
    if short:
        raise ResourceError(text)
    if capacity.growth() is not None:
        return
    deadline = time.monotonic() + FREE_WITHIN_S
    while busy := _busy(phases):
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{text}, but others hold them: {busy}; wait for them to end, or lower what this "
                "job asks for"
            )
        time.sleep(1.0)


def _busy(phases: Phases) -> str:
    free = cluster.free()
    return " and ".join(text for wanted in phases.values() for text in _missing(wanted, free))


def _missing(wanted: list[Demand], have: dict[str, float]) -> list[str]:
    needs = {"CPU": sum(d.cpus for d in wanted), "GPU": sum(d.gpus for d in wanted)}
    return [
        f"{name}s are {need - have.get(name, 0):g} short"
        for name, need in needs.items()
        if need > have.get(name, 0) + 1e-6
    ]


@dataclass(frozen=True)
class _Part:
    """What has to stand on one node each, and where it may."""

    what: str
    count: int
    cpus: float
    gpus: float
    field: str
    labels: dict[str, str]


def _parts(job: Job, phases: Phases) -> list[_Part]:
    """A replica's shards share a node, and labels must be there; tasks need a CPU somewhere."""
    teacher, student, stream = job.teacher, job.student, job.stream
    held = [demand for wanted in phases.values() for demand in wanted]
    shards = teacher.tensor_parallel
    parts = [
        _Part(
            "student rank",
            student.num_workers,
            student.cpus_per_worker,
            1 if student.device == "gpu" else 0,
            "student.labels",
            student.labels,
        ),
        _Part(
            "loader", stream.num_loaders, stream.cpus_per_loader, 0, "stream.labels", stream.labels
        ),
    ]
    if replicas(job) in held:
        replica = _Part(
            "teacher replica" if teacher.pipeline_parallel == 1 else "stage of the teacher",
            teacher.first_replicas * teacher.pipeline_parallel,
            shards * teacher.cpus_per_shard,
            shards if teacher.device == "gpu" else 0,
            "teacher.labels",
            teacher.labels,
        )
        parts.insert(0, replica)
    if any(demand.part == REWARD_MODEL for demand in held):
        parts.append(_Part(REWARD_MODEL, 1, 0.0, 1.0, "stream.labels", stream.labels))
    return parts


def _unplaced(job: Job, phases: Phases, grows: Growth | None, places: list[Place]) -> str:
    """What no node can hold, or not often enough."""
    if grows is not None and not grows.kinds:
        return ""
    for part in _parts(job, phases):
        fitting = [place for place in places if place.count and place.carries(part.labels)]
        if not fitting:
            return f"{part.field}: no node carries {part.labels}; {_carry(grows)}"
        room = capacity.room(grows, places, part.cpus, part.gpus, part.labels)
        need = f"{part.cpus:g} CPUs and {part.gpus:g} GPUs"
        labelled = " with these labels" if part.labels else ""
        if not room:
            return (
                f"no single node{labelled} has the {need} of a {part.what}; use larger nodes, or "
                "lower teacher.tensor_parallel and the CPUs it asks for"
            )
        if room < part.count:
            names = ", ".join(f"{p.count} {p.name}" for p in fitting)
            return (
                f"{part.count} {part.what}s need {need} each, and nodes{labelled} ({names}) have "
                f"room for {room:g}; {FIX}"
            )
    return ""


def _carry(grows: Growth | None) -> str:
    if grows is None:
        return "start nodes with `ray start --labels`"
    return "give a node type these `labels` in the cluster file, and max_workers above 0"


def _sum(wanted: list[Demand], name: str) -> str:
    each = [(d.part, d.count, d.cpus_each if name == "CPU" else d.gpus_each) for d in wanted]
    total = sum(count * amount for _, count, amount in each)
    terms = [f"{count} {part} x {amount:g}" for part, count, amount in each if amount]
    return f"{name}: {' + '.join(terms)} = {total:g}" if terms else f"{name}: none"
