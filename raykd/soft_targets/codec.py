"""Codec `top_k`, on the wire: tensors to Arrow columns and back.

Shapes: M tokens learned from (of one row, or of all rows of a table), K ids kept, N temperatures,
S rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from torch.utils.dlpack import from_dlpack

from raykd.errors import SoftTargetError
from raykd.schema import SOFT_TARGETS
from raykd.soft_targets.checks import Int64s, check_values, require_lengths
from raykd.soft_targets.top_k import TopKTargets


def targets_to_columns(rows: Sequence[TopKTargets]) -> dict[str, pa.ListArray]:
    """Lay the targets of S rows into the columns of `SOFT_TARGETS`.

    Args:
        rows: One a row, in order, on any device; a row with M = 0 is legal.

    Returns:
        The columns by name, in the schema's order, each of S lists.

    Raises:
        SoftTargetError: A column would need 2^31 values or more, which its offsets cannot count.
    """
    parts = {
        "target_ids": [row.ids_TK for row in rows],
        "target_logprobs": [row.logprobs_TK for row in rows],
        "target_log_tail": [row.log_tail_TN for row in rows],
        "label_logprobs": [row.label_logprobs_T for row in rows],
    }
    return {field.name: _to_column(field, parts[field.name]) for field in SOFT_TARGETS}


def columns_to_targets(
    table: pa.Table, top_k: int, num_temperatures: int, vocab_size: int | None = None
) -> TopKTargets:
    """Read and check the targets of all rows of `table`, one row after the other.

    Nothing is copied where a column is one chunk: the tensors are views of the table's own memory.
    Never write into them; `.to(device)` or `.clone()` gives memory of one's own.

    Args:
        table: The columns of `SOFT_TARGETS`; others may be there. `loss_mask`, if there, must
            agree with the number of targets; `row`, if there, names rows in messages.
        top_k: K.
        num_temperatures: N; the first temperature is 1.
        vocab_size: If given, ids must be below it.

    Returns:
        The targets of M tokens, M summed over rows, on the CPU.

    Raises:
        SoftTargetError: Columns are missing, truncated or corrupted; names the row and the token.
    """
    ids_lengths_S, ids = _flatten(table, "target_ids", pa.int32())
    logprobs_lengths_S, logprobs = _flatten(table, "target_logprobs", pa.float32())
    tail_lengths_S, log_tail = _flatten(table, "target_log_tail", pa.float32())
    lengths_S, labels = _flatten(table, "label_logprobs", pa.float32())

    if "loss_mask" in table.column_names:
        require_lengths(
            table, "label_logprobs", lengths_S, _mask_sums(table), "the sum of its loss_mask"
        )
    why = f"{top_k} a token"
    require_lengths(table, "target_ids", ids_lengths_S, lengths_S * top_k, why)
    require_lengths(table, "target_logprobs", logprobs_lengths_S, lengths_S * top_k, why)
    why = f"{num_temperatures} temperatures a token"
    require_lengths(table, "target_log_tail", tail_lengths_S, lengths_S * num_temperatures, why)

    targets = TopKTargets(
        _tensor(ids).view(-1, top_k),
        _tensor(logprobs).view(-1, top_k),
        _tensor(log_tail).view(-1, num_temperatures),
        _tensor(labels),
    )
    check_values(table, targets, lengths_S, vocab_size)
    return targets


def _to_column(field: pa.Field, parts: list[torch.Tensor]) -> pa.ListArray:
    offsets = np.cumsum(np.array([0, *(part.numel() for part in parts)], dtype=np.int64))
    if offsets[-1] >= 2**31:
        raise SoftTargetError(
            f"{field.name} of one block would hold {offsets[-1]:,} values, at most {2**31 - 1:,} "
            "fit: use fewer rows a block or a smaller soft_targets.top_k"
        )
    value_type = field.type.value_type
    if parts:
        flat = torch.cat([part.detach().reshape(-1) for part in parts]).cpu().numpy()
        values = pa.array(flat, type=value_type)
    else:
        values = pa.array([], type=value_type)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _flatten(table: pa.Table, name: str, value_type: pa.DataType) -> tuple[Int64s, pa.Array]:
    """Return each list's length [S] and all their values, without a copy if in one chunk."""
    column_type = pa.list_(value_type)
    if name not in table.column_names or table.schema.field(name).type != column_type:
        raise SoftTargetError(
            f"soft targets need a column {name} of type {column_type}; found:\n{table.schema}"
        )
    column = table.column(name)
    lists = (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays([pa.array([], type=column_type), *column.chunks])
    )
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise SoftTargetError(f"column {name} holds nulls; score its rows again")
    lengths_S: Int64s = np.diff(lists.offsets.to_numpy().astype(np.int64))
    return lengths_S, values


def _mask_sums(table: pa.Table) -> Int64s:
    lengths_S, flags = _flatten(table, "loss_mask", pa.uint8())
    running = np.concatenate([[0], np.cumsum(flags.to_numpy(), dtype=np.int64)])
    ends_S = np.cumsum(lengths_S)
    sums_S: Int64s = running[ends_S] - running[ends_S - lengths_S]
    return sums_S


def _tensor(values: pa.Array) -> torch.Tensor:
    # Arrow's memory is read only, which torch cannot express: from_numpy would warn of it, DLPack
    # does not. The docstring of `columns_to_targets` forbids writing.
    tensor: torch.Tensor = from_dlpack(values)
    return tensor
