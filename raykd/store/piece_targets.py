"""Soft targets, row by row and piece by piece: one into the other, by arithmetic on offsets.

Every column of a codec holds a list a row, token after token: W values each, or as many as
`RAGGED_LENGTHS` says. A row's targets are those of its pieces, joined.

Shapes: S rows, P pieces, M learned tokens of all of them, W values a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.errors import StoreError
from raykd.soft_targets import full, hidden, sampled, states, top_k, top_k_hidden
from raykd.soft_targets.columns import STAMP, Column, check_stamp
from raykd.soft_targets.encoded import RAGGED_LENGTHS
from raykd.soft_targets.spec import CodecSpec
from raykd.store.pieces import Flags, Int64s, Keys, Pieces, one_chunk

_COLUMNS: Final[MappingProxyType[str, Callable[[CodecSpec], list[Column]]]] = MappingProxyType(
    {
        "top_k": top_k.columns,
        "sampled": sampled.columns,
        "hidden": hidden.columns,
        "full": full.columns,
        "states": states.columns,
        "top_k_hidden": top_k_hidden.columns,
    }
)


def list_columns(spec: CodecSpec) -> list[Column]:
    """The columns of a codec without the stamp, which is the section's."""
    return _COLUMNS[spec.codec](spec)


@dataclass(frozen=True, eq=False)
class PieceTargets:
    """Soft targets of P pieces.

    Attributes:
        keys: uint64 [P, 2].
        tokens: int64 [P]; learned tokens of each.
        columns: `list_columns`, one list a piece.
    """

    keys: Keys
    tokens: Int64s
    columns: pa.Table

    def take(self, wanted: Int64s | list[int]) -> PieceTargets:
        """Some of them, copied."""
        at = np.asarray(wanted, dtype=np.int64)
        return PieceTargets(self.keys[at], self.tokens[at], self.columns.take(pa.array(at)))

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""
        return int(self.columns.nbytes + self.keys.nbytes)


def split(pieces: Pieces, targets: pa.Table, spec: CodecSpec) -> PieceTargets:
    """Cut the targets of rows into those of their pieces; nothing is copied.

    Args:
        pieces: Of the rows.
        targets: S rows of `target_schema(spec)`; other columns may be there.
        spec: The codec.

    Raises:
        StoreError: They are not the targets of these rows.
        SoftTargetError: Their stamp is another.
    """
    check_stamp(targets, spec.stamp)
    if targets.num_rows != pieces.num_rows:
        raise StoreError(
            f"{pieces.num_rows} rows, but soft targets of {targets.num_rows}; give each row its own"
        )
    ends_M = np.concatenate([[0], np.cumsum(pieces.tokens)])
    unique_M = _unique(targets)
    columns = {
        column.name: _recut(column, targets, pieces, _value_offsets(column, ends_M, unique_M))
        for column in list_columns(spec)
    }
    return PieceTargets(pieces.keys, pieces.tokens, pa.table(columns))


def _unique(targets: pa.Table) -> npt.NDArray[Any] | None:
    """Values of each token in ragged columns [M], if there are such columns."""
    if RAGGED_LENGTHS not in targets.column_names:
        return None
    values: npt.NDArray[Any] = one_chunk(targets.column(RAGGED_LENGTHS)).flatten().to_numpy()
    return values


def _value_offsets(
    column: Column, ends_M: npt.NDArray[Any], unique_M: npt.NDArray[Any] | None
) -> npt.NDArray[Any]:
    """Where in the column's flat values the tokens `ends_M` begin."""
    if column.width is not None:
        return ends_M * column.width
    assert unique_M is not None, "a ragged column comes with its lengths"
    running = np.concatenate([[0], np.cumsum(unique_M, dtype=np.int64)])
    # Beyond the end where targets are truncated; `_recut` then finds that they do not fit.
    return np.asarray(running[np.minimum(ends_M, len(running) - 1)])


def _recut(column: Column, targets: pa.Table, pieces: Pieces, offsets: npt.NDArray[Any]) -> Any:
    """One list a piece of what is one list a row."""
    lists = one_chunk(targets.column(column.name))
    found_S1 = lists.offsets.to_numpy().astype(np.int64) if len(lists) else np.zeros(1, np.int64)
    wrong = np.flatnonzero(np.diff(found_S1) != np.diff(offsets[pieces.bounds]))
    if wrong.size:
        at = int(wrong[0])
        raise StoreError(
            f"row {at} of the table: {column.name} holds {np.diff(found_S1)[at]} values, but its "
            f"loss_mask asks for {np.diff(offsets[pieces.bounds])[at]}; these are not the soft "
            "targets of this row, nothing of the table was stored"
        )
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), lists.flatten())


def join(pieces: Pieces, columns: pa.Table, spec: CodecSpec) -> pa.Table:
    """Join the targets of pieces into those of their rows; nothing is copied in one chunk.

    Args:
        pieces: P pieces of S rows.
        columns: `list_columns(spec)`, P lists in the order of `pieces`.
        spec: The codec, whose stamp the rows get.

    Returns:
        S rows of `target_schema(spec)`.
    """
    bounds = pieces.bounds
    joined = {STAMP: pa.array(np.full(pieces.num_rows, spec.stamp, np.uint32))}
    for column in list_columns(spec):
        lists = one_chunk(columns.column(column.name))
        offsets = lists.offsets.to_numpy() if len(lists) else np.zeros(1, np.int32)
        offsets_S1 = (offsets - offsets[0])[bounds]
        joined[column.name] = pa.ListArray.from_arrays(pa.array(offsets_S1), lists.flatten())
    return pa.table(joined)


def fits(tokens: Int64s, table: pa.Table, columns: list[Column]) -> Flags:
    """Whether each piece's lists are as long as its tokens ask for: bool [P].

    Args:
        tokens: int64 [P]; learned tokens of each piece.
        table: One list a piece in each of `columns`; others may be there.
        columns: The codec's; of each, name and width are looked at.
    """
    good = np.ones(len(tokens), dtype=np.bool_)
    unique_M = _unique(table)
    ends_M = np.concatenate([[0], np.cumsum(tokens)])
    for column in columns:
        good &= list_lengths(table, column) == np.diff(_value_offsets(column, ends_M, unique_M))
    return good


def list_lengths(table: pa.Table, column: Column) -> Int64s:
    """Values in each list of a column: int64 [P]."""
    lists = one_chunk(table.column(column.name))
    offsets = lists.offsets.to_numpy() if len(lists) else np.zeros(1, np.int32)
    return np.diff(offsets.astype(np.int64))
