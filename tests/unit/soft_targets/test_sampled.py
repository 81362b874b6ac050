"""Codec `sampled`: the draws by their definition, their mean over keys, and broken ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from soft_target_cases import (
    flat_values,
    normal,
    some_encoded,
    some_keys,
    some_labels,
    some_table,
    table_of,
    with_values,
)

from raykd.errors import SoftTargetError
from raykd.soft_targets import teacher_output
from raykd.soft_targets.codec import CodecSpec, SampledTokens, TokenError, decode, encode
from raykd.soft_targets.keys import uniform
from tests.codec_specs import SAMPLED, SPECS, V


def read(logits_TV: torch.Tensor, keys_T: torch.Tensor, spec: CodecSpec) -> SampledTokens:
    labels_T = some_labels(len(logits_TV), spec.vocab_size)
    targets = decode(table_of(encode(logits_TV, labels_T, keys_T, spec), spec), spec)
    assert isinstance(targets, SampledTokens)
    return targets


def dense(targets: SampledTokens, vocab_size: int) -> torch.Tensor:
    """Weights of all ids [T, V], float64."""
    weights_TV = torch.zeros(targets.num_tokens, vocab_size, dtype=torch.float64)
    return weights_TV.scatter_add(1, targets.ids_TU.long(), targets.weights_TU.double())


@pytest.mark.parametrize("draws", [1, 7, 255])
def test_counts_are_those_of_the_definition(draws: int) -> None:
    """floor(R C_v + u) - floor(R C_(v-1) + u), id after id, in python's floats."""
    logits_TV = normal(20, V)
    logits_TV[3, 4:] = -math.inf
    logits_TV[4] = 0.0
    keys_T = some_keys(20)
    spec = CodecSpec("sampled", V, (1.0, 2.0), draws=draws)
    found_TV = dense(read(logits_TV, keys_T, spec), V) * draws
    numbers = uniform(keys_T).tolist()
    for token, p_V in enumerate((logits_TV.double() / 2.0).softmax(1).tolist()):
        reached, expected = 0.0, []
        for p in p_V:
            before = math.floor(draws * reached + numbers[token])
            reached += p
            expected.append(math.floor(draws * reached + numbers[token]) - before)
        assert found_TV[token].round(decimals=4).tolist() == expected


@pytest.mark.parametrize("proposal", [None, 1.0, 4.0])
def test_the_mean_over_keys_is_the_teachers_distribution(proposal: float | None) -> None:
    num_keys = 20_000
    logits_V = normal(1, V, seed=5)[0]
    logits_V[2] = -math.inf
    spec = CodecSpec("sampled", V, (1.0, 2.0), draws=6, proposal_temperature=proposal)
    targets = read(logits_V.expand(num_keys, V), some_keys(num_keys), spec)
    estimates_TV = dense(targets, V)
    p_V = (logits_V.double() / 2.0).softmax(0)
    error_V = (estimates_TV.mean(0) - p_V).abs()
    standard_error_V = estimates_TV.std(0) / math.sqrt(num_keys)
    assert bool((error_V <= 4 * standard_error_V + 1e-7).all())
    # So it could fail: draws that are of another temperature are far outside.
    other_V = (estimates_TV.mean(0) - logits_V.double().softmax(0)).abs()
    assert bool((other_V > 4 * standard_error_V + 1e-7).any())
    if proposal is None:
        assert bool(((estimates_TV.sum(1) - 1).abs() < 1e-6).all())
    else:
        sums_T = estimates_TV.sum(1)
        assert abs(float(sums_T.mean()) - 1) <= 4 * float(sums_T.std()) / math.sqrt(num_keys) + 1e-7


def test_counts_vary_less_than_independent_draws_would() -> None:
    num_keys, draws = 5_000, 10
    logits_V = normal(1, V, seed=6, scale=1.0)[0]
    spec = CodecSpec("sampled", V, draws=draws)
    counts_TV = dense(read(logits_V.expand(num_keys, V), some_keys(num_keys), spec), V) * draws
    p_V = logits_V.double().softmax(0)
    independent_V = draws * p_V * (1 - p_V)
    share_V = (draws * p_V) % 1
    torch.testing.assert_close(counts_TV.var(0), share_V * (1 - share_V), rtol=0, atol=0.02)
    assert bool((counts_TV.var(0) <= independent_V + 0.02).all())


def test_ids_ascend_and_padding_weighs_nothing() -> None:
    targets = read(normal(30, V), some_keys(30), SAMPLED)
    seen = set()
    for ids_U, weights_U in zip(targets.ids_TU.tolist(), targets.weights_TU.tolist(), strict=True):
        here = [v for v, weight in zip(ids_U, weights_U, strict=True) if weight > 0]
        assert here == sorted(set(here))
        assert all(v == 0 for v in ids_U[len(here) :])
        seen.add(len(here))
    assert len(seen) > 1, "rows are ragged"


