"""Codecs `hidden` and `full`: what arrives, how exactly, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from soft_target_cases import flat_values, normal, some_labels, some_table, table_of, with_values

from raykd.errors import SoftTargetError
from raykd.soft_targets import teacher_output
from raykd.soft_targets.codec import (
    CodecSpec,
    FullTargets,
    HiddenStates,
    TokenError,
    decode,
    encode,
)
from tests.codec_specs import FULL, HIDDEN, SPECS, D, V


def hidden_back(hidden_TD: torch.Tensor, spec: CodecSpec) -> torch.Tensor:
    states = decode(table_of(encode(hidden_TD, None, None, spec), spec), spec)
    assert isinstance(states, HiddenStates)
    return states.hidden_TD


def test_hidden_states_arrive_in_their_width() -> None:
    hidden_TD = normal(7, D)
    hidden_TD[2] = 0.0
    assert torch.equal(hidden_back(hidden_TD, HIDDEN), hidden_TD)
    bf16 = replace(HIDDEN, hidden_values="bf16")
    assert torch.equal(hidden_back(hidden_TD, bf16), hidden_TD.bfloat16())
    # What a bf16 teacher computes is not rounded at all.
    assert torch.equal(hidden_back(hidden_TD.bfloat16(), bf16), hidden_TD.bfloat16())
    int8_TD = hidden_back(hidden_TD, replace(HIDDEN, hidden_values="int8"))
    assert int8_TD.dtype == torch.float32
    scale_T1 = hidden_TD.double().abs().amax(1, keepdim=True) / 127
    assert bool(((int8_TD - hidden_TD.double()).abs() <= scale_T1 / 2 + 1e-6).all())


def test_a_part_of_a_wider_tensor_is_taken_as_it_is() -> None:
    wide_TD = normal(5, 2 * D).bfloat16()
    bf16 = replace(HIDDEN, hidden_values="bf16")
    assert torch.equal(hidden_back(wide_TD[:, ::2], bf16), wide_TD[:, ::2])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("values", ["fp32", "bf16", "int8"])
def test_bad_hidden_states_name_their_token(values: str, value: float) -> None:
    hidden_TD = normal(5, D)
    hidden_TD[2, 1] = value
    with pytest.raises(TokenError, match="token 2: the teacher's hidden states hold NaN"):
        encode(hidden_TD, None, None, replace(HIDDEN, hidden_values=values))


def test_a_number_too_great_for_bfloat16_is_refused() -> None:
    hidden_TD = normal(3, D)
    hidden_TD[1, 0] = 3.4e38
    encode(hidden_TD, None, None, HIDDEN)
    with pytest.raises(TokenError, match="token 1"):
        encode(hidden_TD, None, None, replace(HIDDEN, hidden_values="bf16"))


@pytest.mark.parametrize(
    ("spec", "name", "at", "value"),
    [
        (SPECS["hidden fp32"], "target_hidden", 5 * D + 1, math.nan),
        (SPECS["hidden fp32"], "target_hidden", 5 * D + 1, -math.inf),
        (SPECS["hidden bf16"], "target_hidden", 5 * D + 1, 0x7FC0),
        (SPECS["hidden bf16"], "target_hidden", 5 * D + 1, 0xFF80),
        (SPECS["hidden int8"], "target_hidden_scale", 5, math.nan),
    ],
)
def test_broken_hidden_states_name_row_and_token(
    spec: CodecSpec, name: str, at: int, value: float
) -> None:
    table = some_table(spec)
    values = flat_values(table, name)
    values[at] = value
    with pytest.raises(SoftTargetError, match=r"row 42, token 1 of .*holds NaN or inf"):
        decode(with_values(table, name, values), spec)


def full_back(logits_TV: torch.Tensor, labels_T: torch.Tensor, spec: CodecSpec) -> FullTargets:
    targets = decode(table_of(encode(logits_TV, labels_T, None, spec), spec), spec)
    assert isinstance(targets, FullTargets)
    return targets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_log_probability_arrives(dtype: torch.dtype) -> None:
    logits_TV, labels_T = normal(7, V).to(dtype), some_labels(7, V)
    logits_TV[1, 4:] = -math.inf
    logits_TV[2] = 3.0
    logprobs_TV = logits_TV.double().log_softmax(1)
    exact = full_back(logits_TV, labels_T, FULL)
    torch.testing.assert_close(exact.logprobs_TV.double(), logprobs_TV, rtol=1e-6, atol=1e-6)
    narrow = full_back(logits_TV, labels_T, replace(FULL, values="bf16"))
    assert narrow.logprobs_TV.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.logprobs_TV.double(), logprobs_TV, rtol=2.0**-8, atol=1e-6)
    expected_T = logprobs_TV.gather(1, labels_T[:, None])[:, 0]
    for targets in (exact, narrow):
        torch.testing.assert_close(
            targets.label_logprobs_T.double(), expected_T, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("values", ["fp32", "bf16"])
def test_a_flat_distribution_over_many_ids_passes_its_own_check(values: str) -> None:
    """The widest miss of a mass in bf16: every log probability rounded the same way."""
    for vocab_size in (700, 3000, 50_000):
        spec = replace(FULL, vocab_size=vocab_size, values=values)
        assert full_back(torch.zeros(2, vocab_size), torch.tensor([0, 1]), spec).num_tokens == 2


def test_blocks_see_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_output, "BLOCK_ELEMENTS", {"cpu": 30})
    encoded = encode(normal(13, V), some_labels(13, V), None, FULL)
    encoded.columns["target_logprobs"][12, 3] = math.nan
    with pytest.raises(SoftTargetError, match="token 12"):
        decode(table_of(encoded, FULL), FULL)


@pytest.mark.parametrize(
    ("where", "value"), [((2, 3), math.nan), ((2, 0), math.inf), ((2, slice(None)), -math.inf)]
)
def test_bad_logits_name_their_token(where: tuple[int, int], value: float) -> None:
    logits_TV = normal(5, V)
    logits_TV[where] = value
    with pytest.raises(TokenError, match="token 2: the teacher's logits hold NaN"):
        encode(logits_TV, some_labels(5, V), None, FULL)


@pytest.mark.parametrize("label", [-1, V])
def test_a_label_outside_the_vocabulary_is_named(label: int) -> None:
    with pytest.raises(TokenError, match=rf"token 1: its label is id {label}"):
        encode(normal(3, V), torch.tensor([0, label, 2]), None, FULL)


@pytest.mark.parametrize(
    ("name", "at", "value", "complaint"),
    [
        ("target_logprobs", 5 * V + 1, math.nan, "mass is nan"),
        ("target_logprobs", 5 * V + 1, 0.0, "mass is 1"),
        ("target_logprobs", slice(5 * V, 6 * V), -math.inf, "mass is 0"),
        ("label_logprobs", 5, 0.1, "label's log probability"),
    ],
)
def test_a_broken_distribution_names_row_and_token(
    name: str, at: int | slice, value: float, complaint: str
) -> None:
    table = some_table(FULL)
    values = flat_values(table, name)
    values[at] = np.float32(value)
    with pytest.raises(SoftTargetError, match=rf"row 42, token 1 of .*{complaint}"):
        decode(with_values(table, name, values), FULL)
