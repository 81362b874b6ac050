"""The columns at each doorway of a row's way: name, dtype, shape, meaning.

Shapes: L tokens of one row, M of them learned from (`loss_mask` is 1), K ids kept for each of the
M, N temperatures at which the tail is kept. Lists are stored flat, row after row.
"""

from __future__ import annotations

import pyarrow as pa

from raykd.errors import OrderError

PREPARED = pa.schema(
    [
        # L token ids; padding carries the tokenizer's pad id.
        pa.field("input_ids", pa.list_(pa.int32())),
        # L positions, from 0 in every document; padding is 0, so that it is a document of its own.
        pa.field("position_ids", pa.list_(pa.int32())),
        # L flags: 1 where the *next* token is one to learn. Never set on a document's last token.
        pa.field("loss_mask", pa.list_(pa.uint8())),
    ]
)
"""A row as it lies on disk after preparation."""

ORDERED = pa.schema(
    [
        # Place in the run: 0, 1, 2, ... over all epochs. Rows past the end are fillers.
        pa.field("row", pa.int64()),
        # Index of the prepared row; -1 is a filler that completes the last step.
        pa.field("source_row", pa.int64()),
        *PREPARED,
    ]
)
"""A row in its place in the run."""

SOFT_TARGETS = pa.schema(
    [
        # M x K ids, likeliest first.
        pa.field("target_ids", pa.list_(pa.int32())),
        # M x K natural-log probabilities at temperature 1.
        pa.field("target_logprobs", pa.list_(pa.float32())),
        # M x N: log sum over all ids not kept of exp(logprob / temperature). At temperature 1 it is
        # the log of the tail's mass; -inf where nothing is left out.
        pa.field("target_log_tail", pa.list_(pa.float32())),
        # M: the teacher's log probability of the token that really follows.
        pa.field("label_logprobs", pa.list_(pa.float32())),
    ]
)
"""What the teacher says about one row."""

SCORED = pa.schema(
    [
        *ORDERED,
        *SOFT_TARGETS,
        # Seconds of the teacher's own work on this row (its share of the request).
        pa.field("teacher_s", pa.float32()),
    ]
)
"""A row with its soft targets, as a student rank receives it."""


def check_columns(table: pa.Table, schema: pa.Schema, doorway: str) -> pa.Table:
    """Return `table` unchanged if it has exactly the columns of `schema`.

    Args:
        table: What arrived.
        schema: What the doorway lets through.
        doorway: Its name, for the message.

    Raises:
        OrderError: A column is missing, extra, out of order, or of another type.
    """
    if not table.schema.equals(schema, check_metadata=False):
        raise OrderError(
            f"{doorway}: the columns are not the declared ones.\nfound:\n{table.schema}\n"
            f"declared:\n{schema}"
        )
    return table
