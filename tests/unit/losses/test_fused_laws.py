"""Laws of the fused loss: what must hold whatever the numbers are."""

from __future__ import annotations

import math

import pytest
import torch
from fused_cases import (
    FORWARD,
    LABELS_T,
    T,
    V,
    assert_same,
    fused,
    gradients,
    inputs,
)
from loss_reference import (
    SHAPES,
    every_kind,
    normal,
    reference_logits,
    sampled_targets,
    top_k_targets,
)

from raykd.losses.spec import DIVERGENCES, LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    Targets,
    TeacherHead,
)


def test_keeping_more_never_lowers_the_divergence() -> None:
    teacher_TV, given = normal(T, V, seed=3), inputs(requires_grad=False)
    values = [
        float(fused(given, top_k_targets(teacher_TV, k, 1.0), LossSpec(FORWARD)).total)
        for k in range(1, V + 1)
    ]
    assert values == sorted(values)


@pytest.mark.parametrize("kind", ["top_k", "dense", "hidden"])
@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_to_learn_from_oneself(kind: str, tau: float, name: str) -> None:
    given = inputs()
    hidden_TD, weight_VD, bias_V = (x.detach() for x in given if x is not None)
    own_TV = reference_logits(hidden_TD, weight_VD, bias_V, SHAPES[2], V)
    targets: Targets = {
        "top_k": top_k_targets(own_TV, 4, tau),
        "dense": DenseTargets(own_TV),
        "hidden": HiddenTargets(hidden_TD, TeacherHead(weight_VD, bias_V, SHAPES[2])),
    }[kind]
    spec = LossSpec(((name, 1.0),), temperature=tau)
    parts = fused(given, targets, spec, shape=SHAPES[2])
    torch.testing.assert_close(parts.total, torch.zeros_like(parts.total))
    if name == "total_variation":
        return  # it has a corner there
    for gradient in gradients(parts.total, given):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "total_variation"])
@pytest.mark.parametrize("kind", ["top_k", "dense"])
def test_the_gradient_keeps_its_size_as_the_temperature_rises(name: str, kind: str) -> None:
    norms = []
    for tau in (2.0, 8.0):
        given = inputs()
        teacher_TV = normal(T, V, seed=3, scale=0.5)
        with torch.no_grad():
            given[1].mul_(0.3)  # type: ignore[union-attr]
            given[2].mul_(0.3)  # type: ignore[union-attr]
        kept = top_k_targets(teacher_TV, 6, tau)
        spec = LossSpec(((name, 1.0),), temperature=tau)
        parts = fused(given, kept if kind == "top_k" else DenseTargets(teacher_TV), spec)
        norms.append(float(gradients(parts.total, given)[0].norm()))
    assert 1 / 1.7 < norms[1] / norms[0] < 1.7  # without the factor: about 1 / 16


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_mean_gradient_of_samples_is_the_dense_one(tau: float) -> None:
    """A draw a token, the same token each time: rows of the hidden states' gradient are draws."""
    num_draws, teacher_1V = 20_000, normal(1, V, seed=3, scale=1.5)
    spec = LossSpec(FORWARD, temperature=tau)
    hidden_1D, weight_VD, _ = inputs()
    assert hidden_1D is not None
    hidden_1D = hidden_1D[:1].detach().requires_grad_()
    exact = fused(
        [hidden_1D, weight_VD, None], DenseTargets(teacher_1V), spec, labels_T=LABELS_T[:1]
    )
    (expected_1D,) = torch.autograd.grad(exact.total, hidden_1D)

    many_TD = hidden_1D.detach().repeat(num_draws, 1).requires_grad_()
    drawn = sampled_targets(teacher_1V.repeat(num_draws, 1), 12, tau)
    labels_T = torch.zeros(num_draws, dtype=torch.long)
    parts = fused([many_TD, weight_VD, None], drawn, spec, labels_T=labels_T)
    (found_TD,) = torch.autograd.grad(parts.total, many_TD)
    error_D = found_TD.std(0) / math.sqrt(num_draws)
    assert bool(((found_TD.mean(0) - expected_1D[0]).abs() < 4 * error_D).all())
    assert bool((error_D < 0.02 * expected_1D.norm()).all())  # the test could tell a bias
    per_draw = float(parts.total.detach()) / num_draws
    assert per_draw == pytest.approx(float(exact.total.detach()), rel=0.02)


def test_top_k_without_a_tail_is_biased_where_samples_are_not() -> None:
    teacher_TV = normal(T, V, seed=3)
    kept = top_k_targets(teacher_TV, 3, 1.0)
    cut = BucketTargets(kept.ids_TK, kept.logprobs_TK, torch.full((T,), -math.inf).double())
    assert_same(cut, LossSpec(FORWARD))
    own = inputs(bias=False)
    hidden_TD, weight_VD, _ = own
    assert hidden_TD is not None
    assert weight_VD is not None
    own_TV = (hidden_TD @ weight_VD.T)[:, :V].detach()
    kept = top_k_targets(own_TV, 3, 1.0)
    cut = BucketTargets(kept.ids_TK, kept.logprobs_TK, torch.full((T,), -math.inf).double())
    pulled = gradients(fused(own, cut, LossSpec(FORWARD)).total, own)[0]
    assert float(pulled.norm()) > 0.1  # away from the very teacher it already equals


def test_parts_are_numbers_to_read() -> None:
    parts = fused(inputs(), every_kind(T, V, 1.0)["top_k"], LossSpec(FORWARD, alpha=0.5))
    assert parts.total.requires_grad
    assert parts.divergence is not None
    assert not parts.divergence.requires_grad
    assert not parts.cross_entropy.requires_grad


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    targets, spec = every_kind(T, V, 2.0)["top_k"], LossSpec(FORWARD, temperature=2.0, alpha=0.5)
    hidden_TD, weight_VD, bias_V = inputs()
    assert hidden_TD is not None
    whole = fused([hidden_TD, weight_VD, bias_V], targets, spec).total
    halves = [
        fused(
            [hidden_TD[rows], weight_VD, bias_V],
            targets.rows(rows),
            spec,
            labels_T=LABELS_T[rows],
        ).total
        for rows in (slice(0, 2), slice(2, T))
    ]
    torch.testing.assert_close(halves[0] + halves[1], whole)
