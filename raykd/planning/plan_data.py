"""A plan: what `raykd plan` prints, and gives as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelLine:
    """One side's model."""

    side: str
    source: str
    model_type: str
    parameters: int
    trained_parameters: int


@dataclass(frozen=True)
class Demanded:
    """What one phase holds of one part."""

    phase: str
    part: str
    count: int
    cpus_each: float
    gpus_each: int
    labels: Mapping[str, str]
    bundles: str
    on: Mapping[str, int] | None
    """How many lie on each node type; None without a cluster file, or where they do not fit."""


@dataclass(frozen=True)
class NodesUsed:
    """Nodes of one type, at the phase that needs most of them."""

    node_type: str
    role: str | None
    needed: int
    least: int
    most: int
    spot: bool
    idle_cpus: float
    idle_gpus: int
    """Of the nodes that are needed."""


@dataclass(frozen=True)
class MemoryLine:
    """One process of one part, on one kind of place."""

    part: str
    node_type: str | None
    place: str
    """`gpu`, or `node` for the CPU memory of everything on one node."""
    need_bytes: int
    have_bytes: int | None
    """What may be filled; None where unknown."""
    parts: Mapping[str, int]

    @property
    def fits(self) -> bool:
        """False where more is needed than there is."""
        return self.have_bytes is None or self.need_bytes <= self.have_bytes


@dataclass(frozen=True)
class CodecLine:
    """One codec's traffic at the run's rate."""

    label: str
    token_bytes: float
    kind: str
    """`computed`, `at most` or `measured`."""
    bytes_per_s: float | None
    network_share: float | None
    """Of the narrowest side's network."""
    object_store_s: float | None
    """Seconds of it that fit into what the stream may fill of the object store."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second, all tokens counted."""

    teacher_tokens_per_s: float | None
    student_tokens_per_s: float | None
    tokens_per_s: float | None
    """Of both together, in the first epoch."""
    student_waits: float | None
    teacher_waits: float | None
    replicas: int
    ranks: int
    teacher_source: str
    student_source: str


@dataclass(frozen=True)
class Writing:
    """Text that the teacher writes first."""

    completions: int | None
    count_source: str
    max_new_tokens: int
    most_tokens: int | None
    """Every completion as long as may be; prompts are not among them."""
    tokens_per_s: float | None
    """Of all replicas together."""
    replicas: int
    source: str
    hours: float | None
    """At full length and that rate."""
    least_hours: float | None = None
    """An endpoint's limit on requests asks for these."""
    hours_at_length: float | None = None
    """Its limit on tokens asks for these at full length, prompts left out."""
    most_dollars: float | None = None
    """US dollars of completions at full length; prompts come on top."""
    cap_dollars: float | None = None


@dataclass(frozen=True)
class Cost:
    """Hours and what they cost."""

    hours: float | None
    writing_hours: float
    filling_hours: float
    teacher_gpu_hours: float | None
    student_gpu_hours: float | None
    node_hours: Mapping[str, float]
    on_demand: float | None
    """US dollars, everything on demand; None where a price is missing."""
    as_planned: float | None
    """Spot prices for node types that are spot."""
    missing: tuple[str, ...]
    """Prices that are not known."""


@dataclass(frozen=True)
class Split:
    """The best number of replicas and ranks."""

    replicas: int
    ranks: int
    tokens_per_s: float
    better_by: float
    """Of the job's own rate; 0 where it is the job's."""
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Remedy:
    """A change with which something fits that did not."""

    problem: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that `raykd plan` says."""

    name: str
    cluster: str | None
    models: tuple[ModelLine, ...]
    rows: int | None
    steps: int | None
    tokens: int | None
    amount_source: str
    demands: tuple[Demanded, ...]
    nodes: tuple[NodesUsed, ...]
    memory: tuple[MemoryLine, ...]
    codecs: tuple[CodecLine, ...]
    speed: Speed
    writing: Writing | None
    cost: Cost | None
    split: Split | None
    problems: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def fits(self) -> bool:
        """Whether everything can be placed, and memory is enough as far as it is known."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tree = asdict(self)
        for line, own in zip(tree["memory"], self.memory, strict=True):
            line["fits"] = own.fits
        return {"fits": self.fits, **tree}
