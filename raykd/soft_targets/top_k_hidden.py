"""Codec `top_k_hidden`: the columns of `top_k`, and those of `hidden` beside them.

Of a masked language model whose student is to be like its teacher in both, at the same tokens.

Shapes: T tokens, V vocabulary ids, D hidden size.
"""

from __future__ import annotations

import pyarrow as pa
import torch

from raykd.soft_targets import hidden, top_k
from raykd.soft_targets.columns import Column
from raykd.soft_targets.decoded import TopKHidden
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.spec import CodecSpec


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order."""
    return top_k.columns(spec) + hidden.columns(spec)


def encode(
    logits_TV: torch.Tensor,
    label_ids_T: torch.Tensor,
    hidden_TD: torch.Tensor,
    spec: CodecSpec,
) -> Encoded:
    """Reduce logits and narrow states; see `top_k.encode` and `hidden.encode`."""
    reduced = top_k.encode(logits_TV, label_ids_T, spec)
    return Encoded(reduced.columns | hidden.encode(hidden_TD, spec).columns)


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> TopKHidden:
    """Read and check both of all rows of `table`; see `codec.decode`."""
    states = hidden.decode(table, spec, device)
    return TopKHidden(top_k.decode(table, spec, device), states.hidden_TD)
