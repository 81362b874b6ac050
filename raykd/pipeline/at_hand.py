"""Which weights of a job are here: an endpoint keeps its own, and may tell likely tokens."""

from __future__ import annotations

import hashlib
import json

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


def targets_identity(job: Job, teacher_identity: str) -> str:
    """Whose soft targets a job learns from, and how they are computed.

    Args:
        job: The run's.
        teacher_identity: Of the weights, or of the endpoint (`behind_endpoint.teacher_identity`).
    """
    if not job.targets_are_given:
        return f"{teacher_identity}:{job.teacher.dtype}"
    assert job.generation is not None, "given targets are of generated text"
    # What only the teacher was told changes what it says of the same text.
    told = job.generation.model_dump(
        mode="json", include={"sampling", "system_prompt", "examples", "reasoning"}
    )
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{job.teacher.engine}:{job.teacher.model}@{teacher_identity}:{digest[:16]}"
