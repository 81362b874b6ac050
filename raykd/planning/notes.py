"""What a plan says in words: what it assumes, leaves out, or cannot know."""

from __future__ import annotations

from raykd.clusters.hardware import ROLE_LABEL, Hardware
from raykd.config.job import Job
from raykd.pipeline.at_hand import in_words
from raykd.pipeline.plan import requests_in_flight
from raykd.planning.fitting import Fitting


def notes(job: Job, hardware: Hardware | None, fitting: Fitting) -> list[str]:
    """What a person should know beside the figures.

    Args:
        job: The job.
        hardware: The cluster; None for one's own.
        fitting: Where everything lies.
    """
    found = [_teacher_note(job)]
    if hardware is None:
        found.append(
            "no cluster file: demands and memory only; nothing is placed, and money is left out"
        )
    if any(line.have_bytes is None and line.place == "gpu" for line in fitting.memory):
        found.append(
            "memory of a GPU that is not in the table is not judged: name it with --accelerator, "
            "or add it with --accelerators FILE"
        )
    found += _unpinned(job, hardware)
    if job.generation is not None and job.teacher.endpoint is None:
        found.append(
            "generation: every completion is reckoned as long as sampling.max_new_tokens lets it "
            "be; reading the prompts is not counted, and what is kept already is not asked again"
        )
    if job.soft_targets.codec == "auto":
        found.append("soft_targets.codec: auto is reckoned as top_k 64 int8 until a probe decides")
    asks = job.needs_teacher_for_training
    if asks and job.soft_targets.store_mode == "use" and job.train.epochs > 1:
        found.append("epochs after the first read kept soft targets: no teacher is waited for")
    found += [
        f"{each.name} is spot: what it takes to start again after a preemption is not counted"
        for each in (hardware.node_types if hardware else ())
        if each.spot and fitting.layout is not None and fitting.layout.used(each.name)
    ]
    return found


def _teacher_note(job: Job) -> str:
    if not job.teacher.is_asked:
        return "no teacher is asked (teacher.engine: none): its model lends its tokenizer"
    if job.teacher.endpoint is None:
        return f"requests to the teacher in flight: {requests_in_flight(job)}"
    return (
        f"the teacher, {in_words(job)}, is not planned: it holds nothing here, and how fast it "
        "writes is its provider's"
    )


def is_placed(job: Job) -> bool:
    """Whether the teacher lies anywhere here."""
    return job.teacher.is_asked and job.teacher.endpoint is None


def _unpinned(job: Job, hardware: Hardware | None) -> list[str]:
    """Parts without labels on a cluster that has roles: Ray places them as it likes."""
    roles = {each.role for each in hardware.node_types} if hardware else set()
    return [
        f"{side}.labels is empty: Ray may put it on other nodes than shown; "
        f"--set {side}.labels='{{{ROLE_LABEL}: {side}}}' pins it"
        for side, labels in (("teacher", job.teacher.labels), ("student", job.student.labels))
        if not labels and side in roles and (side == "student" or is_placed(job))
    ]
