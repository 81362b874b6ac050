"""What `raykd eval` looked into on one set of rows: plain data, part of the report."""

from __future__ import annotations

from pydantic import Field

from raykd.evaluation.drift_data import Drift
from raykd.evaluation.report_part import ReportPart


class CalibrationBin(ReportPart):
    """Next-token predictions whose confidence lies in (low, high]."""

    low: float
    high: float
    tokens: int
    confidence: float | None
    """Mean probability of the likeliest id; None in an empty bin."""
    accuracy: float | None
    """Share of tokens where the likeliest id is the one that follows."""


class Calibration(ReportPart):
    """How far a model's confidence in its likeliest next token is the share it is right."""

    ece: float
    """Expected calibration error: mean over tokens of |accuracy - confidence| of the bin."""
    confidence: float
    accuracy: float
    bins: list[CalibrationBin]


class SliceScores(ReportPart):
    """The student, and what its teacher does, on the rows of one value."""

    value: str
    rows: int
    tokens: int
    perplexity: float
    accuracy: float
    """Share of tokens where the student's likeliest id is the one that follows."""
    teacher_perplexity: float | None = None
    teacher_accuracy: float | None = None
    kl_to_teacher: float | None = None
    top1_agreement: float | None = None


class SliceTable(ReportPart):
    """Rows divided by one property."""

    by: str
    slices: list[SliceScores]


class NextToken(ReportPart):
    """A token that a model thinks may follow."""

    text: str
    probability: float


class WorstRow(ReportPart):
    """A row where the student is far from its teacher, at the token where it is farthest."""

    place: str
    tokens: int
    kl_to_teacher: float
    """Mean over the row's tokens."""
    kl_there: float
    """At the token shown."""
    before: str | None = None
    """The end of what both models had read there; None where texts are left out."""
    follows: str | None = None
    """The token that really follows."""
    teacher_next: list[NextToken] = Field(default_factory=list)
    student_next: list[NextToken] = Field(default_factory=list)
    teacher_goes_on: str | None = None
    """What it writes from there, always its likeliest token; None where it was not loaded whole."""
    student_goes_on: str | None = None


class BatchCost(ReportPart):
    """What a bare model takes, without a service, at one batch size."""

    batch: int
    prompt_tokens: int
    """Of each prompt."""
    new_tokens: int
    """Written after each prompt."""
    read_tokens_per_s: float
    """Prompt tokens of the batch by the time of one forward pass over them."""
    written_tokens_per_s: float
    """New tokens of the batch by the whole time, reading the prompts included."""
    peak_bytes: int
    """The most that torch held at once, weights included."""


class Kept(ReportPart):
    """What is left of the teacher's quality, and at what cost."""

    accuracy_kept: float | None = None
    """The student's next-token accuracy by the teacher's; of a classifier, its accuracy."""
    metric_kept: float | None = None
    """Of a classifier: the student's first figure by the teacher's."""
    gap_closed: float | None = None
    """(untrained - student) / (untrained - teacher), of the mean negative log-likelihoods."""
    cost_ratio: float | None = None
    """Time of a written token at the larger batch: the student's by the teacher's, one device."""


class TaskMetric(ReportPart):
    """One metric of one task of `lm-eval`."""

    task: str
    metric: str
    scores: dict[str, float]
    """By role."""


class GateResult(ReportPart):
    """A limit that the student had to keep."""

    key: str
    limit: float
    at_least: bool
    """Whether the limit is the least allowed; else it is the most."""
    value: float | None
    """None where it was not measured."""

    @property
    def held(self) -> bool:
        """Whether the value was measured and keeps the limit."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Inspection(ReportPart):
    """One set of rows, looked into."""

    calibration: dict[str, Calibration] = Field(default_factory=dict)
    """By role."""
    slices: list[SliceTable] = Field(default_factory=list)
    worst: list[WorstRow] = Field(default_factory=list)
    costs: dict[str, list[BatchCost]] = Field(default_factory=dict)
    """By role, batch 1 first."""
    kept: Kept | None = None
    drift: Drift | None = None
    tasks: list[TaskMetric] = Field(default_factory=list)
    gates: list[GateResult] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
