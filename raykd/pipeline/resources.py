"""What a job holds against what the cluster has: fail at once, never wait for what is not there."""

from __future__ import annotations

import time

from raykd.config.job import Job
from raykd.errors import ResourceError
from raykd.pipeline import cluster
from raykd.pipeline.plan import Demand, replicas

Phases = dict[str, list[Demand]]

FREE_WITHIN_S = 60.0
"""How long what another run is giving back may take to come free."""
FIX = (
    "lower teacher.replicas, teacher.cpus_per_shard, student.num_workers or "
    "student.cpus_per_worker, or add nodes"
)


def shortage(job: Job, phases: Phases) -> tuple[bool, str]:
    """Compare what is held at the same time with all that the cluster has, in use or not.

    An autoscaling cluster counts with the nodes it has now. Of an elastic teacher the replicas that
    the run begins with must fit; the sum says how far it can grow.

    Args:
        job: The job.
        phases: What is held together, phase by phase; see `plan.phases`.

    Returns:
        Whether something is short, and the sum in words.
    """
    have = cluster.totals()
    told = []
    for name, wanted in phases.items():
        text = f"{name}: {_sum(wanted, 'CPU')}; {_sum(wanted, 'GPU')}; the cluster has "
        text += f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
        missing = _missing(wanted, have)
        if missing:
            return True, f"{text}: {' and '.join(missing)}; {FIX}"
        told.append(text + _growth(job, wanted, have))
    unplaced = _unplaced(job)
    return bool(unplaced), unplaced or "; ".join(told)


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

    Raises:
        ResourceError: Shows the sum.
    """
    short, text = shortage(job, phases)
    if short:
        raise ResourceError(text)
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


def _unplaced(job: Job) -> str:
    """What no node can hold: a replica's shards share a node, and labels must be there."""
    teacher, student = job.teacher, job.student
    replica = (
        "a teacher replica",
        teacher.tensor_parallel * teacher.cpus_per_shard,
        teacher.tensor_parallel if teacher.device == "gpu" else 0,
        "teacher.labels",
        teacher.labels,
    )
    rank = (
        "a student rank",
        student.cpus_per_worker,
        1 if student.device == "gpu" else 0,
        "student.labels",
        student.labels,
    )
    for what, cpus, gpus, field, labels in (replica, rank):
        nodes = [n for n in cluster.nodes() if labels.items() <= n.get("Labels", {}).items()]
        if not nodes:
            return f"{field}: no node carries {labels}; start nodes with `ray start --labels`"
        if not any(
            n["Resources"].get("CPU", 0) >= cpus and n["Resources"].get("GPU", 0) >= gpus
            for n in nodes
        ):
            return (
                f"no single node{' with these labels' if labels else ''} has the {cpus:g} CPUs and "
                f"{gpus} GPUs of {what}; use larger nodes, or lower teacher.tensor_parallel and "
                "the CPUs it asks for"
            )
    return ""


def _sum(wanted: list[Demand], name: str) -> str:
    each = [(d.part, d.count, d.cpus_each if name == "CPU" else d.gpus_each) for d in wanted]
    total = sum(count * amount for _, count, amount in each)
    terms = [f"{count} {part} x {amount:g}" for part, count, amount in each if amount]
    return f"{name}: {' + '.join(terms)} = {total:g}" if terms else f"{name}: none"
