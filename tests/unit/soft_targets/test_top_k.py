"""Codec `top_k` through the door: widths against float64, and broken values."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from soft_target_cases import (
    flat_values,
    normal,
    some_encoded,
    some_labels,
    some_source,
    some_table,
    table_of,
    with_values,
)

from raykd.errors import SoftTargetError
from raykd.soft_targets.codec import CodecSpec, TokenError, TopKTargets, decode, encode
from raykd.soft_targets.reduction import encode_top_k
from tests.codec_specs import SPECS, TOP_K, K, V

WIDTHS = ["fp32", "bf16", "int8", "int6"]
NARROW = replace(TOP_K, values="int8")


def there_and_back(logits_TV: torch.Tensor, labels_T: torch.Tensor, spec: CodecSpec) -> TopKTargets:
    targets = decode(table_of(encode(logits_TV, labels_T, None, spec), spec), spec)
    assert isinstance(targets, TopKTargets)
    return targets


@pytest.mark.parametrize("vocab_size", [40, 2**16 + 40])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_fp32_arrives_as_it_was_reduced(k: int, vocab_size: int) -> None:
    logits_TV, labels_T = normal(4, vocab_size), some_labels(4, vocab_size)
    spec = CodecSpec("top_k", vocab_size, (1.0, 3.0), top_k=k, values="fp32")
    targets = there_and_back(logits_TV, labels_T, spec)
    reduced = encode_top_k(logits_TV, labels_T, k, (1.0, 3.0))
    for found, expected in zip(targets.tensors, reduced.tensors, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("vocab_size", [40, 2**16 + 40])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("values", WIDTHS)
def test_a_width_moves_values_by_a_step_and_nothing_else(
    values: str, k: int, vocab_size: int
) -> None:
    logits_TV, labels_T = normal(6, vocab_size), some_labels(6, vocab_size)
    logits_TV[5, torch.arange(vocab_size) % 7 != 0] = -math.inf
    temperatures = (1.0, 3.0)
    spec = CodecSpec("top_k", vocab_size, temperatures, top_k=k, values=values)
    targets = there_and_back(logits_TV, labels_T, spec)

    logprobs_TV = logits_TV.double().log_softmax(1)
    true_TK, true_ids_TK = logprobs_TV.topk(k, dim=1)
    finite_TK = true_TK.masked_fill(true_TK == -math.inf, 0.0)
    step_T1 = (true_TK[:, :1] - finite_TK.amin(1, keepdim=True)) * {
        "fp32": 0,
        "bf16": 2.0**-8,
        "int8": 1.01 / 253,
        "int6": 1.01 / 61,
    }[values]
    kept_TK = logprobs_TV.gather(1, targets.ids_TK.long())
    finite_TK = kept_TK > -math.inf
    off_TK = (targets.logprobs_TK.double() - kept_TK).abs()
    assert bool((off_TK <= step_T1 + 1e-5)[finite_TK].all())
    assert torch.equal(targets.logprobs_TK > -math.inf, finite_TK)
    assert torch.equal(targets.ids_TK[:, 0].long(), true_ids_TK[:, 0])
    assert bool((targets.logprobs_TK[:, 1:] <= targets.logprobs_TK[:, :-1]).all())
    for token in range(5):
        assert set(targets.ids_TK[token].tolist()) == set(true_ids_TK[token].tolist())
    torch.testing.assert_close(
        targets.logprobs_TK.double().logsumexp(1), true_TK.logsumexp(1), rtol=0, atol=2e-6
    )
    left_TV = logprobs_TV.scatter(1, targets.ids_TK.long(), -math.inf)
    for n, tau in enumerate(temperatures):
        torch.testing.assert_close(
            targets.log_tail_TN[:, n].double(), (left_TV / tau).logsumexp(1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("values", WIDTHS)
def test_of_ties_all_are_alike_and_the_likeliest_comes_first(values: str) -> None:
    logits_TV = torch.tensor([[0.0, 2.0, 2.0, 2.0, -1.0], [5.0, 5.0 - 1e-6, 5.0, 5.0, 5.0]])
    spec = CodecSpec("top_k", 5, top_k=3, values=values)
    targets = there_and_back(logits_TV, torch.tensor([0, 1]), spec)
    assert sorted(targets.ids_TK[0].tolist()) == [1, 2, 3]
    torch.testing.assert_close(
        targets.logprobs_TK[0], targets.logprobs_TK[0, :1].expand(3), rtol=0, atol=1e-6
    )
    expected = encode_top_k(logits_TV, torch.tensor([0, 1]), 3, (1.0,)).ids_TK[:, 0]
    assert torch.equal(targets.ids_TK[:, 0], expected)


def test_a_near_tie_keeps_its_winner_through_rounding() -> None:
    """Two values a hundredth of a step apart: rounding makes them one, the order stays."""
    logits_TV = torch.tensor([[0.0, 1e-4, -9.0], [1e-4, 0.0, -9.0]])
    for values in ("int8", "int6", "bf16"):
        spec = CodecSpec("top_k", 3, top_k=3, values=values)
        targets = there_and_back(logits_TV, torch.tensor([0, 0]), spec)
        assert targets.ids_TK[:, 0].tolist() == [1, 0]


def test_a_dropped_tail_takes_no_column_and_reads_as_no_mass() -> None:
    spec = SPECS["top_k without tail"]
    assert "target_log_tail" not in some_table(spec).column_names
    targets = decode(some_table(spec), spec)
    assert targets.log_tail_TN.tolist() == [[-math.inf, -math.inf]] * 6
    kept = decode(some_table(NARROW), NARROW)
    assert torch.equal(targets.logprobs_TK, kept.logprobs_TK)


def test_narrow_rows_lie_by_id() -> None:
    gaps_TK = some_encoded(NARROW).columns["target_id_gaps"].int()
    ids_TK = encode_top_k(some_source(NARROW, 6), torch.zeros(6).long(), K, (1.0,)).ids_TK
    assert gaps_TK.cumsum(1).tolist() == [sorted(ids) for ids in ids_TK.tolist()]


@pytest.mark.parametrize(
    ("where", "value"), [((2, 3), math.nan), ((2, 0), math.inf), ((2, slice(None)), -math.inf)]
)
@pytest.mark.parametrize("values", WIDTHS)
def test_bad_logits_name_their_token(values: str, where: tuple[int, int], value: float) -> None:
    logits_TV = normal(5, V)
    logits_TV[where] = value
    with pytest.raises(TokenError, match="token 2: the teacher's logits hold NaN"):
        encode(logits_TV, some_labels(5, V), None, replace(TOP_K, values=values))


Corrupt = Callable[[np.ndarray], None]


def put(at: int, value: float) -> Corrupt:
    def corrupt(values: np.ndarray) -> None:
        values[at] = value

    return corrupt


def swap(a: int, b: int) -> Corrupt:
    def corrupt(values: np.ndarray) -> None:
        values[[a, b]] = values[[b, a]]

    return corrupt


def refuse(spec: CodecSpec, name: str, corrupt: Corrupt, complaint: str) -> None:
    table = some_table(spec)
    values = flat_values(table, name)
    corrupt(values)
    with pytest.raises(SoftTargetError, match=rf"row 42, token 1 of .*{complaint}"):
        decode(with_values(table, name, values), spec)


# Row 42 holds tokens 4 and 5; its second token's K values lie from 5 * K.
@pytest.mark.parametrize(
    ("name", "corrupt", "complaint"),
    [
        ("target_ids", put(5 * K, V), "ids reach from .* allowed are 0 to 10"),
        ("target_ids", put(5 * K, 65535), "ids reach from .* to 65535"),
        ("target_ids", lambda ids: ids.put(5 * K, ids[5 * K + 1]), "twice"),
        ("target_logprobs", put(5 * K, 0.5), "greatest log probability"),
        ("target_logprobs", put(5 * K, math.nan), "greatest log probability"),
        ("target_logprobs", put(5 * K + 1, math.nan), "NaN or are not likeliest"),
        ("target_logprobs", swap(5 * K, 5 * K + 2), "not likeliest first"),
        ("target_logprobs", put(5 * K + 2, -math.inf), "add up to"),
        ("target_log_tail", put(5 * 2, 0.0), "add up to"),
        ("target_log_tail", put(5 * 2, math.nan), "add up to"),
        ("target_log_tail", put(5 * 2 + 1, math.nan), "log tail"),
        ("target_log_tail", put(5 * 2 + 1, math.inf), "log tail"),
        ("label_logprobs", put(5, 0.01), "label's log probability"),
        ("label_logprobs", put(5, math.nan), "label's log probability"),
    ],
)
def test_a_broken_value_names_row_and_token(name: str, corrupt: Corrupt, complaint: str) -> None:
    refuse(TOP_K, name, corrupt, complaint)


def likeliest(codes: np.ndarray) -> int:
    """Where token 5's code 0 lies."""
    return 5 * K + int(np.argmin(codes[5 * K :]))


