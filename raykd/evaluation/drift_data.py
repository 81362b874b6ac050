"""How the text that was measured differs from the text that was learned: plain data."""

from __future__ import annotations

from pydantic import Field

from raykd.evaluation.report_part import ReportPart


class DriftMeasure(ReportPart):
    """One distance from the training text, of the sample and of held-out rows."""

    key: str
    name: str
    sample: float
    heldout: float
    noise: float
    """95th percentile of (sample - held-out) over random divisions of the two together."""
    p_value: float
    """Share of random divisions with a difference as large as the real one; the real one counts."""
    drifted: bool


class Lengths(ReportPart):
    """Lengths in tokens: percentiles."""

    p5: float
    p50: float
    p95: float


class DriftToken(ReportPart):
    """A token that stands in the sample more often than in the training text."""

    text: str
    in_sample: float
    """Share of all tokens."""
    in_training: float


class FarRow(ReportPart):
    """A row unlike anything that was learned."""

    place: str
    tokens: int
    unseen: float
    """Share of its n-grams that stand nowhere in the training text."""
    kl_to_teacher: float | None = None
    text: str | None = None


class Drift(ReportPart):
    """The sample against the training text; held-out rows say what sampling alone does."""

    compared: str
    """`whole documents`, or `prompts`: what is read and not learned."""
    ngram: int
    training_tokens: int
    training_read: float
    """Share of the training rows that were read for this."""
    heldout_pieces: int
    sample_pieces: int
    divisions: int
    """Random divisions that the p-values are from."""
    measures: list[DriftMeasure]
    lengths: dict[str, Lengths]
    """Of `training`, `heldout`, `sample`."""
    tokens: list[DriftToken] = Field(default_factory=list)
    far_above: float
    """A row is far where its share of unseen n-grams is above this: 99 % of held-out rows' are not.
    """
    far_share: float
    """Of the sample's rows."""
    kl_far: float | None = None
    """The student's mean KL to the teacher in far rows, nats a token."""
    kl_near: float | None = None
    farthest: list[FarRow] = Field(default_factory=list)

    @property
    def drifted(self) -> list[DriftMeasure]:
        """What differs beyond sampling noise."""
        return [measure for measure in self.measures if measure.drifted]
