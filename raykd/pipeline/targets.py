"""Which soft targets a job asks its teacher for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykd.config.job import Job
from raykd.pipeline.at_hand import targets_identity
from raykd.pipeline.encoder_targets import measured_spec, outputs_spec
from raykd.pipeline.mixture import slices_identity
from raykd.soft_targets.spec import STATES, CodecSpec

if TYPE_CHECKING:
    from raykd.pipeline.models import Models


def training_spec(job: Job, models: Models) -> CodecSpec:
    """What the student learns from; `codec: auto` has been decided by now, unless none is used."""
    if models.encoder is not None:
        return outputs_spec(job, models)
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


def states_spec(job: Job, models: Models) -> CodecSpec | None:
    """The teacher's inner states that the student learns from; None where it learns from none."""
    if (alignment := models.alignment) is None:
        return None
    teacher = alignment.teacher
    return CodecSpec(
        codec=STATES,
        vocab_size=models.vocab_size,
        hidden_size=teacher.hidden_size if alignment.hidden else 0,
        state_layers=alignment.teacher_layers,
        attention_layer=alignment.last[1] if alignment.relations else None,
        attention_widths=tuple((name, teacher.width(name)) for name in alignment.relations),
        fingerprint=_teacher(job, models),
    )


def heldout_spec(job: Job, models: Models) -> CodecSpec:
    """What students are measured against: the likeliest ids at temperature 1, in full width.

    A classifier is measured against the outputs that it learns from.
    """
    if models.encoder is not None:
        return measured_spec(job, models)
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
    return slices_identity(targets_identity(job, models.teacher_identity), models.of_slices)
