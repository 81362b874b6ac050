"""Whether a job finds its place on a cluster's node types: labels, sizes, numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raykd.clusters.finding import Finding, fix
from raykd.clusters.hardware import Hardware, NodeType
from raykd.config.job import Job

SUBJECT = "fit"


@dataclass(frozen=True)
class Part:
    """A part of a job that lies on nodes.

    Attributes:
        name: What it is.
        field: The section of the job that asks for it.
        labels: Node labels that its nodes must carry.
        count: How many there are.
        cpus: CPUs of each, which one node has to have.
        gpus: GPUs of each, which one node has to have.
    """

    name: str
    field: str
    labels: Mapping[str, str]
    count: int
    cpus: float
    gpus: int


def parts_of(job: Job) -> list[Part]:
    """Ranks, first replicas and loaders of a job."""
    teacher, student = job.teacher, job.student
    shards = teacher.tensor_parallel
    parts = [
        Part(
            "rank",
            "student",
            student.labels,
            student.num_workers,
            student.cpus_per_worker,
            int(student.device == "gpu"),
        ),
        Part(
            "loader",
            "stream",
            # A job without the field places loaders anywhere.
            job.stream.labels,
            1,
            job.stream.cpus_per_loader,
            0,
        ),
    ]
    if job.needs_teacher_for_training:
        parts.append(
            Part(
                "teacher replica" if teacher.pipeline_parallel == 1 else "stage of the teacher",
                "teacher",
                teacher.labels,
                teacher.first_replicas * teacher.pipeline_parallel,
                shards * teacher.cpus_per_shard,
                shards * int(teacher.device == "gpu"),
            )
        )
    return parts


def fit_findings(job: Job, hardware: Hardware) -> Iterator[Finding]:
    """Each part on its own: is there a node type for it, and enough nodes of them?

    How parts share nodes is `raykd plan`'s to say.
    """
    for part in parts_of(job):
        carrying = [each for each in hardware.node_types if _carries(each, part.labels)]
        if not carrying:
            yield fix(SUBJECT, f"{part.field}.labels: {_no_label(part, hardware)}")
            continue
        room = sum(_room(each, part) * each.max_nodes for each in carrying)
        needs = f"{part.cpus:g} CPUs" + (f" and {part.gpus} GPUs" if part.gpus else "")
        if not room:
            have = "; ".join(f"{each.name} {each.cpus:g} and {each.gpus}" for each in carrying)
            whose = "nodes with its labels" if part.labels else "nodes"
            yield fix(
                SUBJECT,
                f"{part.field}: a {part.name} needs {needs} on one node; "
                f"{whose} have (CPUs and GPUs) {have}",
            )
        elif room < part.count:
            yield fix(
                SUBJECT,
                f"{part.field}: {part.count} x {part.name} of {needs}; at most {room} find room on "
                f"{', '.join(each.name for each in carrying)}: raise their maximum",
            )


def _carries(node_type: NodeType, labels: Mapping[str, str]) -> bool:
    return labels.items() <= node_type.labels.items()


def _room(node_type: NodeType, part: Part) -> int:
    """How many of a part one node of a type has room for."""
    by_cpus = int(node_type.cpus / part.cpus + 1e-9) if part.cpus else part.count
    return min(by_cpus, node_type.gpus // part.gpus) if part.gpus else by_cpus


def _no_label(part: Part, hardware: Hardware) -> str:
    wanted = ", ".join(f"{key}: {value}" for key, value in part.labels.items())
    keys = part.labels.keys()
    have = sorted(
        {
            f"{key}: {value}"
            for each in hardware.node_types
            for key, value in each.labels.items()
            if key in keys
        }
    )
    return f"no node type carries {wanted}; there is {', '.join(have) or 'none of these labels'}"
