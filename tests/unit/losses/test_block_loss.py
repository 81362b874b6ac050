"""One block of logits: per-token values and gradients where exponentials reach their ends."""

from __future__ import annotations

import math

import pytest
import torch
from loss_reference import every_kind, normal, reference_loss, top_k_targets

from raykd.losses.block_loss import Share, block_loss_
from raykd.losses.spec import DIVERGENCES, LossSpec
from raykd.losses.targets import BucketTargets, DenseTargets, LogitShape
from raykd.losses.teacher import TeacherLogits, teacher_buckets

FORWARD = (("forward_kl", 1.0),)


def run(
    logits_RV: torch.Tensor,
    targets: BucketTargets,
    spec: LossSpec,
    labels_R: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Divergence, -log probability of the label, gradient of their mixture by the logits."""
    if labels_R is None:
        labels_R = torch.zeros(len(logits_RV), dtype=torch.long)
    ones_R1 = torch.ones(len(logits_RV), 1, dtype=logits_RV.dtype)
    share = Share(
        ones_R1 * (1 - spec.alpha) * spec.temperature**2 if spec.alpha < 1 else None,
        ones_R1 * spec.alpha if spec.alpha > 0 else None,
    )
    work_RV = logits_RV.clone()
    value_R, nll_R = block_loss_(work_RV, labels_R, targets, spec, share)
    assert value_R is not None
    return value_R, nll_R, work_RV


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("wanted", [True, False])
def test_values_are_each_tokens_own(tau: float, alpha: float, wanted: bool) -> None:
    logits_RV, labels_R = normal(5, 9, seed=1), torch.tensor([0, 3, 8, 3, 1])
    spec = LossSpec((("jsd", 0.5), ("forward_kl", 1.0)), temperature=tau, alpha=alpha)
    targets = top_k_targets(normal(5, 9, seed=2), 4, tau)
    if wanted:
        value_R, nll_R, _ = run(logits_RV, targets, spec, labels_R)
    else:
        found_R, nll_R = block_loss_(logits_RV.clone(), labels_R, targets, spec, Share())
        assert found_R is not None
        value_R = found_R
    for r in range(5):
        one = slice(r, r + 1)
        _, divergence, nll = reference_loss(logits_RV[one], labels_R[one], targets.rows(one), spec)
        torch.testing.assert_close(tau**2 * value_R[r], divergence)
        torch.testing.assert_close(nll_R[r], nll)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_tiny_tails_give_finite_gradients_that_add_up_to_zero(name: str) -> None:
    student_RV = torch.tensor([[0.0, -300.0, -310.0, -300.5]] * 2)
    teacher_RV = torch.tensor([[1.0, 0.5, -200.0, -210.0], [0.0, -math.inf, -400.0, -410.0]])
    value_R, _, gradient_RV = run(
        student_RV, top_k_targets(teacher_RV, 1, 1.0), LossSpec(((name, 1.0),))
    )
    assert bool(value_R.isfinite().all())
    assert bool(gradient_RV.isfinite().all())
    torch.testing.assert_close(gradient_RV.sum(1), torch.zeros(2))


def test_a_student_that_misses_the_tail_is_pushed_towards_it() -> None:
    student_RV = torch.tensor([[0.0, -300.0, -301.0]])
    half = torch.tensor([math.log(0.5)])
    _, _, gradient_RV = run(
        student_RV, BucketTargets(torch.tensor([[0]]), half[None], half), LossSpec(FORWARD)
    )
    share = torch.tensor([0.0, -1.0]).softmax(0)
    expected_RV = torch.tensor([[0.5, -0.5 * share[0], -0.5 * share[1]]])
    torch.testing.assert_close(gradient_RV, expected_RV)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_all_logits_of_the_tail_may_be_ruled_out(tau: float) -> None:
    student_RV = torch.tensor([[1.0, 2.0, -math.inf, -math.inf]])
    targets = top_k_targets(torch.tensor([[0.3, 0.1, -math.inf, -math.inf]]), 2, tau)
    spec = LossSpec(FORWARD, temperature=tau, alpha=0.5)
    value_R, nll_R, gradient_RV = run(student_RV, targets, spec)
    assert bool(value_R.isfinite().all())
    assert bool(nll_R.isfinite().all())
    assert bool(gradient_RV.isfinite().all())
    assert gradient_RV[0, 2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_nan_in_the_logits_is_a_nan_in_that_tokens_loss(at: int) -> None:
    for kind, targets in every_kind(2, 9, 1.0).items():
        if isinstance(targets, DenseTargets):
            targets = TeacherLogits(targets.logprobs_TV, LogitShape())  # type: ignore[assignment]
        elif kind == "hidden":
            continue
        logits_RV = normal(2, 9, seed=1)
        logits_RV[0, at] = math.nan
        value_R, nll_R, _ = run(logits_RV, targets, LossSpec(FORWARD))  # type: ignore[arg-type]
        assert value_R.isnan().tolist() == [True, False], kind
        assert nll_R.isnan().tolist() == [True, False], kind


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tau", [0.5, 2.0, 8.0])
def test_retempering_kept_values_equals_retempering_all(dtype: torch.dtype, tau: float) -> None:
    teacher_RV = normal(5, 30, seed=2, scale=4.0)
    targets = top_k_targets(teacher_RV, 6, tau)
    stored = BucketTargets(
        targets.ids_TK, targets.logprobs_TK.to(dtype), targets.log_tail_T.to(dtype)
    )
    found_RB = teacher_buckets(stored, tau, 30, torch.float64).exp()
    probs_RV = (teacher_RV / tau).softmax(-1)
    kept_RK = probs_RV.gather(1, targets.ids_TK.long())
    expected_RB = torch.cat([kept_RK, 1 - kept_RK.sum(1, keepdim=True)], 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found_RB, expected_RB, rtol=tolerance, atol=tolerance)


def test_a_teacher_without_a_tail_is_normalised_over_what_it_kept() -> None:
    targets = BucketTargets(
        torch.tensor([[2, 0]]), torch.tensor([[0.6, 0.2]]).log(), torch.tensor([-math.inf])
    )
    found_RB = teacher_buckets(targets, 1.0, 5, torch.float64).exp()
    expected_RB = torch.tensor([[0.75, 0.25, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found_RB, expected_RB, rtol=1e-6, atol=1e-6)
