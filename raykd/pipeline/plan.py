"""Numbers that follow from a job: steps, requests, resources. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raykd.config.job import Job
from raykd.config.reservations import READ_CPUS, REPLICA_CPUS


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


def requests_in_flight(job: Job) -> int:
    """Requests to the teacher at once: each replica has one at work and one waiting."""
    return job.stream.requests_in_flight or 2 * job.teacher.replicas + 2


def phases(job: Job) -> dict[str, list[Demand]]:
    """What the job holds at the same time, phase by phase.

    The teacher scores the held-out rows before any rank starts; it stays while it is learned from.
    """
    if job.needs_teacher_for_training:
        return {"training": [replicas(job), *_training(job)]}
    return {"scoring": [replicas(job)], "training": _training(job)}


def replicas(job: Job) -> Demand:
    """What the teacher holds."""
    teacher = job.teacher
    shards = teacher.tensor_parallel
    return Demand(
        "teacher replicas",
        teacher.replicas,
        shards * teacher.cpus_per_shard + REPLICA_CPUS,
        float(shards) if teacher.device == "gpu" else 0.0,
    )


def _training(job: Job) -> list[Demand]:
    student, stream = job.student, job.stream
    on_gpu = student.device == "gpu"
    return [
        Demand("student ranks", student.num_workers, student.cpus_per_worker, float(on_gpu)),
        Demand("loaders", stream.num_loaders, stream.cpus_per_loader, 0.0),
        Demand("reader", 1, READ_CPUS, 0.0),
    ]
