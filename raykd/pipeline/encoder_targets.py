"""What of a classifier's teacher, and of its labels, goes with its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from raykd.config.job import Job
from raykd.data.gold import GoldOf
from raykd.models.masking import SCHEME
from raykd.soft_targets.spec import TOP_K_HIDDEN, CodecSpec

if TYPE_CHECKING:
    from raykd.pipeline.models import Models

_WITHOUT_GOLD: Final = ("embedding", "masked")


def outputs_spec(job: Job, models: Models) -> CodecSpec:
    """How the teacher's outputs travel: one vector a learned position, in full width.

    Of a masked token its distribution, by the job's codec, and the hidden state where that is
    learned from too.
    """
    encoder = models.encoder
    assert encoder is not None, "the models of a classifier were found"
    if encoder.masking is not None:
        return _masked_spec(job, models)
    facts = (encoder.task, encoder.pooling, encoder.with_hidden)
    return CodecSpec(
        codec="hidden",
        vocab_size=models.vocab_size,
        hidden_values="fp32",
        hidden_size=models.teacher_hidden_size,
        fingerprint=f"{models.teacher_identity}:{job.teacher.dtype}:{facts}",
    )


def measured_spec(job: Job, models: Models) -> CodecSpec:
    """What students are measured against: the outputs, of masked tokens the likeliest ids."""
    encoder = models.encoder
    assert encoder is not None, "the models of a classifier were found"
    if encoder.masking is None:
        return outputs_spec(job, models)
    return CodecSpec(
        codec="top_k",
        vocab_size=models.vocab_size,
        top_k=_top_k(job, job.evaluation.top_k, models),
        values="fp32",
        fingerprint=_of_masked(job, models),
    )


def _masked_spec(job: Job, models: Models) -> CodecSpec:
    asked, encoder = job.soft_targets, models.encoder
    assert encoder is not None, "the models of a classifier were found"
    return CodecSpec(
        codec=TOP_K_HIDDEN if encoder.with_hidden else asked.codec,
        vocab_size=models.vocab_size,
        temperatures=job.temperatures,
        top_k=_top_k(job, asked.top_k, models),
        values=asked.width,
        tail=asked.tail,
        hidden_size=models.teacher_hidden_size,
        fingerprint=_of_masked(job, models),
    )


def _top_k(job: Job, top_k: int, models: Models) -> int:
    """What the job says; without a teacher nothing travels, and a small vocabulary is fine."""
    return top_k if job.teacher.is_asked else min(top_k, models.vocab_size)


def _of_masked(job: Job, models: Models) -> str:
    """The teacher, and how masked text is shown to it."""
    assert models.encoder is not None, "the models of a classifier were found"
    return f"{models.teacher_identity}:{job.teacher.dtype}:{SCHEME}:{models.encoder.masking}"


def gold_of(job: Job, rows: Path) -> GoldOf | None:
    """What is known of a set's rows; None where nothing is learned of it."""
    section = job.classifier
    return None if section is None or section.task in _WITHOUT_GOLD else GoldOf(rows)
