"""What the service asks of a teacher: one protocol, whatever runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from raykd.config.model import Dtype
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec


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

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Soft targets of rows.

        Args:
            rows: Columns of `schema.PREPARED`, any number of rows.
            spec: The form that is wanted.

        Returns:
            On rank 0 the columns of the codec (`soft_targets.codec.target_schema`) and `teacher_s`,
            row for row; on other ranks None.

        Raises:
            SoftTargetError: The model gave NaN or infinity; names the row and the token.
        """
        ...

    def write_head(self, file: Path) -> None:
        """Write the head, for codec `hidden` (`models.head.save_head`); rank 0 does.

        Args:
            file: Where to, on storage that the students see.
        """
        ...

    def describe(self) -> dict[str, object]:
        """`parameters` and `bytes` of the whole model, `device`; for the report."""
        ...