@pytest.mark.parametrize(
    ("name", "corrupt", "complaint"),
    [
        ("target_id_gaps", put(5 * K + 2, V), "ids reach from .* allowed are 0 to 10"),
        ("target_id_gaps", put(5 * K + 1, 0), "twice"),
        ("target_codes", lambda c: c.put(likeliest(c), 1), "not just one .* the likeliest"),
        ("target_codes", lambda c: c[5 * K :].fill(0), "not just one .* the likeliest"),
        ("target_codes", lambda c: c[5 * K :].put(c[5 * K :].argmax(), 1), "add up to"),
        ("target_top_logprob", put(5, 0.5), "greatest log probability is 0.5"),
        ("target_top_logprob", put(5, math.nan), "greatest log probability is nan"),
        ("target_top_logprob", put(5, -3.0), "add up to"),
        ("target_top_logprob", put(5, -math.inf), "add up to"),
        ("target_scale", put(5, 0), "scale is 0.0, allowed is above 0"),
        ("target_scale", put(5, 0x7F80), "scale is inf|add up to"),
        ("target_scale", put(5, 0x7FC0), "scale is nan"),
        ("target_scale", put(5, 0xBF80), "scale is -1.0"),
        ("target_log_tail", put(5 * 2, 0.0), "add up to"),
        ("target_log_tail", put(5 * 2 + 1, math.nan), "log tail"),
        ("label_logprobs", put(5, math.nan), "label's log probability"),
    ],
)
def test_a_broken_narrow_value_names_row_and_token(
    name: str, corrupt: Corrupt, complaint: str
) -> None:
    refuse(NARROW, name, corrupt, complaint)


