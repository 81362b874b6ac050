"""Which parts of a job have no node yet, read from what the cluster says is pending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raykd.config.job import Job
from raykd.config.reservations import READ_CPUS, REPLICA_CPUS

REPLICAS = "teacher replicas"
RANKS = "student ranks"
TASK = "a task"
LOADERS = "loaders"

Shape = tuple[float, float]
"""CPUs and GPUs, rounded as Ray counts them."""
Key = tuple[Shape, frozenset[tuple[str, str]]]
"""What one task or actor asks for, and the labels that its node must carry."""


@dataclass(frozen=True)
class Pending:
    """A part that waits for a node.

    Attributes:
        part: What it is.
        count: How many of it.
        each: What one needs, in words.
        hopeless: Whether the autoscaler says that no node it may start would do.
    """

    part: str
    count: int
    each: str
    hopeless: bool = False

    def told(self) -> str:
        """In words."""
        what = self.part if self.count == 1 and self.part == TASK else f"{self.count} {self.part}"
        if self.count == 1:
            what = what.removesuffix("s")
        text = f"{what} ({self.each})"
        if self.hopeless:
            text += ", for which no node that the autoscaler may start now has room"
        return text


def pending(job: Job, status: Any) -> list[Pending]:
    """The job's parts among all that is pending on the cluster.

    Parts are told by their size, and single ones by their labels: another job's of the same count
    too.

    Args:
        job: The job.
        status: What `cluster.status` says.
    """
    state, scaler = status.cluster_resource_state, status.autoscaling_state
    groups = Counter(
        part for gang in state.pending_gang_resource_requests for part in _parts_in(job, gang)
    )
    hopeless = {
        part for gang in scaler.infeasible_gang_resource_requests for part in _parts_in(job, gang)
    }
    singles: Counter[Key] = Counter()
    for one in state.pending_resource_requests:
        singles[_key(one.request)] += one.count
    lost_singles = {_key(request) for request in scaler.infeasible_resource_requests}
    found = []
    for part, each in _groups_of(job):
        if number := groups[part]:
            found.append(Pending(part, number, each, part in hopeless))
    for part, shape, labels in _singles_of(job):
        key = shape, frozenset(labels.items())
        if number := singles.pop(key, 0):
            found.append(Pending(part, number, _each(*shape, labels), key in lost_singles))
    return found


def replica_shape(job: Job) -> Shape:
    """What the placement group of a replica holds."""
    teacher = job.teacher
    shards = teacher.num_shards
    gpus = shards if teacher.device == "gpu" else 0
    return _rounded(shards * teacher.cpus_per_shard + REPLICA_CPUS, gpus)


def _parts_in(job: Job, gang: Any) -> list[str]:
    """What a placement group is for: a replica, some ranks, or nothing of this job's."""
    shapes = [_shape(bundle) for bundle in _bundles(gang)]
    if _total(shapes) == replica_shape(job):
        return [REPLICAS]
    # Of a group that lost a node only the ranks that stood there wait.
    return [RANKS] * len(shapes) if set(shapes) == {_rank_shape(job)} else []


def _rank_shape(job: Job) -> Shape:
    return _rounded(job.student.cpus_per_worker, 1 if job.student.device == "gpu" else 0)


def _groups_of(job: Job) -> list[tuple[str, str]]:
    return [
        (REPLICAS, _each(*replica_shape(job), job.teacher.labels, " on one node")),
        (RANKS, _each(*_rank_shape(job), job.student.labels)),
    ]


def _singles_of(job: Job) -> list[tuple[str, Shape, Mapping[str, str]]]:
    stream = job.stream
    return [
        (LOADERS, _rounded(stream.cpus_per_loader, 0), stream.labels),
        (LOADERS, _rounded(READ_CPUS, 0), stream.labels),
        (TASK, _rounded(1, 0), stream.labels),
        (TASK, _rounded(0, 0), stream.labels),
        (TASK, _rounded(0, 1), stream.labels),  # a reward model
        (TASK, _rank_shape(job), job.student.labels),
    ]


def _key(request: Any) -> Key:
    """What a single task or actor asks for: its size, and the labels of its node."""
    wanted = {
        (constraint.label_key, ",".join(constraint.label_values))
        for selector in request.label_selectors
        for constraint in selector.label_constraints
    }
    return _shape(request), frozenset(wanted)


def _bundles(gang: Any) -> Iterable[Any]:
    """Of a placement group; Ray has an older and a newer place for them, as its own scheduler."""
    newer = gang.bundle_selectors
    bundles: Iterable[Any] = newer[0].resource_requests if newer else gang.requests
    return bundles


def _total(shapes: Iterable[Shape]) -> Shape:
    shapes = list(shapes)
    return _rounded(sum(cpus for cpus, _ in shapes), sum(gpus for _, gpus in shapes))


def _shape(request: Any) -> Shape:
    bundle = request.resources_bundle
    return _rounded(_amount(bundle, "CPU"), _amount(bundle, "GPU"))


def _amount(bundle: Any, name: str) -> float:
    return float(bundle[name]) if name in bundle else 0.0


def _rounded(cpus: float, gpus: float) -> Shape:
    return round(cpus, 3), round(gpus, 3)


def _each(cpus: float, gpus: float, labels: Mapping[str, str], together: str = "") -> str:
    needs = [f"{cpus:g} CPU{'s' * (cpus != 1)}"] if cpus else []
    needs += [f"{gpus:g} GPU{'s' * (gpus != 1)}"] if gpus else []
    text = (" and ".join(needs) or "a node") + together
    carried = ", ".join(f"{key}={value}" for key, value in labels.items())
    return f"{text} with {carried}" if carried else text
