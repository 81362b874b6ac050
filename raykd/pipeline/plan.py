"""Numbers that follow from a job: steps, requests, resources. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raykd.config.job import Job
from raykd.config.reservations import READ_CPUS, REPLICA_CPUS
from raykd.soft_targets.spec import CodecSpec

TEACHER_REPLICAS = "teacher replicas"
"""The part of a demand that is the teacher's."""
REWARD_MODEL = "reward model"
"""The part that judges completions."""
ONGOING_TARGET = 1.25
"""Requests that Serve's autoscaler wants for each replica. A replica works on one at a time: where
the student holds the teacher back, requests in flight are about the replicas that are busy, and a
quarter is what travels and jitters."""
FULL_WINDOW = 0.9
"""Share of the requests in flight that counts as all of them: one is on its way at most times."""


@dataclass(frozen=True)
class Demand:
    """Resources that one part of the job holds while it trains."""

    part: str
    count: int
    cpus_each: float
    gpus_each: float

    @property
    def cpus(self) -> float:
        """CPUs of all of them."""
        return self.count * self.cpus_each

    @property
    def gpus(self) -> float:
        """GPUs of all of them."""
        return self.count * self.gpus_each


def num_steps(job: Job, num_rows: int) -> int:
    """Optimizer steps of the run; the last one may be filled up with empty rows."""
    steps = math.ceil(num_rows * job.train.epochs / job.train.global_batch)
    return min(steps, job.train.max_steps) if job.train.max_steps else steps


def fewer_ranks(job: Job, room: int) -> int:
    """The most ranks, fewer than the job's, that find room and divide the global batch.

    Returns:
        Their number; 0 where not one finds room.
    """
    train = job.train
    most = min(room, job.student.num_workers - 1)
    fits = [n for n in range(1, most + 1) if train.global_batch % (n * train.micro_batch) == 0]
    return max(fits, default=0)


def requests_in_flight(job: Job) -> int:
    """Requests to the teacher at once: each replica has one at work and one waiting."""
    return job.stream.requests_in_flight or 2 * job.teacher.max_replicas + 2


def ongoing_target(job: Job) -> float:
    """Requests a replica that Serve aims at; a full window asks for all replicas there may be."""
    return min(ONGOING_TARGET, FULL_WINDOW * requests_in_flight(job) / job.teacher.max_replicas)


def token_bytes(spec: CodecSpec) -> int:
    """Most bytes that one token has on its way: its id, position and mask, and its soft targets."""
    values = {
        "top_k": 8 * spec.top_k + 4 * len(spec.temperatures),
        "sampled": 5 * spec.draws + 4,
        "hidden": 4 * spec.hidden_size + 4,
        "full": 4 * spec.vocab_size,
        "top_k_hidden": 8 * spec.top_k + 4 * len(spec.temperatures) + 4 * spec.hidden_size + 4,
        "states": 2 * spec.hidden_size * len(spec.state_layers)
        + 2 * sum(width for _, width in spec.attention_widths),
    }
    return 4 + 4 + 1 + 4 + values[spec.codec]


def block_bytes(job: Job, spec: CodecSpec) -> int:
    """Most bytes of a block: one rank's rows of `stream.steps_per_block` steps."""
    rows = job.train.global_batch // job.student.num_workers * job.stream.steps_per_block
    return rows * job.data.sequence_length_tokens * token_bytes(spec)


def object_store_bytes(
    job: Job, spec: CodecSpec, stores: Sequence[float], states: CodecSpec | None = None
) -> int:
    """Most bytes of rows on their way.

    Args:
        job: The job; what it says itself is taken as it is.
        spec: What travels with the rows.
        stores: Bytes of each node's object store.
        states: What travels beside it.

    Returns:
        A quarter of the smallest store. Where a block for each request in flight and two for each
        rank need more, that, but at most half of the smallest store.
    """
    if job.stream.object_store_bytes is not None:
        return job.stream.object_store_bytes
    smallest = min(stores)
    blocks = requests_in_flight(job) + 2 * job.student.num_workers
    few = blocks * (block_bytes(job, spec) + (block_bytes(job, states) if states else 0))
    return int(min(max(smallest / 4, few), smallest / 2))


def phases(job: Job, *, with_teacher: bool = True) -> dict[str, list[Demand]]:
    """What the job holds at the same time, phase by phase.

    The teacher scores the held-out rows before any rank starts; it stays while it is learned from,
    unless all its soft targets are kept first.

    Args:
        job: The job.
        with_teacher: False where all its soft targets are kept already.
    """
    teacher = job.teacher
    absent = job.soft_targets.store_mode == "only" or teacher.endpoint is not None
    if not with_teacher or absent or not teacher.is_asked:
        return {"training": _training(job)}
    if job.soft_targets.store_mode == "fill":
        return {"filling": [replicas(job), *_loading(job)], "training": _training(job)}
    if job.needs_teacher_for_training:
        return {"training": [replicas(job), *_training(job)]}
    return {"scoring": [replicas(job)], "training": _training(job)}


def with_choosing(job: Job, held: dict[str, list[Demand]]) -> dict[str, list[Demand]]:
    """What is held while completions are judged too, where a reward model takes a GPU.

    The teacher that wrote them may still stand: it is asked again for what is learned of them.

    Args:
        job: The job.
        held: What `phases` says.
    """
    scorer = job.generation and job.generation.scorer
    if not scorer or scorer.device != "gpu":
        return held
    runs_here = job.teacher.endpoint is None and job.soft_targets.store_mode != "only"
    beside = [replicas(job)] if runs_here else []
    return {"choosing": [*beside, Demand(REWARD_MODEL, 1, 0.0, 1.0)], **held}


def replicas(job: Job, count: int | None = None) -> Demand:
    """What the teacher holds.

    Args:
        job: The job.
        count: Replicas; None is those that the run begins with, and cannot do without.
    """
    teacher = job.teacher
    shards = teacher.num_shards
    return Demand(
        TEACHER_REPLICAS,
        teacher.first_replicas if count is None else count,
        shards * teacher.cpus_per_shard + REPLICA_CPUS,
        float(shards) if teacher.device == "gpu" else 0.0,
    )


def _training(job: Job) -> list[Demand]:
    student = job.student
    on_gpu = float(student.device == "gpu")
    ranks = Demand("student ranks", student.num_workers, student.cpus_per_worker, on_gpu)
    return [ranks, *_loading(job)]


def _loading(job: Job) -> list[Demand]:
    stream = job.stream
    return [
        Demand("loaders", stream.num_loaders, stream.cpus_per_loader, 0.0),
        Demand("reader", 1, READ_CPUS, 0.0),
    ]
