"""A job on the nodes that are there: fewer ranks, the same global batch and the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from raykd.config.job import Job
from raykd.errors import CapacityError
from raykd.pipeline import cluster, waiting
from raykd.pipeline.plan import fewer_ranks

FreeNode = tuple[Mapping[str, float], Mapping[str, str]]
"""What nobody holds on a node, and the node's labels."""


def on_fewer_ranks(job: Job, error: CapacityError, note: Callable[[str], None]) -> Job:
    """The job with as many ranks as find room now.

    Args:
        job: The job whose ranks found none.
        error: What is raised where it may not, or cannot, go on with fewer.
        note: Tells the person.

    Raises:
        CapacityError: `capacity.then` is `stop`, or not one rank finds room.
    """
    waits = waiting.active()
    told = waits.last_words(waiting.RANKS) if waits else ""
    reason = f"{told}; {error}" if told else str(error)
    if job.capacity.then == "stop":
        raise CapacityError(f"{reason}. Go on with --resume, or with `capacity.then: smaller`")
    room = ranks_with_room(job, cluster.free_nodes())
    ranks = fewer_ranks(job, room)
    if not ranks:
        raise CapacityError(f"{reason}. There is room for {room} ranks, too few to go on with")
    smaller = job.student.model_copy(update={"num_workers": ranks})
    job = job.model_copy(update={"student": smaller})
    note(_told(job, reason))
    if waits is not None:
        waits.follow(job)
    return job


def ranks_with_room(job: Job, nodes: Sequence[FreeNode]) -> int:
    """How many ranks find room beside the loaders, each whole on one node."""
    student, stream = job.student, job.stream
    free = [(dict(have), labels) for have, labels in nodes]
    for _ in range(stream.num_loaders):
        # A loader goes where no rank could: it leaves the most room.
        fitting = [
            (_rank_fits(job, each), have)
            for each in free
            if _carries(each[1], stream.labels)
            and (have := each[0]).get("CPU", 0) >= stream.cpus_per_loader
        ]
        if fitting:
            min(fitting, key=lambda each: each[0])[1]["CPU"] -= stream.cpus_per_loader
    return sum(_rank_fits(job, each) for each in free if _carries(each[1], student.labels))


def _rank_fits(job: Job, node: FreeNode) -> int:
    have, labels = node
    student = job.student
    if not _carries(labels, student.labels):
        return 0
    rooms = [int(have.get("CPU", 0) / student.cpus_per_worker + 1e-6)]
    if student.device == "gpu":
        rooms.append(int(have.get("GPU", 0) + 1e-6))
    return min(rooms)


def _carries(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()


def _told(job: Job, reason: str) -> str:
    ranks, train = job.student.num_workers, job.train
    steps = train.global_batch // (ranks * train.micro_batch)
    return (
        f"going on with {ranks} student ranks (capacity.then: smaller): the same global batch of "
        f"{train.global_batch} rows, now {steps} micro-batches a rank. {reason}"
    )
