"""The one door of this room: from the teacher's outputs to columns, and from columns to tensors.

    encode -> Encoded -> to_columns -> (wire, store) -> decode -> Decoded

To add a codec: a file with `columns`, `encode` and `decode`, its options in `CodecSpec`, a line in
each function below, and one in `parquet.parquet_options`.

Shapes: T tokens, V vocabulary ids, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from raykd.soft_targets import full, hidden, sampled, states, top_k, top_k_hidden
from raykd.soft_targets.columns import STAMP, Column, check_stamp, to_list_column
from raykd.soft_targets.decoded import (
    Decoded,
    FullTargets,
    HiddenStates,
    InnerStates,
    SampledTokens,
    TopKHidden,
    TopKTargets,
)
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.keys import token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import TokenError

__all__ = [
    "CodecSpec",
    "Decoded",
    "Encoded",
    "FullTargets",
    "HiddenStates",
    "InnerStates",
    "SampledTokens",
    "TokenError",
    "TopKHidden",
    "TopKTargets",
    "decode",
    "encode",
    "target_schema",
    "to_columns",
    "token_keys",
]

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
_DECODE: Final[
    MappingProxyType[str, Callable[[pa.Table, CodecSpec, torch.device | str], Decoded]]
] = MappingProxyType(
    {
        "top_k": top_k.decode,
        "sampled": sampled.decode,
        "hidden": hidden.decode,
        "full": full.decode,
        "states": states.decode,
        "top_k_hidden": top_k_hidden.decode,
    }
)


def encode(
    source: torch.Tensor,
    label_ids_T: torch.Tensor | None,
    keys_T: torch.Tensor | None,
    spec: CodecSpec,
) -> Encoded:
    """Make soft targets of what the teacher put out for T tokens.

    Codecs `states` and `top_k_hidden` take more than one tensor: theirs are `states.encode` and
    `top_k_hidden.encode`.

    Args:
        source: logits [T, V], or hidden states [T, D] where `spec.source` is `hidden`; any float
            dtype, any device; only read. -inf and ties are legal in logits.
        label_ids_T: Any integer dtype: the token that really follows; not used by `hidden`.
        keys_T: int64, of `token_keys`; used by `sampled` only.
        spec: The codec.

    Returns:
        The columns, on the source's device.

    Raises:
        TokenError: A token's output holds NaN, +inf or nothing finite, or its label lies outside
            the vocabulary; names the token.
        ValueError: Shapes do not fit together or the spec, or something needed is None.
    """
    if spec.codec == "hidden":
        return hidden.encode(source, spec)
    if source.shape[1] != spec.vocab_size:
        raise ValueError(f"vocab_size is {spec.vocab_size}; logits are {tuple(source.shape)}")
    if label_ids_T is None:
        raise ValueError(f"codec {spec.codec} needs labels")
    if spec.codec == "full":
        return full.encode(source, label_ids_T, spec)
    if spec.codec == "top_k":
        return top_k.encode(source, label_ids_T, spec)
    if keys_T is None:
        raise ValueError("codec sampled needs keys")
    return sampled.encode(source, label_ids_T, keys_T, spec)


def target_schema(spec: CodecSpec) -> pa.Schema:
    """Columns on the wire and at rest: the stamp, then lists of flat values, token after token."""
    fields = [column.field for column in _COLUMNS[spec.codec](spec)]
    return pa.schema([pa.field(STAMP, pa.uint32()), *fields])


def to_columns(rows: Sequence[Encoded], spec: CodecSpec) -> dict[str, pa.Array]:
    """Lay what was encoded for S rows into the columns of `target_schema`.

    Args:
        rows: One a row, in order, on any device; a row without tokens is legal.
        spec: The codec they were encoded by.

    Returns:
        The columns by name, in the schema's order, each of S values.

    Raises:
        SoftTargetError: A column would need 2^31 values or more.
    """
    stamps = pa.array(np.full(len(rows), spec.stamp, dtype=np.uint32))
    columns = _COLUMNS[spec.codec](spec)
    return {STAMP: stamps} | {
        column.name: to_list_column(column, [row.columns[column.name] for row in rows])
        for column in columns
    }


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str = "cpu") -> Decoded:
    """Read and check the targets of all rows of `table`, one row after the other.

    Nothing is copied where a column is one chunk and its values are what the student takes
    (`full`, `hidden` and `top_k` log probabilities, but for the narrow widths): the tensors are
    views of the table's own memory. Never write into them.

    Args:
        table: The columns of `target_schema`; others may be there. `loss_mask`, if there, must
            agree with the number of targets; `row`, if there, names rows in messages.
        spec: The codec that the student expects.
        device: Where the tensors go after the checks.

    Returns:
        `TopKTargets`, `SampledTokens`, `HiddenStates`, `FullTargets`, `InnerStates` or
        `TopKHidden`, by the codec.

    Raises:
        SoftTargetError: The stamp is another; columns are missing, truncated or corrupt. Names the
            row and the token.
    """
    check_stamp(table, spec.stamp)
    return _DECODE[spec.codec](table, spec, device)
