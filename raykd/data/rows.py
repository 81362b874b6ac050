"""Prepared rows on disk: Arrow files that `datasets.load_from_disk` reads too, with random access.

A directory holds `data-00000.arrow`, ..., the two JSON files that `datasets` wants, `lengths.npy`
(int32, tokens of each row) and `rows.json`; what is known of rows and no part of them lies beside
(`data.gold`, `data.of_slices`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd import schema
from raykd.data.gold import save_gold
from raykd.data.of_slices import save_teachers
from raykd.data.pack import Gold, PackedRow
from raykd.errors import StorageError

SHARD_BYTES = 256 * 2**20
BATCH_TOKENS = 2**18
BYTES_PER_TOKEN = 9  # two int32 and a uint8

_ROWS_FILE = "rows.json"
_LENGTHS_FILE = "lengths.npy"


class RowWriter:
    """Writes rows to a new directory in one pass; memory holds one batch of them."""

    def __init__(
        self,
        directory: Path,
        pad_id: int,
        shard_bytes: int = SHARD_BYTES,
        *,
        by_teacher: bool = False,
    ) -> None:
        """Make the directory.

        Args:
            directory: Where; made if missing.
            pad_id: The id that rows are padded with.
            shard_bytes: About the largest size of one file.
            by_teacher: Write down who teaches each row.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._pad_id = pad_id
        self._shard_bytes = shard_bytes
        self._batch: list[PackedRow] = []
        self._batch_tokens = 0
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._shards: list[str] = []
        self._gold: list[Gold | None] = []
        self._teachers: list[int] | None = [] if by_teacher else None
        self._writer: Any = None
        self._written_bytes = 0

    def add(self, row: PackedRow, teacher: int = 0) -> None:
        """Take one row, and the number of its teacher."""
        self._gold.append(row.gold)
        if self._teachers is not None:
            self._teachers.append(teacher)
        self._batch.append(row)
        self._batch_tokens += len(row.input_ids)
        if self._batch_tokens >= BATCH_TOKENS:
            self._write_batch()

    def close(self) -> None:
        """Write what is left, and what readers need."""
        if self._batch or not self._shards:
            self._write_batch()
        self._close_shard()
        lengths = np.concatenate(self._lengths)
        np.save(self._directory / _LENGTHS_FILE, lengths)
        save_gold(self._directory, self._gold)
        if self._teachers is not None:
            save_teachers(self._directory, self._teachers)
        facts = {
            "num_rows": len(lengths),
            "pad_id": self._pad_id,
            "shards": self._shards,
        }
        (self._directory / _ROWS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
        self._describe()

    def abandon(self) -> None:
        """Let go of the files; what is written is not readable."""
        self._close_shard()

    def _write_batch(self) -> None:
        if self._writer is None:
            self._open_shard()
        lengths = np.array([len(row.input_ids) for row in self._batch], dtype=np.int32)
        self._writer.write_table(_table(self._batch, lengths))
        self._lengths.append(lengths)
        self._written_bytes += self._batch_tokens * BYTES_PER_TOKEN
        self._batch, self._batch_tokens = [], 0
        if self._written_bytes >= self._shard_bytes:
            self._close_shard()

    def _open_shard(self) -> None:
        from datasets.arrow_writer import ArrowWriter

        name = f"data-{len(self._shards):05d}.arrow"
        self._writer = ArrowWriter(features=_features(), path=str(self._directory / name))
        self._shards.append(name)
        self._written_bytes = 0

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.finalize()
            self._writer = None

    def _describe(self) -> None:
        """Write the files by which `datasets` knows the directory."""
        from datasets import DatasetInfo

        DatasetInfo(features=_features()).write_to_directory(str(self._directory))
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in self._shards],
            "_fingerprint": "raykd",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self._directory / "state.json").write_text(json.dumps(state, indent=2) + "\n")


