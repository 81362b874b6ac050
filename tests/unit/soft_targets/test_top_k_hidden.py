"""Likeliest ids and hidden states in one codec: each as its own codec has it."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from raykd.errors import SoftTargetError
from raykd.soft_targets.codec import (
    HiddenStates,
    TopKHidden,
    TopKTargets,
    decode,
    encode,
    target_schema,
    to_columns,
)
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.top_k_hidden import encode as encode_both

BOTH = CodecSpec("top_k_hidden", 50, (1.0, 2.0), top_k=6, hidden_size=4, fingerprint="x")
DRAW = torch.Generator().manual_seed(0)
LOGITS, STATES = torch.randn(5, 50, generator=DRAW), torch.randn(5, 4, generator=DRAW)
LABELS = torch.arange(5)


def table_of(encoded: object, spec: CodecSpec) -> pa.Table:
    parts = encoded.cpu().split([2, 0, 3])  # type: ignore[attr-defined]
    return pa.table(to_columns(parts, spec))


@pytest.mark.parametrize("values", ["fp32", "int8"])
def test_both_come_back_as_they_do_alone(values: str) -> None:
    both = replace(BOTH, values=values)
    alone = replace(both, codec="top_k"), replace(both, codec="hidden")
    table = table_of(encode_both(LOGITS, LABELS, STATES, both), both)
    assert table.schema.equals(target_schema(both))
    found = decode(table, both)
    assert isinstance(found, TopKHidden)
    kept = decode(table_of(encode(LOGITS, LABELS, None, alone[0]), alone[0]), alone[0])
    states = decode(table_of(encode(STATES, None, None, alone[1]), alone[1]), alone[1])
    assert isinstance(kept, TopKTargets)
    assert isinstance(states, HiddenStates)
    for one, two in zip(found.top_k.tensors, kept.tensors, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(found.hidden_TD, states.hidden_TD)


@pytest.mark.parametrize(
    "other", [{"hidden_size": 5}, {"top_k": 5}, {"hidden_values": "fp32"}, {"temperatures": (1.0,)}]
)
def test_other_options_are_other_targets(other: dict[str, object]) -> None:
    assert replace(BOTH, **other).stamp != BOTH.stamp  # type: ignore[arg-type]
    assert replace(BOTH, **other).facts != BOTH.facts  # type: ignore[arg-type]


def test_one_without_the_other_is_refused() -> None:
    alone = replace(BOTH, codec="top_k")
    table = table_of(encode(LOGITS, LABELS, None, alone), alone)
    stamped = table.set_column(0, table.field(0), pa.array([BOTH.stamp] * 3, pa.uint32()))
    with pytest.raises(SoftTargetError, match="target_hidden"):
        decode(stamped, BOTH)
    with pytest.raises(ValueError, match="hidden_size must be at least 1"):
        replace(BOTH, hidden_size=0)
