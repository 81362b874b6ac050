"""Rates and shares over steps; pure arithmetic.

Time is the sum of the steps' own seconds: from the first step's start to the last one's end, less
the time that the run was down or did something else between steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.telemetry.metrics import StepMetrics

RECENT_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Some steps in one line. Shares lie in 0 to 1; None where there is nothing to divide by."""

    num_steps: int
    num_rows: int
    tokens: int
    """Tokens learned from."""
    tokens_seen: int
    """All tokens through the student, with prompts and padding."""
    seconds: float
    tokens_per_s: float | None
    """Tokens seen by the student over all its seconds, waiting included."""
    wait_share: float | None
    """Share of the student's seconds spent waiting for soft targets."""
    teacher_tokens_per_s: float | None
    """What all replicas together do while they are busy."""
    teacher_busy_share: float | None
    """Busy seconds over the seconds that the replicas had."""
    teacher_held_back_share: float | None
    """The rest: the replicas were ready, and the student was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """A few steps next to each other, as one point of a plot."""

    step: int
    """The last of them."""
    elapsed_s: float
    """Seconds of training at their end."""
    loss: float
    divergence: float | None
    cross_entropy: float
    tokens_per_s: float | None
    wait_share: float | None
    teacher_tokens_per_s: float | None
    teacher_busy_share: float | None
    teacher_held_back_share: float | None


def summarize(metrics: Sequence[StepMetrics], replicas: float) -> Summary:
    """Sum up some steps.

    Args:
        metrics: The steps, in order; may be empty.
        replicas: Teacher replicas; 0 where no teacher runs.
    """
    seconds = sum(m.seconds for m in metrics)
    tokens_seen = sum(m.tokens_seen for m in metrics)
    busy = _teacher_busy_share(metrics, replicas)
    return Summary(
        num_steps=len(metrics),
        num_rows=sum(m.row_end - m.row_start for m in metrics),
        tokens=sum(m.tokens for m in metrics),
        tokens_seen=tokens_seen,
        seconds=seconds,
        tokens_per_s=_ratio(tokens_seen, seconds),
        wait_share=_share(sum(m.wait_s for m in metrics), seconds),
        teacher_tokens_per_s=_teacher_tokens_per_s(metrics, replicas),
        teacher_busy_share=busy,
        teacher_held_back_share=None if busy is None else 1.0 - busy,
    )


def summarize_recent(
    metrics: Sequence[StepMetrics], replicas: float, window: int = RECENT_STEPS
) -> Summary:
    """Sum up the last `window` steps."""
    return summarize(metrics[-window:], replicas)


def eta_s(
    metrics: Sequence[StepMetrics], total_steps: int, window: int = RECENT_STEPS
) -> float | None:
    """Seconds until `total_steps` at the recent pace; None before the first step.

    The first of several steps is left out: it fills the pipeline.
    """
    recent = metrics[1:][-window:] or metrics
    if not recent:
        return None
    pace = sum(m.seconds for m in recent) / len(recent)
    return pace * max(total_steps - recent[-1].step, 0)


def time_series(
    metrics: Sequence[StepMetrics], replicas: float, max_points: int = 60
) -> list[SeriesPoint]:
    """The run as at most `max_points` points, each over a like number of steps.

    Losses are means over the learned tokens of their steps.
    """
    num_points = min(len(metrics), max_points)
    points: list[SeriesPoint] = []
    elapsed = 0.0
    for i in range(num_points):
        part = metrics[i * len(metrics) // num_points : (i + 1) * len(metrics) // num_points]
        elapsed += sum(m.seconds for m in part)
        points.append(_point(part, replicas, elapsed))
    return points


def _point(part: Sequence[StepMetrics], replicas: float, elapsed_s: float) -> SeriesPoint:
    rates = summarize(part, replicas)
    divergence = [(m.divergence, m.tokens) for m in part if m.divergence is not None]
    return SeriesPoint(
        step=part[-1].step,
        elapsed_s=elapsed_s,
        loss=_mean([(m.loss, m.tokens) for m in part]),
        divergence=_mean(divergence) if divergence else None,
        cross_entropy=_mean([(m.cross_entropy, m.tokens) for m in part]),
        tokens_per_s=rates.tokens_per_s,
        wait_share=rates.wait_share,
        teacher_tokens_per_s=rates.teacher_tokens_per_s,
        teacher_busy_share=rates.teacher_busy_share,
        teacher_held_back_share=rates.teacher_held_back_share,
    )


def _teacher_tokens_per_s(metrics: Sequence[StepMetrics], replicas: float) -> float | None:
    """Steps that the teacher had no part in (their targets were kept from before) do not count."""
    asked = [m for m in metrics if m.teacher_s > 0]
    rate = _ratio(sum(m.tokens_seen for m in asked), sum(m.teacher_s for m in asked))
    return None if rate is None or replicas == 0 else rate * replicas


def _teacher_busy_share(metrics: Sequence[StepMetrics], replicas: float) -> float | None:
    """None where the teacher was never asked: idle is not held back."""
    busy_s = sum(m.teacher_s for m in metrics)
    if busy_s == 0:
        return None
    return _share(busy_s, replicas * sum(m.seconds for m in metrics))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _share(part: float, whole: float) -> float | None:
    """The teacher works ahead, before a window's first step too: its share can come out above 1."""
    ratio = _ratio(part, whole)
    return None if ratio is None else min(max(ratio, 0.0), 1.0)


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    total = sum(weight for _, weight in weighted)
    if total == 0:
        return sum(value for value, _ in weighted) / len(weighted)
    return sum(value * weight for value, weight in weighted) / total
