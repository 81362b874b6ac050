"""The soft-target store: scored once, read by later epochs, restarts and other students.

    rows -> pieces -> keys -> index -> shards -> pieces' targets -> rows' targets

Any number of processes may read and write one section at once, without locks: shards have names of
their own, and one that is not published does not exist. A piece that is there twice is read from
the shard found first.

Shapes: S rows, P pieces.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Final

import numpy as np
import pyarrow as pa

from raykd.errors import StoreError
from raykd.soft_targets.spec import CodecSpec
from raykd.store.entry import Entry, published_names, read_entries, shard_file
from raykd.store.index import Int32s, PieceIndex
from raykd.store.opening import check_section, check_sizes, probe
from raykd.store.piece_targets import fits, join, list_columns, split
from raykd.store.pieces import Flags, Int64s, Pieces, pieces_of
from raykd.store.place import Place
from raykd.store.section import Section
from raykd.store.shard import KEY, keys_of, shard_schema
from raykd.store.shard_files import ShardFiles, corrupt
from raykd.store.tally import Tally
from raykd.store.writer import ShardWriter

__all__ = ["NAMED_ROWS", "SHARD_BYTES", "SHARD_SECONDS", "SoftTargetStore"]

SHARD_BYTES: Final = 32 << 20
SHARD_SECONDS: Final = 30.0
NAMED_ROWS: Final = 8
"""Rows that a message names one by one."""


class SoftTargetStore:
    """One section of a store, open; thread-safe."""

    def __init__(
        self,
        place: Place,
        section: Section,
        *,
        write: bool,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> None:
        """See `open`.

        Args:
            place: The section's directory.
            section: What it holds.
            write: Whether pieces may be added.
            shard_bytes: A shard is written when it would be so large before compression.
            shard_seconds: Or when its first piece is so old.
        """
        self.section, self.tally = section, Tally()
        self._place = place
        self._index, self._names = PieceIndex(), list[str]()
        self._known: set[str] = set()
        self._looked_s = -math.inf
        self._growing = threading.Lock()
        self._files = ShardFiles(place, section.spec)
        self._writer = (
            ShardWriter(place, section.spec, self._publish, shard_bytes, shard_seconds)
            if write
            else None
        )

    @classmethod
    def open(
        cls,
        location: str,
        section: Section,
        *,
        write: bool,
        shard_bytes: int = SHARD_BYTES,
        shard_seconds: float = SHARD_SECONDS,
    ) -> SoftTargetStore:
        """Open a section; where there is none, begin it (`write`), or find it empty.

        Reads `section.json` and the published entries; no shard.

        Args:
            location: The store: a path, or a URI such as s3://bucket/store.
            section: What is wanted of it.
            write: Whether pieces will be added.
            shard_bytes: A shard is written when it would be so large before compression.
            shard_seconds: Or when its first piece is so old.

        Raises:
            StoreError: What lies there is not this section, or of a newer format, or damaged; or
                it cannot be read, or, with `write`, not written.
        """
        place = Place.at(location).within(section.name)
        store = cls(
            place, section, write=write, shard_bytes=shard_bytes, shard_seconds=shard_seconds
        )
        check_section(place, section, begin=write)
        if write:
            probe(place)
        store.refresh()
        return store

    @property
    def num_pieces(self) -> int:
        """Pieces that can be read."""
        return len(self._index)

    @property
    def index_bytes(self) -> int:
        """Memory that the index takes."""
        return self._index.num_bytes

    @property
    def spec(self) -> CodecSpec:
        """The codec, whose stamp is on all that is read."""
        return self.section.spec

    def refresh(self, max_age_s: float = 0.0) -> int:
        """See the shards that others have published since; return how many.

        Args:
            max_age_s: Do nothing if the last look is no older.

        Raises:
            StoreError: A published shard is missing or of another size, or an entry is unreadable.
        """
        with self._growing:
            if time.monotonic() - self._looked_s < max_age_s:
                return 0
            self._looked_s = time.monotonic()
            names = [name for name in published_names(self._place) if name not in self._known]
            entries = read_entries(self._place, names)
            if entries:
                check_sizes(self._place, entries)
                self._add(entries)
            return len(entries)

    def _publish(self, entry: Entry) -> None:
        with self._growing:
            if entry.name not in self._known:
                self._add([entry])

    def _add(self, entries: list[Entry]) -> None:
        first = len(self._names)
        # Names first: whoever finds a number must find its name.
        self._names.extend(entry.name for entry in entries)
        self._known.update(entry.name for entry in entries)
        numbers = list(range(first, len(self._names)))
        self._index.add([entry.keys for entry in entries], numbers)

    def holds(self, rows: pa.Table | Pieces) -> Flags:
        """Which rows can be read: bool [S]. A row without a token to learn always can.

        Args:
            rows: Columns of `schema.PREPARED`, others may be there; or `pieces_of` them.
        """
        pieces = _pieces(rows)
        shards, _ = self._index.find(pieces.keys)
        held = np.ones(pieces.num_rows, np.bool_)
        held[pieces.rows[shards < 0]] = False
        return held

    def read(self, rows: pa.Table | Pieces) -> pa.Table:
        """The soft targets of rows that the store holds.

        Args:
            rows: As in `holds`.

        Returns:
            S rows of `target_schema(spec)`.

        Raises:
            StoreError: A row is not there, or a shard is gone or corrupt; names it.
        """
        pieces = _pieces(rows)
        shards, at = self._index.find(pieces.keys)
        missing = np.unique(pieces.rows[shards < 0])
        if missing.size:
            shown = ", ".join(map(str, missing[:NAMED_ROWS].tolist()))
            raise StoreError(
                f"{self._place}: {missing.size} of {pieces.num_rows} rows are not in the store "
                f"(rows {shown}{', ...' if missing.size > NAMED_ROWS else ''} of the table); ask "
                "`holds` first"
            )
        return join(pieces, self._read_pieces(pieces, shards, at), self.spec)

    def _read_pieces(self, pieces: Pieces, shards: Int32s, at: Int32s) -> pa.Table:
        """The shards' columns, one row a piece, in order."""
        order = np.lexsort((at, shards))
        parts = [shard_schema(self.spec).empty_table()]
        for number in np.unique(shards).tolist():
            here = order[shards[order] == number]
            table = self._files.rows(self._names[number], at[here].astype(np.int64))
            self._require_fit(pieces, here, table, number)
            parts.append(table)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back)).drop_columns(KEY)

    def _require_fit(self, pieces: Pieces, here: Int64s, table: pa.Table, number: int) -> None:
        good = (keys_of(table) == pieces.keys[here]).all(1)
        good &= fits(pieces.tokens[here], table, list_columns(self.spec))
        if not good.all():
            path = self._place.path(shard_file(self._names[number]))
            raise StoreError(
                corrupt(path, "a piece lies there under another piece's key or length")
            )

    def add(self, rows: pa.Table | Pieces, targets: pa.Table) -> None:
        """Store the soft targets of rows; pieces that are there already are left out.

        They are readable once their shard is published: all pieces of this call at once, by `flush`
        or when a shard is large or old enough.

        Args:
            rows: As in `holds`.
            targets: S rows of `target_schema(spec)`; other columns may be there.

        Raises:
            StoreError: The store is open for reading only; the targets are not of these rows; or a
                shard cannot be written, and its pieces wait for a later try.
            SoftTargetError: The targets' stamp is another.
        """
        writer = self._require_writer()
        pieces = _pieces(rows)
        given = split(pieces, targets, self.spec)
        shards, _ = self._index.find(pieces.keys)
        absent = np.flatnonzero(shards < 0)
        if absent.size:
            given = given if absent.size == len(shards) else given.take(absent)
            writer.add(given)

    def _require_writer(self) -> ShardWriter:
        if self._writer is None:
            raise StoreError(f"{self._place}: is open for reading only; open it with write=True")
        return self._writer

    def settle(self, rows: pa.Table | Pieces) -> bool:
        """Publish what waits if that makes all these rows readable; return whether it did.

        Raises:
            StoreError: It cannot be written; it waits for a later try.
        """
        keys = _pieces(rows).keys
        shards, _ = self._index.find(keys)
        if self._writer is None or not self._writer.waits_for(keys[shards < 0]):
            return False
        self._writer.flush()
        return True

    def flush(self) -> None:
        """Publish what waits.

        Raises:
            StoreError: It cannot be written; it waits for a later try.
        """
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Publish what waits and let go of all files.

        Raises:
            StoreError: What waits cannot be written.
        """
        if self._writer is not None:
            self._writer.close()
        self._files.close()


def _pieces(rows: pa.Table | Pieces) -> Pieces:
    return rows if isinstance(rows, Pieces) else pieces_of(rows)
