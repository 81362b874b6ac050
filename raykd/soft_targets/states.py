"""Codec `states`: inner states of chosen layers, in bf16, for all tokens of a document.

Hidden states of each layer, 2 D bytes a token, and the query, key and value projections of one
layer, 2 W bytes each. Not only tokens to learn have them: a token's attention goes to all before
it, so every token of every document with a token to learn takes part. On its way through store and
student such a row carries a `loss_mask` that says so (`whole_documents`).

Shapes: T tokens, M tokens of a table, D hidden size, W width of a projection, N tokens of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raykd.soft_targets import checks
from raykd.soft_targets.columns import STAMP, Column, read_columns
from raykd.soft_targets.decoded import InnerStates
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import check_finite

HIDDEN: Final = "state_hidden_"
"""Followed by the layer."""
PROJECTION: Final = "state_"
"""Followed by the projection's name."""
STATE_STAMP: Final = "state_stamp"
"""The stamp's name where states travel beside soft targets, which have one of their own."""
LEARNED: Final = "learned_mask"
"""Where `whole_documents` puts the mask that it replaces."""


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order; a bf16 number is the uint16 of its bits."""
    hidden = [Column(f"{HIDDEN}{at}", pa.uint16(), spec.hidden_size) for at in spec.state_layers]
    rest = [Column(PROJECTION + name, pa.uint16(), w) for name, w in spec.attention_widths]
    return hidden + rest


@torch.no_grad()
def encode(
    hidden_TD: Mapping[int, torch.Tensor],
    projections_TW: Mapping[str, torch.Tensor],
    spec: CodecSpec,
) -> Encoded:
    """Narrow states.

    Args:
        hidden_TD: By layer, any float dtype.
        projections_TW: By name, any float dtype.
        spec: Codec `states`.

    Raises:
        TokenError: A token's state holds NaN or inf.
        ValueError: A width is not the spec's.
    """
    found = {f"{HIDDEN}{at}": hidden_TD[at] for at in spec.state_layers}
    found |= {PROJECTION + name: projections_TW[name] for name, _ in spec.attention_widths}
    encoded = {}
    for column in columns(spec):
        states_TW = found[column.name]
        if states_TW.shape[1] != column.width:
            raise ValueError(
                f"{column.name} is {column.width} wide; the states given are "
                f"{tuple(states_TW.shape)}"
            )
        narrow_TW = states_TW.to(torch.bfloat16)
        check_finite(_greatest(narrow_TW), "inner states")
        encoded[column.name] = narrow_TW.contiguous().view(torch.uint16)
    return Encoded(encoded)


def wire_schema(spec: CodecSpec) -> pa.Schema:
    """Columns beside those of soft targets, or alone."""
    fields = [column.field for column in columns(spec)]
    return pa.schema([pa.field(STATE_STAMP, pa.uint32()), *fields])


def to_wire(table: pa.Table) -> pa.Table:
    """The store's columns as they travel: the stamp under its other name."""
    return _renamed(table, STAMP, STATE_STAMP)


def from_wire(table: pa.Table, spec: CodecSpec) -> pa.Table:
    """The store's columns from those that travelled; others are left out."""
    return _renamed(table.select(wire_schema(spec).names), STATE_STAMP, STAMP)


def _renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    return table.rename_columns([new if name == old else name for name in table.column_names])


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> InnerStates:
    """Read and check the states of all rows of `table`; see `codec.decode`.

    Args:
        table: Of `whole_documents`, so that `loss_mask` says how many tokens have states.
        spec: Codec `states`.
        device: Where the tensors go after the checks.
    """
    wanted = columns(spec)
    lengths_S, read = read_columns(table, wanted)
    states = {column.name: read[column.name].view(torch.bfloat16) for column in wanted}
    conditions: list[checks.Condition] = [
        (_greatest(one) < math.inf, lambda m: "an inner state holds NaN or inf")
        for one in states.values()
    ]
    checks.require(table, lengths_S, conditions)
    return InnerStates(
        {at: states[f"{HIDDEN}{at}"].to(device) for at in spec.state_layers},
        {name: states[PROJECTION + name].to(device) for name, _ in spec.attention_widths},
    )


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of some rows that have a token to learn.

    Attributes:
        mask: uint8 [N]; 1 for each of their tokens.
        lengths_tokens: Of each, in the rows' order.
        row_tokens: Tokens of all of them in each row.
    """

    mask: npt.NDArray[np.uint8]
    lengths_tokens: list[int]
    row_tokens: list[int]


def documents_of(rows: pa.Table) -> Documents:
    """Find the documents that have a token to learn: padding is not among them.

    A document begins at each position 0 and at each row's first token.

    Args:
        rows: Columns of `schema.PREPARED`; others may be there.
    """
    positions, offsets = _flat(rows, "position_ids")
    learned, _ = _flat(rows, "loss_mask")
    begins = positions == 0
    begins[offsets[:-1][np.diff(offsets) > 0]] = True
    starts = np.flatnonzero(begins)
    if not len(starts):
        return Documents(np.zeros(0, np.uint8), [], [0] * rows.num_rows)
    lengths = np.diff(np.append(starts, len(positions)))
    kept = np.add.reduceat(learned, starts, dtype=np.int64) > 0
    mask = np.repeat(kept, lengths).astype(np.uint8)
    running = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
    return Documents(mask, lengths[kept].tolist(), np.diff(running[offsets]).tolist())


def whole_documents(rows: pa.Table) -> pa.Table:
    """Rows whose `loss_mask` takes in every token of each document with a token to learn.

    The mask that was there goes on as `learned_mask`. A second time changes nothing.

    Args:
        rows: Columns of `schema.PREPARED`; others may be there.
    """
    if LEARNED in rows.column_names:
        return rows
    at = rows.schema.get_field_index("loss_mask")
    _, offsets = _flat(rows, "loss_mask")
    mask = pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(documents_of(rows).mask)
    )
    learned = rows.column(at)
    return rows.set_column(at, rows.schema.field(at), mask).append_column(LEARNED, learned)


def learned_tokens(rows: pa.Table) -> pa.Table:
    """The rows that `whole_documents` was given."""
    if LEARNED not in rows.column_names:
        return rows
    at = rows.schema.get_field_index("loss_mask")
    learned = rows.column(LEARNED)
    return rows.drop_columns(LEARNED).set_column(at, rows.schema.field(at), learned)


def _flat(table: pa.Table, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """All values of a list column, row after row [N], and where rows begin and end."""
    column = table.column(name)
    lists = pa.concat_arrays([pa.array([], type=column.type), *column.chunks])
    offsets = np.zeros(1, np.int64)
    if len(lists):
        offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.flatten().to_numpy(), offsets - offsets[0]


def _greatest(states_TW: torch.Tensor) -> torch.Tensor:
    """Greatest magnitude [T]; NaN where there is one."""
    return torch.maximum(states_TW.amax(1), -states_TW.amin(1))
