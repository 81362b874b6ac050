"""Asking the store first, and the teacher for what is not there.

Shapes: S rows of one call.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from raykd import schema
from raykd.errors import StoreError
from raykd.soft_targets.codec import target_schema
from raykd.store.pieces import Flags, Int64s, Pieces, pieces_of
from raykd.store.section import Section
from raykd.store.sections import others
from raykd.store.store import NAMED_ROWS, SHARD_BYTES, SHARD_SECONDS, SoftTargetStore

REFRESH_SECONDS: Final = 10.0
"""Between two looks at what other processes have published, while rows are missing."""

Ask = Callable[[pa.Table], Awaitable[pa.Table]]


@dataclass(frozen=True)
class KeptScorer:
    """Soft targets of rows, from the store where they are there; small enough to travel.

    Attributes:
        location: The store: a path or a URI.
        section: What is wanted of it.
        ask: The teacher: from rows to the columns of `target_schema` and `teacher_s`; None where
            there is no teacher.
        write: Whether the teacher's answers are stored.
        shard_bytes: A shard is written when it would be so large before compression.
        shard_seconds: Or when its first piece is so old.
    """

    location: str
    section: Section
    ask: Ask | None
    write: bool
    shard_bytes: int = SHARD_BYTES
    shard_seconds: float = SHARD_SECONDS

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets of rows, row for row.

        The rows that the store does not hold go to the teacher in one request; if it holds none,
        the whole table does, unchanged.

        Args:
            rows: S rows with the columns of `schema.PREPARED`; others may be there.

        Returns:
            The columns of `target_schema`, and `teacher_s`: 0 for rows from the store.

        Raises:
            StoreError: Rows are missing and there is no teacher; or the store fails.
        """
        store, pieces, held = await asyncio.to_thread(self._look_up, rows)
        if held.all():
            return await asyncio.to_thread(self._read, store, pieces)
        if self.ask is None:
            raise StoreError(_missing(self, rows, np.flatnonzero(~held)))
        if not held[pieces.rows].any():
            answer = self._checked(await self.ask(rows), rows.num_rows)
            await asyncio.to_thread(self._keep, store, pieces, answer)
            return answer
        wanted = np.flatnonzero(~held)
        answer = self._checked(await self.ask(rows.take(pa.array(wanted))), len(wanted))
        return await asyncio.to_thread(self._complete, store, pieces, wanted, answer)

    def flush(self) -> None:
        """Publish what this process has to store by now.

        Raises:
            StoreError: It cannot be written; it waits for a later try.
        """
        if self.write:
            opened(self).flush()

    def _look_up(self, rows: pa.Table) -> tuple[SoftTargetStore, Pieces, Flags]:
        store = opened(self)
        pieces = pieces_of(rows)
        held = store.holds(pieces)
        # A short epoch comes round before its first shard was due.
        if not held.all() and store.settle(pieces):
            held = store.holds(pieces)
        # Other processes score and publish too: what is missing here may be there by now.
        if not held.all() and store.refresh(0.0 if self.ask is None else REFRESH_SECONDS):
            held = store.holds(pieces)
        store.tally.count(pieces, held)
        return store, pieces, held

    def _read(self, store: SoftTargetStore, pieces: Pieces) -> pa.Table:
        read = store.read(pieces)
        seconds = pa.array(np.zeros(pieces.num_rows, np.float32))
        return read.append_column(schema.TEACHER_S, seconds)

    def _checked(self, answer: pa.Table, num_rows: int) -> pa.Table:
        assert answer.num_rows == num_rows, f"asked for {num_rows} rows, got {answer.num_rows}"
        return answer.select([*target_schema(self.section.spec).names, schema.TEACHER_S.name])

    def _keep(self, store: SoftTargetStore, pieces: Pieces, answer: pa.Table) -> None:
        if self.write:
            store.add(pieces, answer)

    def _complete(
        self, store: SoftTargetStore, pieces: Pieces, wanted: Int64s, answer: pa.Table
    ) -> pa.Table:
        """Store the answer for the rows `wanted`, read the others, bring them into order."""
        self._keep(store, pieces.of_rows(wanted), answer)
        others = np.setdiff1d(np.arange(pieces.num_rows), wanted)
        both = pa.concat_tables([self._read(store, pieces.of_rows(others)), answer])
        return both.take(pa.array(np.argsort(np.concatenate([others, wanted]))))


_stores: Final[dict[tuple[str, str, bool], SoftTargetStore]] = {}
_opening: Final = threading.Lock()


def opened(scorer: KeptScorer) -> SoftTargetStore:
    """The scorer's store, opened once a process.

    Raises:
        StoreError: It cannot be opened.
    """
    key = (scorer.location, scorer.section.name, scorer.write)
    with _opening:
        if key not in _stores:
            _stores[key] = SoftTargetStore.open(
                scorer.location,
                scorer.section,
                write=scorer.write,
                shard_bytes=scorer.shard_bytes,
                shard_seconds=scorer.shard_seconds,
            )
        return _stores[key]


def close_all() -> None:
    """Publish what waits in this process's stores, and close them; also done at its orderly end.

    Raises:
        StoreError: Something could not be written; the other stores are closed all the same.
    """
    with _opening:
        stores = list(_stores.values())
        _stores.clear()
    failures = []
    for store in stores:
        try:
            store.close()
        except StoreError as error:
            failures.append(str(error))
    if failures:
        raise StoreError("\n".join(failures))


atexit.register(close_all)


def _missing(scorer: KeptScorer, rows: pa.Table, missing: Int64s) -> str:
    there = others(scorer.location, scorer.section)
    named = ", ".join(_names(rows.take(pa.array(missing[:NAMED_ROWS]))))
    more = ", ..." if missing.size > NAMED_ROWS else ""
    return (
        f"{scorer.location}: {missing.size} of {rows.num_rows} rows have no soft targets in "
        f"section {scorer.section.name}, and no teacher may be asked: {named}{more}. Other "
        f"sections there: {there}. Set soft_targets.store_mode: use, so that the teacher scores "
        "and stores them"
    )


def _names(rows: pa.Table) -> list[str]:
    columns: list[list[Any]] = [
        rows.column(name).to_pylist() if name in rows.column_names else [None] * rows.num_rows
        for name in ("row", "source_row")
    ]
    return [
        f"row {row}" + ("" if source is None else f" (prepared row {source})")
        if row is not None
        else "a row without a number"
        for row, source in zip(*columns, strict=True)
    ]
