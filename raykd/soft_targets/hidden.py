"""Codec `hidden`: the teacher's last hidden state, from which the student's side makes all logits.

2 D bytes a token in bf16, whatever the vocabulary; the teacher's head travels once. Exact wherever
the teacher's own head takes that dtype: nothing of the distribution is left out. int8 with one
scale a token is not: a few great components take the range from all others, and 1e-2 nats are lost
(benchmarks/codecs.py).

Shapes: T tokens, M tokens of a table, D hidden size.
"""

from __future__ import annotations

import math
from typing import Final

import pyarrow as pa
import torch

from raykd.soft_targets import checks
from raykd.soft_targets.columns import Column, read_columns
from raykd.soft_targets.decoded import HiddenStates
from raykd.soft_targets.encoded import Encoded
from raykd.soft_targets.quantize import quantize_symmetric
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.teacher_output import check_finite

HIDDEN: Final = "target_hidden"
SCALE: Final = "target_hidden_scale"

_VALUE_TYPES: Final = {"fp32": pa.float32(), "bf16": pa.uint16(), "int8": pa.int8()}


def columns(spec: CodecSpec) -> list[Column]:
    """The wire's columns, in order."""
    hidden = Column(HIDDEN, _VALUE_TYPES[spec.hidden_values], spec.hidden_size)
    return [hidden, Column(SCALE, pa.float32())] if spec.hidden_values == "int8" else [hidden]


@torch.no_grad()
def encode(hidden_TD: torch.Tensor, spec: CodecSpec) -> Encoded:
    """Narrow hidden states.

    Args:
        hidden_TD: Any float dtype.
        spec: Codec `hidden`.

    Raises:
        TokenError: A token's hidden state holds NaN or inf.
        ValueError: D is not `spec.hidden_size`.
    """
    if hidden_TD.shape[1] != spec.hidden_size:
        raise ValueError(
            f"hidden_size is {spec.hidden_size}; the states given are {tuple(hidden_TD.shape)}"
        )
    if spec.hidden_values == "int8":
        check_finite(_greatest(hidden_TD), "hidden states")
        codes_TD, scale_T1 = quantize_symmetric(hidden_TD)
        return Encoded({HIDDEN: codes_TD, SCALE: scale_T1})
    dtype = torch.float32 if spec.hidden_values == "fp32" else torch.bfloat16
    narrow_TD = hidden_TD.to(dtype)
    # After narrowing: what float32 holds may be infinite in bfloat16.
    check_finite(_greatest(narrow_TD), "hidden states")
    if dtype == torch.bfloat16:
        return Encoded({HIDDEN: narrow_TD.view(torch.uint16)})
    return Encoded({HIDDEN: narrow_TD})


def decode(table: pa.Table, spec: CodecSpec, device: torch.device | str) -> HiddenStates:
    """Read and check the hidden states of all rows of `table`; see `codec.decode`."""
    lengths_S, read = read_columns(table, columns(spec))
    codes_MD = read[HIDDEN]
    if spec.hidden_values == "bf16":
        codes_MD = codes_MD.view(torch.bfloat16)
    scale_M1 = read.get(SCALE)
    # Whole numbers are finite; their scale decides.
    measure_M = _greatest(codes_MD) if scale_M1 is None else scale_M1[:, 0]
    checks.require(
        table,
        lengths_S,
        [(measure_M.abs() < math.inf, lambda m: "its hidden state holds NaN or inf")],
    )
    hidden_MD = codes_MD.to(device)
    if scale_M1 is not None:
        hidden_MD = hidden_MD.float() * scale_M1.to(device)
    return HiddenStates(hidden_MD)


def _greatest(hidden_TD: torch.Tensor) -> torch.Tensor:
    """Greatest magnitude [T]; NaN where there is one."""
    return torch.maximum(hidden_TD.amax(1), -hidden_TD.amin(1))
