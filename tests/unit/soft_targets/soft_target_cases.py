"""Material that the tests of this room share: logits, specs of every codec, a table of rows."""

import math

import numpy as np
import pyarrow as pa
import torch

from raykd.soft_targets.codec import CodecSpec, Encoded, encode, to_columns, token_keys

LENGTHS = [4, 0, 2]
"""Tokens learned from in rows 40, 41 and 42."""
MASKS = [[1, 0, 1, 1, 1], [0, 0], [1, 1]]


def normal(num_tokens: int, width: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_tokens, width, generator=generator)


def some_labels(num_tokens: int, vocab_size: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (num_tokens,), generator=generator)


def some_keys(num_tokens: int, seed: int = 0) -> torch.Tensor:
    return token_keys([np.arange(7)], [num_tokens], seed)


def some_source(spec: CodecSpec, num_tokens: int) -> torch.Tensor:
    """Logits, with ids ruled out for the first token, or hidden states."""
    if spec.source == "hidden":
        return normal(num_tokens, spec.hidden_size)
    logits_TV = normal(num_tokens, spec.vocab_size, scale=2.0)
    if num_tokens:
        logits_TV[0, 5:] = -math.inf
    return logits_TV


def some_encoded(spec: CodecSpec, num_tokens: int = sum(LENGTHS)) -> Encoded:
    labels_T = torch.arange(num_tokens) % 5
    return encode(some_source(spec, num_tokens), labels_T, some_keys(num_tokens), spec)


def some_table(spec: CodecSpec) -> pa.Table:
    return (
        pa.table(to_columns(some_encoded(spec).split(LENGTHS), spec))
        .append_column("loss_mask", pa.array(MASKS, type=pa.list_(pa.uint8())))
        .append_column("row", pa.array([40, 41, 42]))
    )


def table_of(encoded: Encoded, spec: CodecSpec) -> pa.Table:
    """One row."""
    return pa.table(to_columns([encoded], spec))


def with_values(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    """The table with other flat values in a list column."""
    lists = table.column(name).chunk(0)
    column = pa.ListArray.from_arrays(lists.offsets, pa.array(values, type=lists.type.value_type))
    return table.set_column(table.column_names.index(name), name, column)


def flat_values(table: pa.Table, name: str) -> np.ndarray:
    """A copy of a list column's flat values."""
    return table.column(name).chunk(0).values.to_numpy(zero_copy_only=False).copy()
