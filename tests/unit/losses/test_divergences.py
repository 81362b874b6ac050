"""Divergences against dense float64 sums written another way, their gradients, and their laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.losses.buckets import BucketTargets, student_buckets, teacher_buckets
from raykd.losses.divergences import (
    DIVERGENCES,
    LOG_FLOOR,
    divergence_per_token,
    forward_kl,
    forward_kl_per_token,
    jsd,
    reverse_kl,
)

BETA = 0.3


def normal(num_tokens: int, vocab_size: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_tokens, vocab_size, generator=generator, dtype=torch.float64)


def targets_of(teacher_TV: torch.Tensor, k: int, tau: float) -> BucketTargets:
    """What a teacher would keep, by the definition, in the logits' own dtype."""
    logprobs_TV = teacher_TV.log_softmax(-1)
    ids_TK = logprobs_TV.topk(k, dim=1).indices
    rest_TV = (logprobs_TV / tau).scatter(1, ids_TK, -math.inf)
    return BucketTargets(ids_TK.int(), logprobs_TV.gather(1, ids_TK), rest_TV.logsumexp(1))


def per_token(
    name: str, student_TV: torch.Tensor, targets: BucketTargets, tau: float, beta: float = BETA
) -> torch.Tensor:
    log_q_TB, _ = student_buckets(student_TV, targets.ids_TK, None, tau)
    log_p_TB = teacher_buckets(targets, tau, student_TV.shape[1], log_q_TB.dtype)
    return divergence_per_token(name, log_p_TB, log_q_TB, beta)


def dense(
    name: str, student_TV: torch.Tensor, teacher_TV: torch.Tensor, ids_TK: torch.Tensor, tau: float
) -> np.ndarray:
    """Dense softmax, masses of buckets added up one by one, the divergence as its formula reads."""
    values = []
    for x_V, y_V, ids_K in zip(
        student_TV.tolist(), teacher_TV.tolist(), ids_TK.tolist(), strict=True
    ):
        masses = []
        for logits_V in (np.array(y_V), np.array(x_V)):
            weights_V = np.exp((logits_V - logits_V.max()) / tau)
            probs_V = weights_V / weights_V.sum()
            left = [probs_V[v] for v in range(len(probs_V)) if v not in ids_K]
            masses.append(np.array([*probs_V[ids_K], *([math.fsum(left)] if left else [])]))
        p_B, q_B = masses
        m_B = BETA * p_B + (1 - BETA) * q_B
        values.append(
            {
                "forward_kl": np.sum(p_B * np.log(p_B / q_B)),
                "reverse_kl": np.sum(q_B * np.log(q_B / p_B)),
                "jsd": BETA * np.sum(p_B * np.log(p_B / m_B))
                + (1 - BETA) * np.sum(q_B * np.log(q_B / m_B)),
            }[name]
        )
    return np.array(values)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, 10, 11])
def test_equals_the_dense_reference(name: str, tau: float, k: int) -> None:
    student_TV, teacher_TV = normal(6, 11, 0), normal(6, 11, 1)
    targets = targets_of(teacher_TV, k, tau)
    expected = dense(name, student_TV, teacher_TV, targets.ids_TK, tau)
    found = per_token(name, student_TV, targets, tau).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_logits_are_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    student_TV, teacher_TV = normal(6, 40, 0).to(dtype), normal(6, 40, 1)
    targets = targets_of(teacher_TV, 8, 2.0)
    narrow = BucketTargets(targets.ids_TK, targets.logprobs_TK.float(), targets.log_tail_T.float())
    found = per_token(name, student_TV, narrow, 2.0)
    assert found.dtype == torch.float32
    expected = dense(name, student_TV.double(), teacher_TV, targets.ids_TK, 2.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tau", [0.5, 2.0, 8.0])
def test_retempering_kept_values_equals_retempering_all(dtype: torch.dtype, tau: float) -> None:
    teacher_TV = normal(5, 30, 2, scale=4.0)
    targets = targets_of(teacher_TV, 6, tau)
    stored = BucketTargets(
        targets.ids_TK, targets.logprobs_TK.to(dtype), targets.log_tail_T.to(dtype)
    )
    found_TB = teacher_buckets(stored, tau, 30, torch.float64).exp()
    probs_TV = (teacher_TV / tau).softmax(-1)
    kept_TK = probs_TV.gather(1, targets.ids_TK.long())
    expected_TB = torch.cat([kept_TK, 1 - kept_TK.sum(1, keepdim=True)], 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found_TB, expected_TB, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 3, 6, 7])
def test_gradcheck(name: str, tau: float, k: int) -> None:
    student_TV = normal(4, 7, 0).requires_grad_()
    targets = targets_of(normal(4, 7, 1), k, tau)
    assert torch.autograd.gradcheck(lambda x: per_token(name, x, targets, tau), (student_TV,))


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_nothing_to_learn_from_oneself(name: str, tau: float, k: int) -> None:
    student_TV = normal(5, 9, 0).requires_grad_()
    value_T = per_token(name, student_TV, targets_of(student_TV.detach(), k, tau), tau)
    value_T.sum().backward()
    torch.testing.assert_close(value_T, torch.zeros_like(value_T))
    assert student_TV.grad is not None
    torch.testing.assert_close(student_TV.grad, torch.zeros_like(student_TV))


def test_everything_kept_equals_torch_dense_kl() -> None:
    student_TV, teacher_TV, tau = normal(5, 9, 0), normal(5, 9, 1), 2.0
    expected_TV = torch.nn.functional.kl_div(
        (student_TV / tau).log_softmax(-1),
        (teacher_TV / tau).log_softmax(-1),
        reduction="none",
        log_target=True,
    )
    found_T = forward_kl_per_token(student_TV, targets_of(teacher_TV, 9, tau), tau)
    torch.testing.assert_close(found_T, expected_TV.sum(1))


