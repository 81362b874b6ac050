"""Soft targets that came with generated text, laid into the run's store.

They take the way of all others: a piece of a document is looked up by its tokens, whatever row it
lies in. Nothing is asked for here; what the endpoint said is kept beside what it wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raykd import schema
from raykd.config.job import Job
from raykd.data.pack import Packer
from raykd.data.prepare import open_rows
from raykd.data.tokenize import TokenizedDocument
from raykd.errors import GenerationError
from raykd.generation.alignment import Told
from raykd.generation.given import targets_of
from raykd.models.token_bytes import TokenBytes
from raykd.pipeline.given import KEY, aligned, vocabulary_of
from raykd.pipeline.kept import Kept, count_lacking
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec, training_spec
from raykd.pipeline.writing import store_of
from raykd.soft_targets import top_k
from raykd.soft_targets.codec import to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.store.pieces import pieces_of
from raykd.store.store import SoftTargetStore


@dataclass
class LaidDown:
    """What came of it."""

    documents: int = 0
    tokens: int = 0
    as_written: int = 0
    """Tokens of which the endpoint said nothing."""

    def count(self, placed: _Placed) -> None:
        """Count a document."""
        self.documents += 1
        self.tokens += sum(map(len, placed.said))
        self.as_written += sum(told is None for part in placed.said for told in part)

    def sentence(self) -> str:
        """One line for people."""
        if not self.documents:
            return "soft targets that came with the text: all are kept"
        share = 100 * self.as_written / max(1, self.tokens)
        return (
            f"soft targets came with the text: {self.documents:,} documents, {self.tokens:,} "
            f"tokens, {share:.1f} % of them learned as written (docs/api-teachers.md)"
        )


def lay_down(job: Job, run: RunDirectory, models: Models, kept: Kept) -> LaidDown:
    """Put into the store what it lacks of the run's rows; one task on the cluster.

    Args:
        job: The run's.
        run: Its directory, with prepared rows.
        models: Found.
        kept: The run's store.

    Raises:
        StoreError: It cannot be written.
        GenerationError: The completions are no longer those that the run has chosen.
    """
    done = LaidDown()
    train, heldout = training_spec(job, models), heldout_spec(job, models)
    lacking = [
        count_lacking(kept, spec, run.data / name).rows
        for name, spec in (("train", train), ("heldout", heldout))
    ]
    if not any(lacking):
        return done
    table = pq.read_table(run.learned)
    records = dict(zip(table.column(KEY).to_pylist(), table.to_pylist(), strict=True))
    vocabulary = vocabulary_of(models)
    with ExitStack() as open_stores:
        sides = [
            _Side(spec, wanted, open_stores.enter_context(closing(_opened(kept, spec))))
            for spec, wanted in ((train, None), (heldout, _pieces_held_out(run)))
        ]
        left = set(records)
        for key, document, said in aligned(job, models, store_of(job, run, models), records):
            left.discard(key)
            if isinstance(said, str):
                raise GenerationError(_not_as_chosen(run, key, said))
            placed = _Placed.of(job, document, said)
            done.count(placed)
            _add(placed, sides, vocabulary)
    if left:
        raise GenerationError(_not_as_chosen(run, min(left), "nothing is kept of it"))
    return done


def _opened(kept: Kept, spec: CodecSpec) -> SoftTargetStore:
    return SoftTargetStore.open(kept.location, kept.section(spec), write=True)


def _not_as_chosen(run: RunDirectory, key: str, why: str) -> str:
    return (
        f"{run.learned}: completion {key} is not the one that is kept by now ({why}): what was "
        "generated has been removed or written anew since this run chose; remove "
        f"{run.generated_summary.name} from the run directory to choose again, or start a run of "
        "another name"
    )


@dataclass(frozen=True)
class _Side:
    """A section that is filled; of held-out rows only those pieces that are measured on."""

    spec: CodecSpec
    wanted: frozenset[bytes] | None
    store: SoftTargetStore


@dataclass(frozen=True)
class _Placed:
    """A document in pieces: rows of `schema.PREPARED`, and what was said of their tokens."""

    rows: pa.Table
    said: list[list[Told | None]]
    labels: list[list[int]]

    @classmethod
    def of(cls, job: Job, document: TokenizedDocument, said: dict[int, Told]) -> _Placed:
        pieces = _places(job, document)
        learned = [[int(at) for at in places[1:] if document.learn[at]] for places in pieces]
        columns = {
            "input_ids": [document.input_ids[places] for places in pieces],
            "position_ids": [np.arange(len(places), dtype=np.int32) for places in pieces],
            "loss_mask": [np.append(document.learn[places][1:], np.uint8(0)) for places in pieces],
        }
        return cls(
            pa.table(columns, schema=schema.PREPARED),
            [[said.get(at) for at in part] for part in learned],
            [[int(document.input_ids[at]) for at in part] for part in learned],
        )


def _places(job: Job, document: TokenizedDocument) -> list[Any]:
    """Which of a document's tokens each of its pieces holds, divided as rows are."""
    data = job.data
    length = data.sequence_length_tokens
    packer = Packer(length, "pad", [length], data.long_documents)
    numbered = replace(document, input_ids=np.arange(len(document.learn), dtype=np.int32))
    return [row.input_ids[: row.num_tokens] for row in packer.add(numbered)]


def _add(placed: _Placed, sides: Sequence[_Side], vocabulary: TokenBytes) -> None:
    keys = [key.tobytes() for key in pieces_of(placed.rows).keys]
    assert len(keys) == placed.rows.num_rows, "every piece has a token to learn"
    for side in sides:
        chosen = [at for at, key in enumerate(keys) if side.wanted is None or key in side.wanted]
        if not chosen:
            continue
        encoded = [
            top_k.pack(
                targets_of(placed.said[at], placed.labels[at], side.spec.top_k, vocabulary),
                side.spec,
            )
            for at in chosen
        ]
        side.store.add(placed.rows.take(pa.array(chosen)), pa.table(to_columns(encoded, side.spec)))


def _pieces_held_out(run: RunDirectory) -> frozenset[bytes]:
    rows = open_rows(run.data / "heldout")
    everything = rows.take(np.arange(rows.num_rows, dtype=np.int64))
    return frozenset(key.tobytes() for key in pieces_of(everything).keys)
