"""What `raykd eval` looked into on one set of rows: plain data, part of the report."""

from __future__ import annotations

from pydantic import Field

from raykd.evaluation.drift_data import Drift
from raykd.evaluation.report_part import ReportPart


class CalibrationBin(ReportPart):
    """Predictions whose confidence lies in (low, high]: next tokens, or a classifier's labels."""

    low: float
    high: float
    tokens: int
    """Predictions in it; of a classifier texts, words, or labels of texts."""
    confidence: float | None
    """Mean probability of what is predicted; None in an empty bin."""
    accuracy: float | None
    """Share of predictions that are right."""


class Calibration(ReportPart):
    """How far a model's confidence in what it predicts is the share it is right."""

    ece: float
    """Expected calibration error: mean over predictions of |accuracy - confidence| of the bin."""
    confidence: float
    accuracy: float
    bins: list[CalibrationBin]


class SliceScores(ReportPart):
    """The student, and what its teacher does, on the rows of one value."""

    value: str
    rows: int
    tokens: int
    """That the figures are means over; of a classifier texts or words."""
    perplexity: float | None = None
    accuracy: float | None = None
    """Share of tokens whose likeliest id follows; of texts or words with a gold label that are
    right."""
    mse: float | None = None
    """Of numbers, to the gold ones."""
    teacher_perplexity: float | None = None
    teacher_accuracy: float | None = None
    teacher_mse: float | None = None
    kl_to_teacher: float | None = None
    top1_agreement: float | None = None
    mse_to_teacher: float | None = None
    cosine_to_teacher: float | None = None


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


class LabelGuess(ReportPart):
    """A label that a classifier gives, with its probability."""

    label: str
    probability: float


class WorstText(ReportPart):
    """A text where a classifier or an encoder is far from its teacher."""

    place: str
    distance: float
    """KL in nats, over a text's words the mean; |difference| of numbers; 1 - cosine of vectors."""
    words: int = 1
    """With a label, where words have them."""
    text: str | None = None
    """Its beginning, or what stands before the word; None where texts are left out."""
    word: str | None = None
    """Where the two differ most."""
    after: str | None = None
    """What comes behind that word."""
    gold: list[str] | None = None
    """Its labels, or its number; None where nobody knows."""
    teacher: list[LabelGuess] = Field(default_factory=list)
    """Likeliest first; empty of numbers and vectors."""
    student: list[LabelGuess] = Field(default_factory=list)
    teacher_number: float | None = None
    student_number: float | None = None


class AgainstGold(ReportPart):
    """Teacher and student on the texts, or words, whose gold label is known."""

    both_right: int
    teacher_alone: int
    """Where the teacher is right and the student wrong."""
    student_alone: int
    both_wrong: int


class BatchCost(ReportPart):
    """What a bare model takes, without a service, at one batch size."""

    batch: int
    prompt_tokens: int
    """Of each prompt; of a classifier, of each text."""
    new_tokens: int = 0
    """Written after each prompt; 0 of a classifier."""
    read_tokens_per_s: float
    """Prompt tokens of the batch by the time of one forward pass over them."""
    written_tokens_per_s: float | None = None
    """New tokens of the batch by the whole time, reading the prompts included; None of a
    classifier."""
    peak_bytes: int
    """The most that torch held at once, weights included."""

    @property
    def read_prompts_per_s(self) -> float:
        """Prompts, or texts, by the same time."""
        return self.read_tokens_per_s / self.prompt_tokens


class Kept(ReportPart):
    """What is left of the teacher's quality, and at what cost."""

    accuracy_kept: float | None = None
    """The student's next-token accuracy by the teacher's; of a classifier, its accuracy."""
    metric_kept: float | None = None
    """Of a classifier: the student's first figure by the teacher's."""
    gap_closed: float | None = None
    """(untrained - student) / (untrained - teacher), of the mean negative log-likelihoods."""
    cost_ratio: float | None = None
    """Time of a written token, of a classifier of a text, at the larger batch: the student's by
    the teacher's, one device."""


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
    """Of models of text."""
    worst_texts: list[WorstText] = Field(default_factory=list)
    """Of classifiers and encoders: those farthest from the teacher."""
    lost_texts: list[WorstText] = Field(default_factory=list)
    """Those where the teacher has the gold label and the student has not, the farthest first."""
    against_gold: AgainstGold | None = None
    costs: dict[str, list[BatchCost]] = Field(default_factory=dict)
    """By role, batch 1 first."""
    kept: Kept | None = None
    drift: Drift | None = None
    tasks: list[TaskMetric] = Field(default_factory=list)
    gates: list[GateResult] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
