"""Which soft targets a job asks its teacher for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykd.config.job import Job
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from raykd.pipeline.stages import Models


def training_spec(job: Job, models: Models) -> CodecSpec:
    """What the student learns from; `codec: auto` has been decided by now, unless none is used."""
    asked = job.soft_targets
    return CodecSpec(
        codec="top_k" if asked.codec == "auto" else asked.codec,
        vocab_size=models.vocab_size,
        temperatures=job.temperatures,
        top_k=asked.top_k,
        values=asked.width,
        tail=asked.tail,
        draws=asked.draws,
        proposal_temperature=asked.proposal_temperature,
        hidden_values=asked.hidden_values,
        hidden_size=models.teacher_hidden_size,
        seed=job.seed,
        fingerprint=_teacher(job, models),
    )


def heldout_spec(job: Job, models: Models) -> CodecSpec:
    """What students are measured against: the likeliest ids at temperature 1, in full width."""
    return CodecSpec(
        codec="top_k",
        vocab_size=models.vocab_size,
        top_k=job.evaluation.top_k,
        values="fp32",
        fingerprint=_teacher(job, models),
    )


def hidden_spec(job: Job, models: Models) -> CodecSpec:
    """What a probe asks: the teacher's hidden states as they are, every other codec follows."""
    return CodecSpec(
        codec="hidden",
        vocab_size=models.vocab_size,
        temperatures=job.temperatures,
        hidden_values=job.teacher.dtype,
        hidden_size=models.teacher_hidden_size,
        seed=job.seed,
        fingerprint=_teacher(job, models),
    )


def _teacher(job: Job, models: Models) -> str:
    return f"{models.teacher_identity}:{job.teacher.dtype}"
