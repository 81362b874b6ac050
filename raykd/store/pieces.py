"""The unit of the store: a piece of a row, and its key.

A piece is a document, or a part of a long one; tokens of other pieces do not reach it, so its soft
targets are the same in whatever row it lies. Its key is a hash of its token ids and its loss mask:
nothing about rank, micro-batch, order or packing is in it.

Shapes: S rows, P pieces with a token to learn, N tokens of all rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

KEY_BYTES: Final = 16

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]
"""[P, 2]; a row is the 16 bytes of a key."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of some rows that hold a token to learn, in the rows' order.

    Attributes:
        keys: uint64 [P, 2].
        tokens: int64 [P]; learned tokens of each, at least 1.
        rows: int64 [P], ascending; the row that each lies in.
        num_rows: S.
    """

    keys: Keys
    tokens: Int64s
    rows: Int64s
    num_rows: int

    @property
    def bounds(self) -> Int64s:
        """[S + 1]; row s holds the pieces bounds[s] to bounds[s + 1]."""
        bounds: Int64s = np.searchsorted(self.rows, np.arange(self.num_rows + 1))
        return bounds

    def of_rows(self, wanted: Int64s) -> Pieces:
        """The pieces of some of the rows.

        Args:
            wanted: int64 numbers of rows, ascending, each once.
        """
        chosen = np.isin(self.rows, wanted)
        rows: Int64s = np.searchsorted(wanted, self.rows[chosen])
        return Pieces(self.keys[chosen], self.tokens[chosen], rows, len(wanted))


def pieces_of(rows: pa.Table) -> Pieces:
    """Find the pieces of rows.

    A piece begins at each position 0 and at each row's first token. One without a token to learn,
    such as padding, has no soft targets and is left out.

    Args:
        rows: S rows with the columns of `schema.PREPARED`; others may be there.
    """
    ids, offsets = flat_values(rows, "input_ids")
    ids = ids.astype("<i4", copy=False)
    mask, _ = flat_values(rows, "loss_mask")
    starts, stops = _extents(rows, offsets)
    if not len(starts):
        return Pieces(np.empty((0, 2), np.uint64), _none(), _none(), rows.num_rows)
    tokens = np.add.reduceat(mask, starts, dtype=np.int64)
    kept = np.flatnonzero(tokens)
    starts, stops = starts[kept], stops[kept]
    keys = b"".join(
        _key(ids[start:stop], mask[start:stop])
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    )
    rows_P: Int64s = np.searchsorted(offsets, starts, side="right") - 1
    return Pieces(keys_from_bytes(keys), tokens[kept], rows_P, rows.num_rows)


def _extents(rows: pa.Table, offsets: Int64s) -> tuple[Int64s, Int64s]:
    """First tokens of all pieces, and the ends."""
    positions, _ = flat_values(rows, "position_ids")
    begins = positions == 0
    begins[offsets[:-1][np.diff(offsets) > 0]] = True
    starts = np.flatnonzero(begins)
    return starts, np.append(starts[1:], len(positions))[: len(starts)]


def _key(ids: npt.NDArray[Any], mask: npt.NDArray[Any]) -> bytes:
    # Four bytes of ids for each of mask, so that no two pieces give the same bytes.
    digest = hashlib.blake2b(ids.tobytes(), digest_size=KEY_BYTES)
    digest.update(mask.tobytes())
    return digest.digest()


def keys_from_bytes(keys: bytes) -> Keys:
    """Lay keys of 16 bytes, one after the other, into an array [P, 2]."""
    array: Keys = np.frombuffer(keys, dtype="<u8").reshape(-1, 2)
    return array


def keys_to_bytes(keys: Keys) -> bytes:
    """The reverse of `keys_from_bytes`."""
    return keys.astype("<u8", copy=False).tobytes()


def flat_values(table: pa.Table, name: str) -> tuple[npt.NDArray[Any], Int64s]:
    """All values of a list column, row after row [N], and where rows begin and end [S + 1]."""
    lists = one_chunk(table.column(name))
    offsets: Int64s = lists.offsets.to_numpy().astype(np.int64)
    if not len(lists):
        offsets = np.zeros(1, np.int64)
    return lists.flatten().to_numpy(), offsets - offsets[0]


def one_chunk(column: Any) -> Any:
    """A column as one array; copied only where it is several."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays([pa.array([], type=column.type), *column.chunks])


def _none() -> Int64s:
    return np.empty(0, np.int64)
