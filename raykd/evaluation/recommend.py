"""From what a probe measured to what to write into the job. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from raykd.evaluation.probe_data import CodecFound, Recommended, TeacherFound

LEAST_COSINE: Final = 0.95
"""Below, a codec's own error is more than a tenth of the gradient's square."""
MOST_BIAS: Final = 0.01
NARROW_ENTROPY: Final = 0.5
"""Nats: below, the teacher says little beside its first choice."""


def recommend(
    codecs: Sequence[CodecFound],
    teacher: TeacherFound,
    teacher_tokens_per_s: float,
    student_tokens_per_s: float,
    num_workers: int,
) -> Recommended:
    """Choose codec, temperature and the number of teacher replicas.

    Args:
        codecs: What was measured; at least one serves the loss.
        teacher: How sure the teacher is.
        teacher_tokens_per_s: One replica.
        student_tokens_per_s: One rank.
        num_workers: Ranks of the student.
    """
    chosen, codec_reason = _codec([one for one in codecs if one.refused is None])
    temperature, temperature_reason = _temperature(teacher)
    wanted = num_workers * student_tokens_per_s
    replicas = max(1, math.ceil(wanted / teacher_tokens_per_s - 0.1))
    return Recommended(
        settings=chosen.settings,
        codec_reason=codec_reason,
        temperature=temperature,
        temperature_reason=temperature_reason,
        replicas=replicas,
        split_reason=f"{num_workers} student ranks x {student_tokens_per_s:,.0f} tokens/s = "
        f"{wanted:,.0f}; a replica scores {teacher_tokens_per_s:,.0f} tokens/s; so "
        f"{wanted / teacher_tokens_per_s:.2f} replicas keep the student busy",
    )


def _codec(codecs: Sequence[CodecFound]) -> tuple[CodecFound, str]:
    true = [c for c in codecs if c.cosine >= LEAST_COSINE and abs(c.bias) <= MOST_BIAS]
    rule = f"cosine >= {LEAST_COSINE:g} and bias within {MOST_BIAS:.0%}"
    if true:
        best = min(true, key=lambda one: one.rest_bytes)
        return best, (
            f"of {len(true)} with {rule} it takes the fewest bytes at rest: {best.rest_bytes:,.0f} "
            f"a token (cosine {best.cosine:.4f}, bias {best.bias:+.2%})"
        )
    best = max(codecs, key=lambda one: one.cosine)
    return best, f"none has {rule}; it is the nearest (cosine {best.cosine:.4f})"


def _temperature(teacher: TeacherFound) -> tuple[float, str]:
    if teacher.entropy_mean < NARROW_ENTROPY:
        return 2.0, (
            f"the teacher's mean entropy of {teacher.entropy_mean:.2f} nats is below "
            f"{NARROW_ENTROPY:g}: it says little beside its first choice unless softened"
        )
    return 1.0, (
        f"the teacher's mean entropy is {teacher.entropy_mean:.2f} nats: its own distribution says "
        "enough, and needs no softening"
    )