class PreparedRows:
    """Random access to prepared rows; the files are memory-mapped. Safe to share among threads.

    Attributes:
        num_rows: Rows in the set.
        lengths: int32 [num_rows], tokens of each row, padding included.
        pad_id: The id that rows are padded with.
        filler_tokens: Length of a filler row: the shortest there is.
    """

    def __init__(self, directory: Path) -> None:
        """Map the files of a directory.

        Raises:
            StorageError: It holds no prepared rows, or not all of them.
        """
        self._directory = directory
        facts = _facts(directory)
        self.num_rows = int(facts["num_rows"])
        self.pad_id = int(facts["pad_id"])
        try:
            self.lengths: npt.NDArray[np.int32] = np.load(directory / _LENGTHS_FILE)
            batches = [b for name in facts["shards"] for b in _mapped_batches(directory / name)]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _broken(directory, str(error)) from error
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)], dtype=np.int64)
        if not len(self.lengths) == self.num_rows == starts[-1]:
            raise _broken(directory, f"{starts[-1]} rows instead of {self.num_rows}")
        self.filler_tokens = int(self.lengths.min()) if self.num_rows else 0
        self._starts = starts
        self._offsets = [batch.column(0).offsets.to_numpy() for batch in batches]
        self._values = {
            name: [batch.column(name).values.to_numpy() for batch in batches]
            for name in schema.PREPARED.names
        }

    def __reduce__(self) -> tuple[Callable[[Path], PreparedRows], tuple[Path]]:
        """Travel as a directory's name; the receiver maps the files itself."""
        return open_rows, (self._directory,)

    def take(self, source_rows: npt.NDArray[np.int64]) -> pa.Table:
        """Read rows in the order asked for.

        Args:
            source_rows: int64 [n]; -1 is a filler: padding only, nothing to learn.

        Returns:
            `schema.PREPARED`, n rows.

        Raises:
            IndexError: There is no such row.
        """
        if len(source_rows) and not (source_rows.min() >= -1 and source_rows.max() < self.num_rows):
            raise IndexError(f"rows must be in [-1, {self.num_rows})")
        spans = self._spans(source_rows)
        lengths = [self.filler_tokens if batch < 0 else b - a for batch, a, b in spans]
        fillers = self._fillers()
        columns = [
            _lists(
                lengths,
                [fillers[name] if i < 0 else self._values[name][i][a:b] for i, a, b in spans],
                schema.PREPARED.field(name).type,
            )
            for name in schema.PREPARED.names
        ]
        return pa.Table.from_arrays(columns, schema=schema.PREPARED)

    def _spans(self, source_rows: npt.NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """(batch, start, stop) of each row's values; batch -1 is a filler."""
        batches = np.searchsorted(self._starts, source_rows, side="right") - 1
        spans = []
        for row, batch in zip(source_rows.tolist(), batches.tolist(), strict=True):
            if row < 0:
                spans.append((-1, 0, 0))
                continue
            offsets = self._offsets[batch]
            inside = row - int(self._starts[batch])
            spans.append((batch, int(offsets[inside]), int(offsets[inside + 1])))
        return spans

    def _fillers(self) -> dict[str, npt.NDArray[Any]]:
        length = self.filler_tokens
        return {
            "input_ids": np.full(length, self.pad_id, dtype=np.int32),
            "position_ids": np.zeros(length, dtype=np.int32),
            "loss_mask": np.zeros(length, dtype=np.uint8),
        }


def open_rows(directory: Path) -> PreparedRows:
    """Open one prepared set, such as `prepared/train`.

    Raises:
        StorageError: The directory holds no prepared rows, or not all of them.
    """
    return PreparedRows(directory)


def _table(rows: list[PackedRow], lengths: npt.NDArray[np.int32]) -> pa.Table:
    columns = [
        _lists(lengths, [getattr(row, field.name) for row in rows], field.type)
        for field in schema.PREPARED
    ]
    return pa.Table.from_arrays(columns, schema=schema.PREPARED)


def _lists(
    lengths: list[int] | npt.NDArray[np.int32], parts: list[npt.NDArray[Any]], kind: pa.DataType
) -> pa.ListArray:
    offsets = np.zeros(len(parts) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    dtype = kind.value_type.to_pandas_dtype()
    values = np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)


def _features() -> Any:
    from datasets import Features

    return Features.from_arrow_schema(schema.PREPARED)


def _mapped_batches(path: Path) -> list[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        return [batch for batch in pa.ipc.open_stream(source) if batch.num_rows]


def _facts(directory: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((directory / _ROWS_FILE).read_text())
    except FileNotFoundError:
        raise StorageError(
            f"{directory}: holds no prepared rows ({_ROWS_FILE} is missing)"
        ) from None
    except (OSError, ValueError) as error:
        raise _broken(directory, str(error)) from error
    return facts


def _broken(directory: Path, reason: str) -> StorageError:
    return StorageError(
        f"{directory}: the prepared rows are damaged ({reason}); remove the directory and run again"
    )
