"""What a report holds, and the parts of it that come from the metrics file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ConfigDict, Field

from raykd.config.section import Section
from raykd.telemetry.metrics import StepMetrics
from raykd.telemetry.progress import StageTime
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import SeriesPoint, summarize, time_series

TEACHER, UNTRAINED, STUDENT = "teacher", "untrained", "student"


class ReportPart(Section):
    """JSON has no infinity: it is written as the text `Infinity`, and read back."""

    model_config = ConfigDict(ser_json_inf_nan="strings", allow_inf_nan=True)


class ModelFacts(ReportPart):
    """One model's size."""

    name: str
    parameters: int
    bytes: int
    """Of its weights, at their dtype."""
    dtype: str


class ModelScores(ReportPart):
    """One model on one set of rows."""

    perplexity: float
    kl_to_teacher: float | None = None
    """Nats a token, over the teacher's top-k ids and one bucket for all others."""
    top1_agreement: float | None = None
    """Share of tokens, 0 to 1, where it puts the same id first as the teacher."""
    tokens_per_s: float | None = None


class SetScores(ReportPart):
    """All models on one set of rows."""

    rows: int
    tokens: int
    """Tokens that the scores are means over."""
    top_k: int
    models: dict[str, ModelScores]
    """By role: `teacher`, `untrained`, `student`."""


class TrainingTotals(ReportPart):
    """The training in one line; see `telemetry.summary.Summary`."""

    steps: int
    rows: int
    tokens: int
    """Tokens learned from."""
    tokens_seen: int
    """All tokens through the student, with prompts and padding."""
    seconds: float
    tokens_per_s: float | None
    wait_share: float | None
    teacher_busy_share: float | None
    teacher_held_back_share: float | None
    teacher_tokens_per_s: float | None
    replicas: float
    final_loss: float | None


class HeldoutPoint(ReportPart):
    """What was measured on the held-out rows after a step; step 0 is before training."""

    step: int
    kl: float
    top1_agreement: float
    perplexity: float


class Report(ReportPart):
    """A run, told."""

    raykd_version: str
    name: str
    job: dict[str, Any]
    """The resolved job."""
    started: str
    """ISO 8601, with its time zone."""
    finished: str
    hardware: dict[str, Any]
    data: dict[str, dict[str, Any]]
    """By set: packing statistics; `sentence` tells them in words."""
    models: dict[str, ModelFacts]
    """By role: `teacher`, `untrained`, `student`."""
    evaluation: dict[str, SetScores]
    """By set; the first is the one of the headline."""
    training: TrainingTotals | None = None
    """None where nothing was trained."""
    curve: list[SeriesPoint] = Field(default_factory=list)
    """The training over time, in few points."""
    heldout_curve: list[HeldoutPoint] = Field(default_factory=list)
    teacher: list[ReplicaSample] = Field(default_factory=list)
    """Replicas and queue over the time that it was watched, in few samples."""
    stages: list[StageTime] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


def training_totals(metrics: Sequence[StepMetrics], replicas: float) -> TrainingTotals:
    """Sum up a whole training.

    Args:
        metrics: All its steps.
        replicas: Teacher replicas, on average; 0 where no teacher ran.
    """
    total = summarize(metrics, replicas)
    return TrainingTotals(
        steps=total.num_steps,
        rows=total.num_rows,
        tokens=total.tokens,
        tokens_seen=total.tokens_seen,
        seconds=total.seconds,
        tokens_per_s=total.tokens_per_s,
        wait_share=total.wait_share,
        teacher_busy_share=total.teacher_busy_share,
        teacher_held_back_share=total.teacher_held_back_share,
        teacher_tokens_per_s=total.teacher_tokens_per_s,
        replicas=replicas,
        final_loss=metrics[-1].loss if metrics else None,
    )


def training_curve(metrics: Sequence[StepMetrics], replicas: float) -> list[SeriesPoint]:
    """The training as at most 60 points."""
    return time_series(metrics, replicas)


def heldout_curve(metrics: Sequence[StepMetrics]) -> list[HeldoutPoint]:
    """The steps at which the held-out rows were measured."""
    return [
        HeldoutPoint(
            step=step.step,
            kl=step.heldout.kl,
            top1_agreement=step.heldout.top1_agreement,
            perplexity=step.heldout.perplexity,
        )
        for step in metrics
        if step.heldout is not None
    ]
