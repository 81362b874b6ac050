"""Divergences of log probabilities: float64 sums written another way, gradients, and laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import normal, plain_divergence

from raykd.losses.divergences import (
    LOG_FLOOR,
    adaptive_kl,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
)
from raykd.losses.objective import divergence_gradient, weighted_divergence
from raykd.losses.spec import DIVERGENCES, LossSpec


def spec_of(name: str, **fields: float) -> LossSpec:
    return LossSpec(((name, 1.0),), **{"beta": 0.3, "skew": 0.2, "head_mass": 0.6, **fields})


def value(
    spec: LossSpec, log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, *, has_tail: bool = False
) -> torch.Tensor:
    return weighted_divergence(log_p_TB, log_q_TB, spec, has_tail=has_tail)


def pair(num_tokens: int = 6, num_buckets: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    teacher_TB = normal(num_tokens, num_buckets, seed=1, scale=2.0)
    student_TB = normal(num_tokens, num_buckets, seed=2, scale=2.0)
    return teacher_TB.log_softmax(-1), student_TB.log_softmax(-1)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("has_tail", [False, True])
def test_equals_its_formula_on_probabilities(name: str, has_tail: bool) -> None:
    log_p_TB, log_q_TB = pair()
    spec = spec_of(name)
    found_T = value(spec, log_p_TB, log_q_TB, has_tail=has_tail)
    for t in range(len(found_T)):
        expected = plain_divergence(name, log_p_TB[t].exp(), log_q_TB[t].exp(), spec, has_tail)
        assert float(found_T[t]) == pytest.approx(float(expected), rel=1e-12)


def test_formulas_by_hand() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    log_p_TB = torch.tensor(np.array([[*np.log([0.5, 0.5]), -math.inf]]))
    log_q_TB = torch.tensor(np.log(q))[None]

    def kl(a: np.ndarray, b: np.ndarray) -> float:
        return float(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0))

    floored = np.array([0.5, 0.5, math.exp(LOG_FLOOR)])
    expected = {
        float(forward_kl(log_p_TB, log_q_TB)): math.log(2),
        float(reverse_kl(log_p_TB, log_q_TB)): kl(q, floored),
        float(jsd(log_p_TB, log_q_TB, 0.3)): 0.3 * kl(p, 0.3 * p + 0.7 * q)
        + 0.7 * kl(q, 0.3 * p + 0.7 * q),
        float(skewed_kl(log_p_TB, log_q_TB, 0.1)): kl(p, 0.1 * p + 0.9 * q),
        float(skewed_reverse_kl(log_p_TB, log_q_TB, 0.1)): kl(q, 0.9 * p + 0.1 * q),
        float(total_variation(log_p_TB, log_q_TB)): 0.5,
        # The head is the first id: gaps 0.25 there, 0.25 + 0.5 in the rest.
        float(adaptive_kl(log_p_TB, log_q_TB, 0.5, has_tail=False)): 0.25 * math.log(2)
        + 0.75 * kl(q, floored),
    }
    for found, by_hand in expected.items():
        assert found == pytest.approx(by_hand, rel=1e-12)


# The weights of adaptive KL are numbers on purpose: see the next test.
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "adaptive_kl"])
@pytest.mark.parametrize("skew", [0.0, 0.2])
def test_gradcheck(name: str, skew: float) -> None:
    log_p_TB, student_TB = pair()[0], normal(6, 9, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: value(spec_of(name, skew=skew), log_p_TB, x.log_softmax(-1)), (student_TB,)
    )


def test_no_gradient_goes_through_the_weights_of_adaptive_kl() -> None:
    log_p_TB, log_q_TB = pair(3, 5)
    gradients = []
    for function in (
        lambda q_TB: adaptive_kl(log_p_TB, q_TB, 0.6, has_tail=False),
        lambda q_TB: torch.stack(
            [
                plain_divergence("adaptive_kl", p_B.exp(), q_B.exp(), spec_of("adaptive_kl"), False)
                for p_B, q_B in zip(log_p_TB, q_TB, strict=True)
            ]
        ),
    ):
        leaf_TB = log_q_TB.clone().requires_grad_()
        gradients.append(torch.autograd.grad(function(leaf_TB).sum(), leaf_TB)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("num_buckets", [3, 64, 65, 700])
def test_the_head_is_found_however_wide_it_is(mass: float, num_buckets: int) -> None:
    log_p_TB = normal(4, num_buckets, seed=3, scale=0.5).log_softmax(-1)
    log_q_TB = normal(4, num_buckets, seed=4).log_softmax(-1)
    spec = spec_of("adaptive_kl", head_mass=mass)
    found_T = adaptive_kl(log_p_TB, log_q_TB, mass, has_tail=False)
    for t in range(4):
        expected = plain_divergence(
            "adaptive_kl", log_p_TB[t].exp(), log_q_TB[t].exp(), spec, False
        )
        assert float(found_T[t]) == pytest.approx(float(expected), rel=1e-9)


def test_a_heavy_tail_is_no_head() -> None:
    log_p_TB = torch.tensor([[0.2, 0.1, 0.7]], dtype=torch.float64).log()
    log_q_TB = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    # Ids 0 and 1 never reach half of the mass: both are the head, the gaps are 0.5 and 0.5.
    halves_T = (forward_kl(log_p_TB, log_q_TB) + reverse_kl(log_p_TB, log_q_TB)) / 2
    torch.testing.assert_close(adaptive_kl(log_p_TB, log_q_TB, 0.5, has_tail=True), halves_T)
    as_ids_T = adaptive_kl(log_p_TB, log_q_TB, 0.5, has_tail=False)  # gaps 0.5 and 0.3 + 0.2
    torch.testing.assert_close(as_ids_T, halves_T)
    assert not torch.allclose(
        adaptive_kl(log_p_TB, log_q_TB, 0.15, has_tail=True),
        adaptive_kl(log_p_TB, log_q_TB, 0.15, has_tail=False),
    )


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_to_learn_from_oneself(name: str) -> None:
    log_p_TB, _ = pair()
    value_T, gradient_TB = divergence_gradient(
        log_p_TB, log_p_TB.clone(), spec_of(name), has_tail=False
    )
    torch.testing.assert_close(value_T, torch.zeros_like(value_T))
    through_softmax_TB = gradient_TB - gradient_TB.sum(1, keepdim=True) * log_p_TB.exp()
    torch.testing.assert_close(through_softmax_TB, torch.zeros_like(log_p_TB))


@pytest.mark.parametrize("names", [("forward_kl",), ("forward_kl", "jsd", "total_variation")])
def test_a_weighted_sum_and_its_gradient(names: tuple[str, ...]) -> None:
    log_p_TB, log_q_TB = pair()
    spec = LossSpec(tuple((name, 0.5 + i) for i, name in enumerate(names)), beta=0.3)
    value_T, gradient_TB = divergence_gradient(log_p_TB, log_q_TB, spec, has_tail=False)
    leaf_TB = log_q_TB.clone().requires_grad_()
    expected_T = sum(
        (0.5 + i) * value(spec_of(name), log_p_TB, leaf_TB) for i, name in enumerate(names)
    )
    assert isinstance(expected_T, torch.Tensor)
    torch.testing.assert_close(value_T, expected_T.detach())
    expected_T.sum().backward()
    torch.testing.assert_close(gradient_TB, leaf_TB.grad)


def logits_with_holes(data: st.DataObject, num_tokens: int, num_buckets: int) -> torch.Tensor:
    one = st.one_of(st.sampled_from([-math.inf, 0.0, 1.0]), st.floats(-30, 30))
    row = st.lists(one, min_size=num_buckets, max_size=num_buckets).filter(
        lambda r: max(r) > -math.inf
    )
    rows = data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    return torch.tensor(rows, dtype=torch.float64).reshape(num_tokens, num_buckets)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_never_negative_and_gradients_finite(data: st.DataObject) -> None:
    num_tokens, num_buckets = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 7))
    name, has_tail = data.draw(st.sampled_from(DIVERGENCES)), data.draw(st.booleans())
    spec = spec_of(name, skew=data.draw(st.sampled_from([0.0, 0.2])))
    log_p_TB = logits_with_holes(data, num_tokens, num_buckets).log_softmax(-1)
    log_q_TB = logits_with_holes(data, num_tokens, num_buckets).log_softmax(-1)
    value_T, gradient_TB = divergence_gradient(log_p_TB, log_q_TB, spec, has_tail=has_tail)
    assert not value_T.isnan().any()
    assert bool((value_T >= -1e-9).all())
    if name == "jsd":
        assert bool((value_T <= math.log(2) + 1e-9).all())
    if name == "total_variation":
        assert bool((value_T <= 1 + 1e-9).all())
    assert bool(gradient_TB.isfinite().all())


def test_jsd_is_symmetric_at_one_half_and_mirrors_elsewhere() -> None:
    log_p_TB, log_q_TB = pair()
    torch.testing.assert_close(jsd(log_p_TB, log_q_TB, 0.5), jsd(log_q_TB, log_p_TB, 0.5))
    torch.testing.assert_close(jsd(log_p_TB, log_q_TB, 0.2), jsd(log_q_TB, log_p_TB, 0.8))
    assert not torch.allclose(jsd(log_p_TB, log_q_TB, 0.2), jsd(log_p_TB, log_q_TB, 0.8))


def test_jsd_tends_to_both_kls() -> None:
    log_p_TB, log_q_TB = pair()
    small = 1e-6
    near_forward_T = jsd(log_p_TB, log_q_TB, small) / small
    near_reverse_T = jsd(log_p_TB, log_q_TB, 1 - small) / small
    torch.testing.assert_close(near_forward_T, forward_kl(log_p_TB, log_q_TB), rtol=1e-3, atol=0)
    torch.testing.assert_close(near_reverse_T, reverse_kl(log_p_TB, log_q_TB), rtol=1e-3, atol=0)


def test_skewed_ones_mirror_each_other_and_start_from_the_plain_ones() -> None:
    log_p_TB, log_q_TB = pair()
    torch.testing.assert_close(
        skewed_kl(log_p_TB, log_q_TB, 0.3), skewed_reverse_kl(log_q_TB, log_p_TB, 0.3)
    )
    near = 1e-9
    for skewed, plain in ((skewed_kl, forward_kl), (skewed_reverse_kl, reverse_kl)):
        plain_T = plain(log_p_TB, log_q_TB)
        torch.testing.assert_close(skewed(log_p_TB, log_q_TB, 0.0), plain_T)
        torch.testing.assert_close(skewed(log_p_TB, log_q_TB, near), plain_T, rtol=1e-6, atol=0)


def test_what_the_teacher_rules_out_costs_a_bounded_amount() -> None:
    log_p_TB = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).log()
    log_q_TB = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    found = {name: float(value(spec_of(name), log_p_TB, log_q_TB)) for name in DIVERGENCES}
    assert found["forward_kl"] == pytest.approx(math.log(2))
    expected = 0.5 * math.log(0.25 / 0.5) + 0.5 * (math.log(0.25) - LOG_FLOOR)
    assert found["reverse_kl"] == pytest.approx(expected)
    assert all(0 < amount <= expected for amount in found.values())


def test_what_the_student_rules_out_is_infinitely_bad_for_forward_kl_only() -> None:
    log_p_TB = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    log_q_TB = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64).log()
    found = {name: float(value(spec_of(name), log_p_TB, log_q_TB)) for name in DIVERGENCES}
    assert found.pop("forward_kl") == math.inf
    assert found.pop("adaptive_kl") == math.inf  # forward KL is a part of it
    assert all(0 < amount < 3 for amount in found.values())
