"""What a report holds, and the parts of it that come from the metrics file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from raykd.evaluation.inspection_data import Inspection
from raykd.evaluation.report_part import ReportPart
from raykd.telemetry.metrics import StepMetrics
from raykd.telemetry.progress import StageTime
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import SeriesPoint, summarize, time_series

TEACHER, UNTRAINED, STUDENT = "teacher", "untrained", "student"


class ModelFacts(ReportPart):
    """One model's size."""

    name: str
    parameters: int
    bytes: int
    """Of its weights, at their dtype."""
    dtype: str


class ModelScores(ReportPart):
    """One model on one set of rows."""

    perplexity: float | None = None
    """None of a classifier."""
    kl_to_teacher: float | None = None
    """Nats a token, over the teacher's top-k ids and one bucket for all others; of a classifier,
    over its labels."""
    top1_agreement: float | None = None
    """Share of tokens, 0 to 1, where it puts the same id first as the teacher."""
    tokens_per_s: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    """A classifier's figures by name (`evaluation.label_metrics`)."""


class SetScores(ReportPart):
    """All models on one set of rows."""

    rows: int
    tokens: int
    """Tokens that the scores are means over."""
    top_k: int
    models: dict[str, ModelScores]
    """By role: `teacher`, `untrained`, `student`."""
    task: str | None = None
    """Of a classifier, as in the job."""


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


class Paid(ReportPart):
    """What a run paid its endpoint, over all its resumptions."""

    endpoint: str
    """The model and its address."""
    answers: int
    lost: int
    """Requests whose answer did not arrive whole, and that may have been charged."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    """By the job's prices, lost requests with the most they can cost; 0 without prices."""


class Generated(ReportPart):
    """Text that the teacher wrote, and what became of it."""

    prompts: int
    completions: int
    kept: int
    """Completions that are learned from, or held out."""
    dropped: dict[str, int]
    """Completions by the filter that dropped them, in the order of the filters."""
    completion_tokens: int
    """Of all completions, in the teacher's tokens."""
    paid: Paid | None = None
    """None where the teacher is not behind an endpoint."""


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
    inspections: dict[str, Inspection] = Field(default_factory=dict)
    """By set, what `raykd eval` looked into beyond the scores."""
    generated: Generated | None = None
    """None where the corpus's own text was learned from."""
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
