"""Bytes of a token by arithmetic against the columns that codecs really make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd.errors import ModelError
from raykd.planning.traffic import (
    all_codecs,
    full_bytes,
    hidden_bytes,
    job_codec,
    sampled_bytes,
    top_k_bytes,
)
from raykd.soft_targets import states
from raykd.soft_targets.codec import encode, to_columns
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import CodecSpec

TOKENS = 40


def wire_bytes(spec: CodecSpec) -> float:
    """Of a token: everything that lies in the columns but the lists' offsets and the stamp."""
    torch.manual_seed(0)
    width = spec.hidden_size if spec.codec == "hidden" else spec.vocab_size
    source = 3 * torch.randn(TOKENS, width)
    labels = torch.randint(0, spec.vocab_size, (TOKENS,))
    keys = torch.arange(TOKENS)
    columns = to_columns(list(encode(source, labels, keys, spec).split([15, 25])), spec)
    total = 0
    for name, column in columns.items():
        if name == STAMP:
            continue
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        total += array.flatten().nbytes
    return total / TOKENS


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 3.0, 2.0)])
@pytest.mark.parametrize("values", ["fp32", "bf16", "int8", "int6"])
@pytest.mark.parametrize("vocab_size", [320, 70_000])
def test_top_k(vocab_size: int, values: str, temperatures: tuple[float, ...]) -> None:
    for k in (5, 64):
        spec = CodecSpec("top_k", vocab_size, temperatures, top_k=k, values=values)
        assert top_k_bytes(vocab_size, k, values, len(temperatures)) == wire_bytes(spec)
    without = CodecSpec("top_k", vocab_size, temperatures, top_k=5, values=values, tail=False)
    assert top_k_bytes(vocab_size, 5, values, 0) == wire_bytes(without)


@pytest.mark.parametrize("proposal", [None, 1.5])
def test_sampled_is_bounded(proposal: float | None) -> None:
    spec = CodecSpec("sampled", 320, (1.0, 2.0), draws=30, proposal_temperature=proposal)
    most = sampled_bytes(320, 30, ratios=proposal is not None)
    assert 0.3 * most < wire_bytes(spec) <= most


@pytest.mark.parametrize("values", ["fp32", "bf16", "int8"])
def test_hidden(values: str) -> None:
    spec = CodecSpec("hidden", 320, hidden_size=48, hidden_values=values)
    assert hidden_bytes(48, values) == wire_bytes(spec)


@pytest.mark.parametrize("values", ["fp32", "bf16"])
def test_full(values: str) -> None:
    assert full_bytes(320, values) == wire_bytes(CodecSpec("full", 320, values=values))


def test_the_jobs_own_comes_first(make_job: Callable[..., Any], models: Any) -> None:
    job = make_job({"soft_targets.top_k": 64, "loss.temperature": 2.0})
    ours, *others = all_codecs(job, models, None)
    assert ours.label == "top_k 64 int8"
    assert ours.token_bytes == top_k_bytes(models.vocab_size, 64, "int8", 2)
    assert "top_k 64 int8" not in [one.label for one in others]
    assert {"sampled 50", "hidden bf16", "full bf16"} <= {one.label for one in others}


def test_a_probe_knows_better(make_job: Callable[..., Any], models: Any) -> None:
    job = make_job({"soft_targets.top_k": 64})
    found = job_codec(job, models, {"top_k 64 int8": 123.0})
    assert (found.token_bytes, found.measured) == (123.0, True)


@pytest.mark.parametrize("alone", [False, True])
def test_inner_states_are_counted_for_every_token(
    alone: bool, make_job: Callable[..., Any], models: Any
) -> None:
    """Against columns that the codec makes; layers 17 and 35 of 36 travel, each once."""
    asked = {
        "layers": {0: 17, 1: 17, 27: 35},
        "hidden": {},
        "attention": {"relations": ["query", "key"]},
    }
    method = {"method": "representations", "soft_targets": {}} if alone else {}
    found = all_codecs(make_job({"representations": asked, **method}), models, None)
    widths = (("query", 4096), ("key", 1024))
    spec = CodecSpec(
        "states",
        1,
        hidden_size=4096,
        state_layers=(17, 35),
        attention_layer=35,
        attention_widths=widths,
    )
    columns = to_columns(
        [
            states.encode(
                {at: torch.randn(3, 4096) for at in spec.state_layers},
                {name: torch.randn(3, width) for name, width in widths},
                spec,
            )
        ],
        spec,
    )
    num_bytes = sum(columns[name].flatten().nbytes for name in columns if name != STAMP) / 3
    assert {one.state_bytes for one in found} == {num_bytes}
    if alone:
        assert [(one.label, one.token_bytes) for one in found] == [("inner states", 0)]
    else:
        assert found[0].label == "top_k 8 int8 + inner states"
        plain = all_codecs(make_job(), models, None)
        assert [one.token_bytes for one in found] == [one.token_bytes for one in plain]


def test_a_layer_map_that_does_not_fit_is_found_by_the_plan(
    make_job: Callable[..., Any], models: Any
) -> None:
    job = make_job({"representations": {"layers": {28: 35}, "hidden": {}}})
    with pytest.raises(ModelError, match="the student has layers 0 to 27, the teacher 0 to 35"):
        all_codecs(job, models, None)
