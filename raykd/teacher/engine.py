"""What the service asks of a teacher: one protocol, whatever runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from raykd.config.model import Dtype
from raykd.config.sampling import SamplingConfig
from raykd.models.encoder import EncoderSpec
from raykd.models.load import ModelSource
from raykd.models.mixture import MixedIn
from raykd.models.of_slices import OfSlices
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
    mixed_in: tuple[MixedIn, ...] = ()
    """Other models, averaged with `source`, which has the rest of the weight."""
    of_slices: tuple[OfSlices, ...] = ()
    """Other models, each asked for slices of its own (`ScoresSlices`)."""
    encoder: EncoderSpec | None = None
    """What a classifier puts out."""


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

    def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table | None:
        """Completions of prompts.

        A row's answer depends on its own messages and seed only, not on its neighbours.

        Args:
            prompts: Columns of `schema.PROMPTS`, any number of rows.
            sampling: How to draw.

        Returns:
            On rank 0 the columns of `schema.COMPLETIONS`, row for row; on other ranks None.

        Raises:
            GenerationError: A prompt cannot be rendered, or is longer than the model's context;
                names the prompt.
        """
        ...

    def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table | None:
        """Inner states of rows, and on demand their soft targets, by one forward pass.

        Args:
            rows: Columns of `schema.PREPARED`, any number of rows.
            states: Codec `states`.
            codec: The form of soft targets that is wanted too; None for none.

        Returns:
            On rank 0 the columns of `codec`, if any, then those of `states`, then `teacher_s`, row
            for row; on other ranks None. States are those of all tokens of each document that has
            a token to learn (`soft_targets.states.documents_of`).

        Raises:
            SoftTargetError: The model gave NaN or infinity; names the row.
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


class ScoresSlices(Engine, Protocol):
    """An engine that holds the models of `EngineSpec.of_slices` too."""

    def score_slices(self, rows: pa.Table, spec: CodecSpec, which: int) -> pa.Table | None:
        """Soft targets of rows from one of these models, as `score` gives them.

        Args:
            rows: As of `score`.
            spec: As of `score`.
            which: The model's place in `of_slices`, from 1.
        """
        ...
