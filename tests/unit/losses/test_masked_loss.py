"""The triple loss of masked tokens, against float64 arithmetic written out."""

from __future__ import annotations

import pytest
import torch

from raykd.losses.masked import MaskedTargets, masked_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, DenseTargets

M, V, H, K = 7, 11, 5, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, TEACHER = draw(M, V, seed=1) * 2, draw(M, V, seed=2) * 2
HIDDEN, TAUGHT = draw(M, H, seed=3), draw(M, H, seed=4)
LABELS = torch.tensor([0, 10, 3, 3, 5, 7, 1])


def buckets(temperature: float) -> BucketTargets:
    """Its K likeliest ids, and the exact tail at a temperature."""
    logprobs = TEACHER.log_softmax(1)
    kept, ids = logprobs.topk(K, 1)
    rest = torch.ones_like(logprobs, dtype=torch.bool).scatter(1, ids, False)
    tail = (logprobs / temperature).masked_fill(~rest, -torch.inf).logsumexp(1)
    return BucketTargets(ids, kept, tail)


def bucketed(p: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    kept = p.gather(1, ids)
    return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)


def by_hand(
    logits: torch.Tensor, hidden: torch.Tensor, alpha: float, tau: float, cosine: float, dense: bool
) -> torch.Tensor:
    p, q = (TEACHER / tau).softmax(1), (logits / tau).softmax(1)
    if not dense:
        ids = TEACHER.topk(K, 1).indices
        p, q = bucketed(p, ids), bucketed(q, ids)
    soft = (p * (p / q).log()).sum()
    hard = -logits.softmax(1)[range(M), LABELS].log().sum()
    product = (hidden * TAUGHT).sum(1) / (hidden.norm(dim=1) * TAUGHT.norm(dim=1))
    return (1 - alpha) * tau**2 * soft + alpha * hard + cosine * (1 - product).sum()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_value_and_gradients_are_those_by_hand(alpha: float, tau: float, dense: bool) -> None:
    found = DenseTargets(TEACHER.log_softmax(1)) if dense else buckets(tau)
    spec = LossSpec((("forward_kl", 1.0),), temperature=tau, alpha=alpha)
    sides = []
    for compute in ("loss", "hand"):
        logits, hidden = LOGITS.clone().requires_grad_(), HIDDEN.clone().requires_grad_()
        if compute == "loss":
            parts = masked_loss(logits, hidden, LABELS, MaskedTargets(found, TAUGHT), spec, 0.7)
            total = parts.total
        else:
            total = by_hand(logits, hidden, alpha, tau, 0.7, dense)
        (3.0 * total).backward()
        sides.append((total.detach(), logits.grad, hidden.grad))
    for one, two in zip(*sides, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_parts_are_told_without_their_weights() -> None:
    spec = LossSpec((("forward_kl", 1.0),), temperature=2.0, alpha=0.25)
    parts = masked_loss(LOGITS, None, LABELS, MaskedTargets(buckets(2.0), None), spec, 0.0)
    assert parts.divergence is not None
    soft = by_hand(LOGITS, HIDDEN, 0.0, 2.0, 0.0, dense=False)
    hard = by_hand(LOGITS, HIDDEN, 1.0, 2.0, 0.0, dense=False)
    torch.testing.assert_close(parts.divergence, soft)
    torch.testing.assert_close(parts.cross_entropy, hard)
    torch.testing.assert_close(parts.total, 0.75 * soft + 0.25 * hard)


def test_gradcheck() -> None:
    spec = LossSpec((("reverse_kl", 0.5), ("jsd", 0.5)), temperature=1.5, alpha=0.4)
    targets = MaskedTargets(buckets(1.5), TAUGHT)

    def total(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return masked_loss(logits, hidden, LABELS, targets, spec, 0.3).total

    assert torch.autograd.gradcheck(
        total, (LOGITS.clone().requires_grad_(), HIDDEN.clone().requires_grad_())
    )


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    spec = LossSpec((("forward_kl", 1.0),), temperature=3.0)
    logits, hidden = TEACHER.clone().requires_grad_(), TAUGHT.clone().requires_grad_()
    parts = masked_loss(logits, hidden, LABELS, MaskedTargets(buckets(3.0), TAUGHT), spec, 1.0)
    parts.total.backward()
    assert parts.total.item() == pytest.approx(0.0, abs=1e-12)
    for leaf in (logits, hidden):
        assert leaf.grad is not None
        assert leaf.grad.abs().max() < 1e-12


@pytest.mark.parametrize("num", [0, 3])
def test_the_text_alone(num: int) -> None:
    spec = LossSpec((("forward_kl", 1.0),), alpha=1.0)
    logits = LOGITS[:num].clone().requires_grad_()
    parts = masked_loss(logits, None, LABELS[:num], MaskedTargets(None, None), spec, 0.0)
    assert parts.divergence is None
    parts.total.backward()
    wanted = torch.nn.functional.cross_entropy(LOGITS[:num], LABELS[:num], reduction="sum")
    torch.testing.assert_close(parts.total.detach(), wanted if num else wanted * 0)
    assert logits.grad is not None
    onehot = torch.nn.functional.one_hot(LABELS[:num], V)
    torch.testing.assert_close(logits.grad, LOGITS[:num].softmax(1) - onehot)


def test_narrow_logits_are_reckoned_in_float32() -> None:
    spec = LossSpec((("forward_kl", 1.0),), temperature=2.0, alpha=0.5)
    narrow = LOGITS.bfloat16().requires_grad_()
    parts = masked_loss(narrow, None, LABELS, MaskedTargets(buckets(2.0), None), spec, 0.0)
    parts.total.backward()
    wanted = by_hand(narrow.detach().double(), HIDDEN, 0.5, 2.0, 0.0, dense=False)
    assert parts.total.dtype == torch.float32
    assert parts.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert narrow.grad is not None
    assert narrow.grad.dtype == torch.bfloat16
