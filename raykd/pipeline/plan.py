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


def demands(job: Job) -> list[Demand]:
    """What teacher, student and loaders hold at the same time."""
    teacher, student = job.teacher, job.student
    parts = [
        Demand(
            "student ranks",
            student.num_workers,
            student.cpus_per_worker,
            1.0 if student.device == "gpu" else 0.0,
        ),
        Demand(
            "loaders",
            job.stream.num_loaders,
            job.stream.cpus_per_loader + READ_CPUS / job.stream.num_loaders,
            0.0,
        ),
    ]
    if not job.needs_teacher_for_training:
        return parts
    shards = teacher.tensor_parallel
    replica = Demand(
        "teacher replicas",
        teacher.replicas,
        shards * teacher.cpus_per_shard + REPLICA_CPUS,
        float(shards) if teacher.device == "gpu" else 0.0,
    )
    return [replica, *parts]
