"""What a job asks the cluster to place, piece by piece, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raykd.config.job import Job
from raykd.pipeline.plan import TEACHER_REPLICAS, Demand, phases, replicas

MILLI = 10_000
"""Ray counts resources in ten-thousandths; whole numbers of these never round."""
ONE_OFF = "one-off task"
STUDENT_RANKS = "student ranks"


@dataclass(frozen=True)
class Piece:
    """Equal things that each need room on one node.

    Attributes:
        part: What they are.
        count: How many.
        cpus: Ten-thousandths of a CPU of each.
        gpus: GPUs of each.
        labels: What a node must carry to hold one.
    """

    part: str
    count: int
    cpus: int
    gpus: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def times(self, count: int) -> Piece:
        """As many others of the kind."""
        return Piece(self.part, count, self.cpus, self.gpus, self.labels)


def pieces(job: Job) -> dict[str, list[Piece]]:
    """What is held together, phase by phase.

    The shards of a replica share a node (their placement group is STRICT_PACK), so that a replica
    is one piece; ranks (PACK), loaders and tasks may each lie anywhere that their labels allow.
    """
    before = {"before": [Piece(ONE_OFF, 1, MILLI, 0, job.stream.labels)]}
    if job.generation is not None and job.teacher.endpoint is None:
        # Prompts and completions go through a task that reserves nothing.
        before["writing"] = [_piece(job, replicas(job))]
    found = {
        name: [_piece(job, demand) for demand in demands] for name, demands in phases(job).items()
    }
    return {**before, **found}


def _piece(job: Job, demand: Demand) -> Piece:
    labels = job.stream.labels
    if demand.part == TEACHER_REPLICAS:
        labels = job.teacher.labels
    elif demand.part == STUDENT_RANKS:
        labels = job.student.labels
    return Piece(
        demand.part,
        demand.count,
        round(demand.cpus_each * MILLI),
        round(demand.gpus_each),
        dict(labels),
    )