def test_ids_of_three_bytes_are_held_to_the_vocabulary_too() -> None:
    spec = SPECS["top_k fp32 in 3 bytes"]
    encoded = some_encoded(spec)
    encoded.columns["target_ids"][5, :3] = torch.tensor([5, 0, 1]).byte()
    with pytest.raises(SoftTargetError, match=r"token 5 .* to 65541, allowed are 0 to 65540"):
        decode(table_of(encoded, spec), spec)


def test_without_a_tail_mass_above_one_is_still_refused() -> None:
    spec = SPECS["top_k without tail"]
    encoded = some_encoded(spec)
    for top, complaint in (
        (0.0, "kept mass is 2.2"),
        (math.nan, "nan"),
        (-math.inf, "kept mass is"),
    ):
        encoded.columns["target_top_logprob"][3] = top
        with pytest.raises(SoftTargetError, match=f"token 3 .*{complaint}"):
            decode(table_of(encoded, spec), spec)


def test_a_broken_first_token_is_not_taken_for_the_row_before() -> None:
    table = some_table(TOP_K)
    values = flat_values(table, "label_logprobs")
    values[4] = math.nan
    with pytest.raises(SoftTargetError, match="row 42, token 0"):
        decode(with_values(table, "label_logprobs", values), TOP_K)


@pytest.mark.parametrize("changes", [{"top_k": K + 1}, {"temperatures": (1.0,)}])
def test_another_top_k_or_other_temperatures_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SoftTargetError, match="targets of another codec"):
        decode(some_table(TOP_K), replace(TOP_K, **changes))


def test_widths_that_lie_under_a_right_stamp_are_still_counted() -> None:
    """The stamp alone is not trusted: a forged one meets the lengths."""
    wider = replace(TOP_K, top_k=K + 1)
    table = some_table(TOP_K)
    forged = table.set_column(0, "target_stamp", some_table(wider).column("target_stamp"))
    with pytest.raises(SoftTargetError, match=r"row 40: target_ids holds 12 values, expected 16"):
        decode(forged, wider)
