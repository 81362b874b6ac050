"""What the service asks of a teacher: one protocol, whatever runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from raykd.config.model import Dtype
from raykd.models.load import ModelSource


@dataclass(frozen=True)
class ScoreSpec:
    """What soft targets are wanted."""

    top_k: int
    temperatures: tuple[float, ...]
    """1 first; the tail is kept at each."""
    vocab_size: int
    """Width of the logits that teacher and student share."""


@dataclass(frozen=True)
class EngineSpec:
    """How a shard is built; the same for all shards of all replicas."""

    source: ModelSource
    dtype: Dtype
    use_gpu: bool
    threads: int
    micro_batch_tokens: int
    head_chunk_tokens: int


@dataclass(frozen=True)
class ShardPlace:
    """Which shard of a replica this is, and where its group meets."""

    rank: int
    world_size: int
    address: str
    port: int


class Engine(Protocol):
    """One shard of one replica. Every shard gets every call, in the same order.

    Built as `EngineClass(spec: EngineSpec, place: ShardPlace)`.
    """

    def score(self, rows: pa.Table, spec: ScoreSpec) -> pa.Table | None:
        """Soft targets of rows.

        Args:
            rows: Columns of `schema.PREPARED`, any number of rows.
            spec: What is wanted.

        Returns:
            On rank 0 the columns of `schema.SOFT_TARGETS` and `teacher_s`, row for row; on other
            ranks None.
        """
        ...

    def describe(self) -> dict[str, object]:
        """`parameters` and `bytes` of the whole model, `device`; for the report."""
        ...
