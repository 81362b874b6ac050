"""Lists of an Arrow table and tensors of many tokens: one into the other, copying where one must.

Shapes: M tokens of all rows of a table, W values a token, S rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from raykd.errors import SoftTargetError
from raykd.soft_targets.encoded import RAGGED_LENGTHS

Int64s = npt.NDArray[np.int64]

STAMP: Final = "target_stamp"
BYTES_3: Final = pa.binary(3)
"""Ids of three bytes; in a tensor they are three uint8, lowest first."""


@dataclass(frozen=True)
class Column:
    """One list column: every row's values, flat, token after token.

    Attributes:
        name: Of the column.
        value_type: Of one value.
        width: W, the values each token has; None where `RAGGED_LENGTHS` says how many.
    """

    name: str
    value_type: pa.DataType
    width: int | None = 1

    @property
    def field(self) -> pa.Field:
        """As it stands in a schema."""
        return pa.field(self.name, pa.list_(self.value_type))

    @property
    def elements(self) -> int:
        """Elements of a tensor that make one value."""
        return 3 if self.value_type == BYTES_3 else 1


def to_list_column(column: Column, parts: Sequence[torch.Tensor]) -> pa.ListArray:
    """Lay one tensor a row into one list a row; one copy, which joins the rows.

    Raises:
        SoftTargetError: It would need 2^31 values or more, which its offsets cannot count.
    """
    lengths = [part.numel() // column.elements for part in parts]
    offsets = np.cumsum(np.array([0, *lengths], dtype=np.int64))
    if offsets[-1] >= 2**31:
        raise SoftTargetError(
            f"{column.name} of one block would hold {offsets[-1]:,} values, at most {2**31 - 1:,} "
            "fit: use fewer rows a block, or a codec that keeps less (soft_targets.codec, "
            "soft_targets.top_k)"
        )
    offsets_array = pa.array(offsets.astype(np.int32))
    if not parts:
        return pa.ListArray.from_arrays(offsets_array, pa.array([], type=column.value_type))
    flat = torch.cat([part.detach().reshape(-1) for part in parts]).cpu().numpy()
    if column.value_type == BYTES_3:
        buffers = [None, pa.py_buffer(flat)]
        values = pa.FixedSizeBinaryArray.from_buffers(BYTES_3, int(offsets[-1]), buffers)
    else:
        values = pa.array(flat, type=column.value_type)
    return pa.ListArray.from_arrays(offsets_array, values)


def read_columns(
    table: pa.Table, columns: Sequence[Column]
) -> tuple[Int64s, dict[str, torch.Tensor]]:
    """Read list columns as tensors; nothing is copied where a column is one chunk.

    Args:
        table: The columns; others may be there. `loss_mask`, if there, must agree with the number
            of tokens; `row`, if there, names rows in messages.
        columns: The first is fixed: its length says how many tokens a row has.

    Returns:
        Tokens of each row [S], and by name a tensor [M, W], flat where ragged. Read only.

    Raises:
        SoftTargetError: A column is missing, of another type or truncated, or holds nulls; names
            the row.
    """
    read = {column.name: _flatten(table, column) for column in columns}
    lengths_S = _tokens(table, columns[0], read[columns[0].name][0])
    tensors = {}
    for column in columns:
        found_S, values = read[column.name]
        if column.width is not None:
            why = f"{column.width} a token"
            _require_lengths(table, column.name, found_S, lengths_S * column.width, why)
            tensors[column.name] = _tensor(values).view(-1, column.width * column.elements)
        else:
            unique_M = tensors[RAGGED_LENGTHS][:, 0].numpy()
            why = f"the sum of its {RAGGED_LENGTHS}"
            _require_lengths(table, column.name, found_S, _sums(unique_M, lengths_S), why)
            tensors[column.name] = _tensor(values)
    return lengths_S, tensors


def check_stamp(table: pa.Table, stamp: int) -> None:
    """Raise unless every row carries `stamp`.

    Raises:
        SoftTargetError: The column is missing, or a row carries another stamp.
    """
    if STAMP not in table.column_names or table.schema.field(STAMP).type != pa.uint32():
        raise SoftTargetError(f"soft targets need a column {STAMP} of type uint32:\n{table.schema}")
    column = table.column(STAMP)
    if column.null_count:
        raise SoftTargetError(f"column {STAMP} holds nulls; score its rows again")
    stamps_S = column.to_numpy()
    other = np.flatnonzero(stamps_S != stamp)
    if other.size:
        at = int(other[0])
        raise SoftTargetError(
            f"row {row_name(table, at)}: its stamp is {int(stamps_S[at]):08x}, expected "
            f"{stamp:08x}: targets of another codec, vocabulary or teacher; score the row again, "
            "or put soft_targets and teacher back as they were"
        )


def row_name(table: pa.Table, at: int) -> str:
    """What a message calls the row at index `at`."""
    if "row" in table.column_names:
        return str(table.column("row")[at].as_py())
    return f"{at} of this table"


def _tokens(table: pa.Table, column: Column, found_S: Int64s) -> Int64s:
    width = column.width
    assert width is not None, "the first column is fixed"
    lengths_S: Int64s = found_S // width
    why = f"a multiple of {width}"
    _require_lengths(table, column.name, found_S, lengths_S * width, why)
    if "loss_mask" in table.column_names:
        mask_lengths_S, flags = _flatten(table, Column("loss_mask", pa.uint8()))
        sums_S = _sums(flags.to_numpy(), mask_lengths_S)
        why = "by the sum of its loss_mask"
        _require_lengths(table, column.name, found_S, sums_S * width, why)
    return lengths_S


def _require_lengths(
    table: pa.Table, name: str, found_S: Int64s, expected_S: Int64s, why: str
) -> None:
    wrong = np.flatnonzero(found_S != expected_S)
    if wrong.size:
        at = int(wrong[0])
        raise SoftTargetError(
            f"row {row_name(table, at)}: {name} holds {found_S[at]} values, expected "
            f"{expected_S[at]} ({why}); the targets are truncated or of another job: score the "
            "row again"
        )


def _flatten(table: pa.Table, column: Column) -> tuple[Int64s, pa.Array]:
    """Return each list's length [S] and all their values, without a copy if in one chunk."""
    name, column_type = column.name, pa.list_(column.value_type)
    at = table.schema.get_field_index(name)
    if at < 0 or (chunked := table.column(at)).type != column_type:
        raise SoftTargetError(
            f"soft targets need a column {name} of type {column_type}; found:\n{table.schema}"
        )
    lists = (
        chunked.chunk(0)
        if chunked.num_chunks == 1
        else pa.concat_arrays([pa.array([], type=column_type), *chunked.chunks])
    )
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise SoftTargetError(f"column {name} holds nulls; score its rows again")
    lengths_S: Int64s = np.diff(lists.offsets.to_numpy().astype(np.int64))
    return lengths_S, values


def _sums(values: npt.NDArray[np.uint8], lengths_S: Int64s) -> Int64s:
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    ends_S = np.cumsum(lengths_S)
    sums_S: Int64s = running[ends_S] - running[ends_S - lengths_S]
    return sums_S


def _tensor(values: pa.Array) -> torch.Tensor:
    # Arrow's memory is read only, which torch cannot express: from_numpy would warn of it, DLPack
    # does not. The docstrings of `read_columns` and `TokenTensors` forbid writing.
    if values.type == BYTES_3:
        ends = 3 * (values.offset + len(values))
        whole = pa.Array.from_buffers(pa.uint8(), ends, [None, values.buffers()[1]])
        values = whole.slice(3 * values.offset)
    tensor: torch.Tensor = from_dlpack(values)
    return tensor
