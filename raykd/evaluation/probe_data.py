"""What a probe found: plain data, written as JSON beside the table."""

from __future__ import annotations

from raykd.evaluation.report_data import ReportPart


class TeacherFound(ReportPart):
    """How the teacher's distribution looks on the probed tokens, at temperature 1."""

    entropy_mean: float
    """Nats."""
    entropy_median: float
    entropy_p95: float
    top1_mass: float
    """Mean probability of the likeliest id."""
    mass_by_k: dict[int, tuple[float, float]]
    """k to the mass of the k likeliest ids: mean, and the 5th percentile over tokens."""


class CodecFound(ReportPart):
    """One codec on the probed tokens, with the job's loss and the student's first weights."""

    label: str
    settings: dict[str, str | int | float | bool]
    """Keys of `soft_targets` that ask for it."""
    wire_bytes: float
    """A learned token, as Arrow columns."""
    rest_bytes: float
    """A learned token, as Parquet."""
    loss_gap: float
    """Its divergence less that of `full`, nats a token, with temperature squared."""
    cosine: float
    """Of its gradient by the student's hidden states with that of `full`, over all tokens."""
    bias: float
    """Its gradient projected onto that of `full`, less 1; 0 is unbiased."""
    encode_tokens_per_s: float
    """From logits or hidden states to columns, one process."""
    decode_tokens_per_s: float
    """From columns to tensors, checks included."""
    refused: str | None = None
    """Why the job's loss cannot be had from it."""


class Recommended(ReportPart):
    """What to write into the job, and why."""

    settings: dict[str, str | int | float | bool]
    codec_reason: str
    temperature: float
    temperature_reason: str
    replicas: int
    split_reason: str


class Probe(ReportPart):
    """Everything that `raykd probe` measured."""

    raykd_version: str
    name: str
    rows: int
    tokens: int
    """Learned tokens that the teacher's figures are over."""
    compared_tokens: int
    """Learned tokens that the codecs are compared on."""
    divergence: dict[str, float]
    temperature: float
    full_loss: float
    """The divergence from `full`, nats a token."""
    vocab_size: int
    teacher: TeacherFound
    codecs: list[CodecFound]
    teacher_tokens_per_s: float
    """One replica, all tokens counted, learned from or not."""
    student_tokens_per_s: float
    """One rank, forward and backward, no optimizer; all tokens counted."""
    recommended: Recommended