def test_entropy_and_label_are_exact() -> None:
    logits_TV, labels_T = normal(8, V), some_labels(8, V)
    logits_TV[1, 3:] = -math.inf
    labels_T[1] = 5
    spec = replace(SAMPLED, temperatures=(1.0, 2.5))
    targets = decode(table_of(encode(logits_TV, labels_T, some_keys(8), spec), spec), spec)
    p_TV = (logits_TV.double() / 2.5).softmax(1)
    entropy_T = -torch.special.xlogy(p_TV, p_TV).sum(1)
    torch.testing.assert_close(targets.entropy_T.double(), entropy_T, rtol=1e-5, atol=1e-6)
    expected_T = logits_TV.double().log_softmax(1).gather(1, labels_T[:, None])[:, 0]
    torch.testing.assert_close(targets.label_logprobs_T.double(), expected_T, rtol=1e-5, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_TV, keys_T = normal(13, V), some_keys(13)
    whole = encode(logits_TV, some_labels(13, V), keys_T, SAMPLED)
    monkeypatch.setattr(teacher_output, "BLOCK_ELEMENTS", {"cpu": 30})
    parts = encode(logits_TV, some_labels(13, V), keys_T, SAMPLED)
    for name, column in whole.columns.items():
        assert torch.equal(parts.columns[name], column)


def test_a_token_draws_the_same_wherever_it_is_scored() -> None:
    logits_TV, keys_T = normal(6, V), some_keys(6)
    whole = dense(read(logits_TV, keys_T, SAMPLED), V)
    assert torch.equal(dense(read(logits_TV[2:4], keys_T[2:4], SAMPLED), V), whole[2:4])
    again = read(logits_TV, some_keys(6, seed=1), SAMPLED)
    assert not torch.equal(dense(again, V), whole)


@pytest.mark.parametrize(
    ("where", "value"), [((2, 3), math.nan), ((2, 0), math.inf), ((2, slice(None)), -math.inf)]
)
def test_bad_logits_name_their_token(where: tuple[int, int], value: float) -> None:
    logits_TV = normal(5, V)
    logits_TV[where] = value
    with pytest.raises(TokenError, match="token 2: the teacher's logits hold NaN"):
        encode(logits_TV, some_labels(5, V), some_keys(5), SAMPLED)


@pytest.mark.parametrize("label", [-1, V])
def test_a_label_outside_the_vocabulary_is_named(label: int) -> None:
    with pytest.raises(TokenError, match=rf"token 1: its label is id {label}"):
        encode(normal(3, V), torch.tensor([0, label, 2]), some_keys(3), SAMPLED)


def spoiled(name: str, at: int, value: float, spec: CodecSpec) -> object:
    table = some_table(spec)
    values = flat_values(table, name)
    values[at] = value
    return decode(with_values(table, name, values), spec)


def first_of_last_token(spec: CodecSpec) -> int:
    """Where the ragged values of row 42's second token begin."""
    return int(some_encoded(spec).columns["target_unique"][:5].sum())


@pytest.mark.parametrize(
    ("name", "offset", "value", "complaint"),
    [
        ("target_id_gaps", 0, V, "ids reach from"),
        ("target_id_gaps", 1, 0, "twice, or with no draw"),
        ("target_counts", 0, 0, "twice, or with no draw"),
        ("target_counts", 0, 200, r"counts add up to 2\d\d, not 9 draws"),
    ],
)
def test_a_broken_draw_names_row_and_token(
    name: str, offset: int, value: int, complaint: str
) -> None:
    assert int(some_encoded(SAMPLED).columns["target_unique"][5]) > 1
    with pytest.raises(SoftTargetError, match=rf"row 42, token 1 of .*{complaint}"):
        spoiled(name, first_of_last_token(SAMPLED) + offset, value, SAMPLED)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_ratio_is_named(value: float) -> None:
    spec = SPECS["sampled elsewhere"]
    with pytest.raises(SoftTargetError, match=r"row 42, token 1 of .*a weight is not a finite"):
        spoiled("target_log_ratios", first_of_last_token(spec), value, spec)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("target_entropy", -0.1, "its entropy is -0.1"),
        ("target_entropy", 2.5, r"its entropy is 2.5, allowed is from 0 to 2.3979"),
        ("target_entropy", math.nan, "its entropy is nan"),
        ("label_logprobs", 0.1, "label's log probability"),
        ("label_logprobs", math.nan, "label's log probability"),
    ],
)
def test_a_broken_number_names_row_and_token(name: str, value: float, complaint: str) -> None:
    with pytest.raises(SoftTargetError, match=rf"row 42, token 1 of .*{complaint}"):
        spoiled(name, 5, value, SAMPLED)


def test_lengths_that_move_between_tokens_are_refused() -> None:
    """Their sum fits the row, so the lists do too; the draws do not."""
    table = some_table(SAMPLED)
    unique = flat_values(table, "target_unique")
    unique[4] += 1
    unique[5] -= 1
    with pytest.raises(SoftTargetError, match=r"row 42, token [01]"):
        decode(with_values(table, "target_unique", unique), SAMPLED)
    unique[4] += unique[5]
    unique[5] = 0
    with pytest.raises(SoftTargetError, match=r"row 42, token 1 of .*nothing was drawn"):
        decode(with_values(table, "target_unique", unique), SAMPLED)
    unique[5] = 200
    with pytest.raises(SoftTargetError, match=r"row 42: target_id_gaps holds .* target_unique"):
        decode(with_values(table, "target_unique", unique.astype(np.uint8)), SAMPLED)
