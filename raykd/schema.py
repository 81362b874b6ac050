"""The columns at each doorway of a row's way: name, dtype, shape, meaning.

Shapes: L tokens of one row. Lists are stored flat, row after row. The columns of soft targets are
the codec's: see `soft_targets/codec.py`.
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

MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])

PROMPTS = pa.schema(
    [
        # Number of the prompt in its corpus.
        pa.field("prompt", pa.int64()),
        # 0 ... num_samples - 1.
        pa.field("sample", pa.int32()),
        # Where this completion's draws come from; nobody else's.
        pa.field("seed", pa.int64()),
        # Chat turns for the teacher's template, the last one the user's; null where `text` is not.
        pa.field("messages", pa.list_(MESSAGE)),
        # A prompt to be continued as it is; null where `messages` is not.
        pa.field("text", pa.string()),
    ]
)
"""What a teacher is asked to complete."""

_TOKEN = [
    # UTF-8 bytes of a token; null where only its id is known, or the endpoint does not tell them.
    pa.field("token", pa.binary()),
    # Its id, where the endpoint tells that instead.
    pa.field("token_id", pa.int32()),
    # Nats.
    pa.field("logprob", pa.float32()),
]

TOKENS = pa.list_(pa.struct([*_TOKEN, pa.field("top", pa.list_(pa.struct(_TOKEN)))]))
"""The tokens of a completion, each with the likeliest ones in its place."""

LOGPROBS = "logprobs"
"""The column of `COMPLETIONS` that is large: it is read apart from the others."""

COMPLETIONS = pa.schema(
    [
        # Without the prompt, without special tokens and the stop string; null where there is none.
        pa.field("completion", pa.string()),
        # "stop", "length", "refused" (by the endpoint or the model), "malformed" (no answer).
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        # Mean log probability of its tokens under the teacher, nats; null where it does not say.
        pa.field("mean_logprob", pa.float32()),
        # What an endpoint that was asked for `top_logprobs` says of each token; null of all others.
        pa.field(LOGPROBS, TOKENS),
    ]
)
"""What it answers, row for row."""

TEACHER_S = pa.field("teacher_s", pa.float32())
"""Seconds of the teacher's own work on a row (its share of the request)."""


def scored(targets: pa.Schema) -> pa.Schema:
    """A row with its soft targets, as a student rank receives it.

    Args:
        targets: The columns of the job's codec (`soft_targets.codec.target_schema`).
    """
    return pa.schema([*ORDERED, *targets, TEACHER_S])


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
