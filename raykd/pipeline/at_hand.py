"""Which weights of a job are here: an endpoint gives text, and keeps its own."""

from __future__ import annotations

from raykd.config.job import Job
from raykd.config.model import ModelConfig
from raykd.config.student import FromPretrained


def weights_at_hand(job: Job) -> tuple[ModelConfig, str]:
    """Whose tokenizer and configuration stand for the teacher's, and the section that names them.

    What a teacher behind an endpoint writes, the student reads with its own tokenizer.
    """
    if job.teacher.endpoint is None:
        return job.teacher, "teacher"
    init = job.student.init
    assert isinstance(init, FromPretrained), "with an endpoint the student has weights of its own"
    return init, "student.init"


def in_words(job: Job) -> str:
    """Where a teacher behind an endpoint is."""
    endpoint = job.teacher.endpoint
    assert endpoint is not None
    return f"{job.teacher.model} at {endpoint.base_url}"
