"""The reduction to k ids and a tail against float64 over the whole vocabulary."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.errors import SoftTargetError
from raykd.soft_targets import teacher_output
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.reduction import encode_top_k
from raykd.soft_targets.teacher_output import TokenError

TEMPERATURES = (1.0, 2.0, 0.5)


def logits(num_tokens: int, vocab_size: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_tokens, vocab_size, generator=generator)


def labels(num_tokens: int, vocab_size: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab_size, (num_tokens,), generator=generator)


def dense_log_tail(logprobs_TV: torch.Tensor, ids_TK: torch.Tensor, tau: float) -> torch.Tensor:
    """The definition, one token at a time, in float64."""
    tails = []
    for logprobs_V, ids_K in zip(logprobs_TV, ids_TK.tolist(), strict=True):
        left = [v for v in range(len(logprobs_V)) if v not in ids_K]
        tails.append(torch.logsumexp(logprobs_V[left] / tau, 0))
    return torch.stack(tails)


def check_against_dense(logits_TV: torch.Tensor, targets: TopKTargets, k: int) -> None:
    logprobs_TV = logits_TV.double().log_softmax(-1)
    ids_TK = targets.ids_TK.long()
    expected_TK = logprobs_TV.gather(1, ids_TK)
    torch.testing.assert_close(expected_TK, logprobs_TV.topk(k, dim=1).values)
    torch.testing.assert_close(targets.logprobs_TK.double(), expected_TK, rtol=1e-5, atol=1e-5)
    for n, tau in enumerate(TEMPERATURES):
        torch.testing.assert_close(
            targets.log_tail_TN[:, n].double(),
            dense_log_tail(logprobs_TV, ids_TK, tau),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize("k", [1, 5, 16, 17])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_encodes_the_definition(k: int, dtype: torch.dtype) -> None:
    logits_TV = logits(7, 17).to(dtype)
    labels_T = labels(7, 17)
    targets = encode_top_k(logits_TV, labels_T, k, TEMPERATURES)
    assert [c.dtype for c in (targets.ids_TK, targets.logprobs_TK, targets.log_tail_TN)] == [
        torch.int32,
        torch.float32,
        torch.float32,
    ]
    check_against_dense(logits_TV, targets, k)
    expected_T = logits_TV.double().log_softmax(-1).gather(1, labels_T[:, None])[:, 0]
    torch.testing.assert_close(targets.label_logprobs_T.double(), expected_T, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_normaliser_at_any_kept_temperature_is_exact(data: st.DataObject) -> None:
    num_tokens, vocab_size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, vocab_size))
    tau = data.draw(st.sampled_from([0.3, 1.5, 4.0, 20.0]))
    value = st.one_of(st.sampled_from([-math.inf, 0.0, 1.0]), st.floats(-40, 40, width=32))
    row = st.lists(value, min_size=vocab_size, max_size=vocab_size).filter(
        lambda r: max(r) > -math.inf
    )
    logits_TV = torch.tensor(data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens)))
    targets = encode_top_k(logits_TV, labels(num_tokens, vocab_size), k, (1.0, tau))

    rebuilt_T = torch.logaddexp(
        (targets.logprobs_TK.double() / tau).logsumexp(1), targets.log_tail_TN[:, 1].double()
    )
    dense_T = (logits_TV.double().log_softmax(-1) / tau).logsumexp(1)
    torch.testing.assert_close(rebuilt_T, dense_T, rtol=1e-5, atol=1e-5)
    mass_T = targets.logprobs_TK.double().exp().sum(1) + targets.log_tail_TN[:, 0].double().exp()
    torch.testing.assert_close(mass_T, torch.ones_like(mass_T), rtol=0, atol=1e-5)


def test_a_tail_far_below_float32_keeps_its_digits() -> None:
    logits_TV = torch.tensor([[0.0, -200.0, -201.0]])
    targets = encode_top_k(logits_TV, torch.tensor([0]), 1, (1.0, 2.0))
    expected = [-200 + math.log1p(math.exp(-1)), -100 + math.log1p(math.exp(-0.5))]
    torch.testing.assert_close(targets.log_tail_TN, torch.tensor([expected]))


def test_great_logits_lose_nothing_to_their_size() -> None:
    logits_TV = logits(4, 11)
    near = encode_top_k(logits_TV.half().float(), labels(4, 11), 3, (1.0, 2.0))
    far = encode_top_k(logits_TV.half().float() + 4096.0, labels(4, 11), 3, (1.0, 2.0))
    torch.testing.assert_close(far.log_tail_TN, near.log_tail_TN, rtol=0, atol=2e-3)
    torch.testing.assert_close(far.logprobs_TK.exp().sum(1), near.logprobs_TK.exp().sum(1))


def test_everything_kept_leaves_no_tail() -> None:
    targets = encode_top_k(logits(3, 6), labels(3, 6), 6, (1.0, 3.0))
    assert torch.equal(targets.log_tail_TN, torch.full((3, 2), -math.inf))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_TV, labels_T = logits(13, 10).round(), labels(13, 10)
    whole = encode_top_k(logits_TV, labels_T, 4, TEMPERATURES)
    monkeypatch.setattr(teacher_output, "BLOCK_ELEMENTS", {"cpu": 30})
    chunks = [
        encode_top_k(logits_TV[a:b], labels_T[a:b], 4, TEMPERATURES) for a, b in [(0, 7), (7, 13)]
    ]
    parts = TopKTargets.concatenate(chunks)
    for name in ("ids_TK", "logprobs_TK", "log_tail_TN", "label_logprobs_T"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))


def test_the_logits_are_only_read() -> None:
    logits_TV = logits(3, 8)
    before = logits_TV.clone()
    encode_top_k(logits_TV, labels(3, 8), 2, TEMPERATURES)
    assert torch.equal(logits_TV, before)


def test_no_token_gives_empty_targets_of_the_right_width() -> None:
    targets = encode_top_k(torch.empty(0, 8), torch.empty(0, dtype=torch.long), 3, TEMPERATURES)
    assert targets.num_tokens == 0
    assert targets.ids_TK.shape == (0, 3)
    assert targets.log_tail_TN.shape == (0, 3)


def test_split_undoes_concatenate() -> None:
    targets = encode_top_k(logits(6, 8), labels(6, 8), 3, (1.0,))
    parts = targets.split([2, 0, 4])
    assert [part.num_tokens for part in parts] == [2, 0, 4]
    assert torch.equal(TopKTargets.concatenate(parts).logprobs_TK, targets.logprobs_TK)
    assert torch.equal(targets.cpu().ids_TK, targets.ids_TK)


@pytest.mark.parametrize(
    ("where", "value"), [((2, 3), math.nan), ((2, 0), math.inf), ((2, slice(None)), -math.inf)]
)
def test_bad_logits_name_their_token(where: tuple[int, int], value: float) -> None:
    logits_TV = logits(5, 9)
    logits_TV[where] = value
    logits_TV[4, 1] = math.nan
    with pytest.raises(TokenError, match=r"token 2: .*2 of these 5") as caught:
        encode_top_k(logits_TV, labels(5, 9), 2, TEMPERATURES)
    assert caught.value.token == 2


@pytest.mark.parametrize("label", [-1, 9])
def test_a_label_outside_the_vocabulary_is_named(label: int) -> None:
    with pytest.raises(TokenError, match=rf"token 1: its label is id {label}.* 9 ids"):
        encode_top_k(logits(3, 9), torch.tensor([0, label, 2]), 2, (1.0,))


def test_top_k_above_the_vocabulary_names_both() -> None:
    with pytest.raises(SoftTargetError, match=r"top_k is 10.* 9 ids"):
        encode_top_k(logits(3, 9), labels(3, 9), 10, (1.0,))


@pytest.mark.parametrize("temperatures", [(), (2.0,), (1.0, 0.0), (1.0, math.inf)])
def test_temperatures_must_start_with_one_and_be_positive(
    temperatures: tuple[float, ...],
) -> None:
    with pytest.raises(ValueError, match="temperatures"):
        encode_top_k(logits(3, 9), labels(3, 9), 2, temperatures)


def test_top_k_and_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        encode_top_k(logits(3, 9), labels(3, 9), 0, (1.0,))
    with pytest.raises(ValueError, match="one label a token"):
        encode_top_k(logits(3, 9), labels(2, 9), 2, (1.0,))