def test_keeping_more_never_lowers_the_divergence() -> None:
    student_TV, teacher_TV = normal(5, 12, 0), normal(5, 12, 1)
    values = [
        per_token("forward_kl", student_TV, targets_of(teacher_TV, k, 1.0), 1.0)
        for k in range(1, 13)
    ]
    assert all(bool((b >= a - 1e-12).all()) for a, b in itertools.pairwise(values))


def logits_with_holes(data: st.DataObject, num_tokens: int, vocab_size: int) -> torch.Tensor:
    value = st.one_of(st.sampled_from([-math.inf, 0.0, 1.0]), st.floats(-30, 30))
    row = st.lists(value, min_size=vocab_size, max_size=vocab_size).filter(
        lambda r: max(r) > -math.inf
    )
    rows = data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    return torch.tensor(rows, dtype=torch.float64).reshape(num_tokens, vocab_size)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_never_negative_and_gradients_finite(data: st.DataObject) -> None:
    num_tokens, vocab_size = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 7))
    k = data.draw(st.integers(1, vocab_size))
    tau = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    name = data.draw(st.sampled_from(DIVERGENCES))
    teacher_TV = logits_with_holes(data, num_tokens, vocab_size)
    student_TV = logits_with_holes(data, num_tokens, vocab_size)
    student_TV.requires_grad_()

    value_T = per_token(name, student_TV, targets_of(teacher_TV, k, tau), tau)
    assert not value_T.isnan().any()
    assert bool((value_T >= -1e-9).all())
    if name == "jsd":
        assert bool((value_T <= math.log(2) + 1e-9).all())
    value_T[value_T.isfinite()].sum().backward()
    assert student_TV.grad is not None
    assert bool(student_TV.grad.isfinite().all())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_tiny_tails_give_finite_gradients_that_add_up_to_zero(name: str) -> None:
    student_TV = torch.tensor([[0.0, -300.0, -310.0, -300.5]] * 2, requires_grad=True)
    teacher_TV = torch.tensor([[1.0, 0.5, -200.0, -210.0], [0.0, -math.inf, -400.0, -410.0]])
    value_T = per_token(name, student_TV, targets_of(teacher_TV, 1, 1.0), 1.0)
    value_T.sum().backward()
    assert bool(value_T.isfinite().all())
    assert student_TV.grad is not None
    assert bool(student_TV.grad.isfinite().all())
    torch.testing.assert_close(student_TV.grad.sum(1), torch.zeros(2))


def test_a_student_that_misses_the_tail_is_pushed_towards_it() -> None:
    student_TV = torch.tensor([[0.0, -300.0, -301.0]], requires_grad=True)
    targets = BucketTargets(
        torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([math.log(0.5)])
    )
    per_token("forward_kl", student_TV, targets, 1.0).sum().backward()
    share = torch.tensor([0.0, -1.0]).softmax(0)
    expected_TV = torch.tensor([[0.5, -0.5 * share[0], -0.5 * share[1]]])
    torch.testing.assert_close(student_TV.grad, expected_TV)


def test_what_the_teacher_rules_out() -> None:
    student_TV = torch.zeros(1, 4, dtype=torch.float64)
    teacher_TV = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    targets = targets_of(teacher_TV, 2, 1.0)
    found = {name: float(per_token(name, student_TV, targets, 1.0, 0.5)) for name in DIVERGENCES}
    assert found["forward_kl"] == pytest.approx(math.log(2))
    expected = 0.5 * math.log(0.25 / 0.5) + 0.5 * (math.log(0.5) - LOG_FLOOR)
    assert found["reverse_kl"] == pytest.approx(expected)
    assert 0 < found["jsd"] < math.log(2)


def test_jsd_is_symmetric_at_one_half_and_mirrors_elsewhere() -> None:
    log_p_TB, log_q_TB = normal(5, 6, 0).log_softmax(-1), normal(5, 6, 1).log_softmax(-1)
    torch.testing.assert_close(jsd(log_p_TB, log_q_TB, 0.5), jsd(log_q_TB, log_p_TB, 0.5))
    torch.testing.assert_close(jsd(log_p_TB, log_q_TB, 0.2), jsd(log_q_TB, log_p_TB, 0.8))
    assert not torch.allclose(jsd(log_p_TB, log_q_TB, 0.2), jsd(log_p_TB, log_q_TB, 0.8))


def test_jsd_tends_to_both_kls() -> None:
    log_p_TB, log_q_TB = normal(5, 6, 0).log_softmax(-1), normal(5, 6, 1).log_softmax(-1)
    small = 1e-6
    near_forward_T = jsd(log_p_TB, log_q_TB, small) / small
    near_reverse_T = jsd(log_p_TB, log_q_TB, 1 - small) / small
    torch.testing.assert_close(near_forward_T, forward_kl(log_p_TB, log_q_TB), rtol=1e-3, atol=0)
    torch.testing.assert_close(near_reverse_T, reverse_kl(log_p_TB, log_q_TB), rtol=1e-3, atol=0)


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1])
def test_beta_lies_inside(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must lie in \(0, 1\)"):
        jsd(torch.zeros(1, 1), torch.zeros(1, 1), beta)


def test_an_unknown_divergence_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="one of forward_kl, reverse_kl, jsd; found 'kl'"):
        divergence_per_token("kl", torch.zeros(1, 1), torch.zeros(1, 1), 0.5)
