"""From rows of a table to padded tensors.

B rows, T tokens of the longest, M positions learned from over all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model."""

    input_ids_BT: torch.Tensor
    """int64."""
    position_ids_BT: torch.Tensor
    """int64; 0 starts a document."""
    keep_M: torch.Tensor
    """int64 indices into the flattened [B * T] of positions whose next token is learned."""
    label_ids_M: torch.Tensor
    """int64: the token that follows each of them."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.input_ids_BT.to(device),
            self.position_ids_BT.to(device),
            self.keep_M.to(device),
            self.label_ids_M.to(device),
        )


def flat(table: pa.Table, name: str) -> tuple[Any, Any]:
    """A list column as (values, offsets): rows i are values[offsets[i]:offsets[i+1]].

    Zero-copy where the column is one chunk.
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy(zero_copy_only=False)
    return values[offsets[0] : offsets[-1]], offsets - offsets[0]


def spots_of(table: pa.Table) -> Any:
    """Where each token of the rows stands in the flattened [B * T] of `collate`."""
    return _spots(flat(table, "input_ids")[1])


def _spots(offsets: Any) -> Any:
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=1))
    padding = np.arange(len(lengths)) * longest - offsets[:-1]
    return np.arange(offsets[-1]) + np.repeat(padding, lengths)


def collate(table: pa.Table) -> Batch:
    """Pad rows on the right to the longest of them; padding is never learned from."""
    ids, offsets = flat(table, "input_ids")
    positions, _ = flat(table, "position_ids")
    mask, _ = flat(table, "loss_mask")
    lengths = np.diff(offsets)
    num_rows, longest = len(lengths), int(lengths.max(initial=1))
    spot = _spots(offsets)
    input_ids = np.zeros(num_rows * longest, np.int64)
    position_ids = np.zeros(num_rows * longest, np.int64)
    input_ids[spot] = ids
    position_ids[spot] = positions
    keep = spot[mask.astype(bool)]
    return Batch(
        torch.from_numpy(input_ids.reshape(num_rows, longest)),
        torch.from_numpy(position_ids.reshape(num_rows, longest)),
        torch.from_numpy(keep),
        torch.from_numpy(input_ids[keep + 1]),
    )
