"""Held-out sums against plain float64 sums, from logits and from hidden states."""

from __future__ import annotations

import pytest
import torch
from loss_reference import SHAPES, normal, reference_logits, reference_loss, top_k_targets

from raykd.losses import blocks
from raykd.losses.heldout import HeldoutSums, heldout_sums, linear_heldout_sums
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, LogitShape

M, V, D = 300, 11, 4
LABELS_M = torch.arange(M) % V
FORWARD_KL = LossSpec((("forward_kl", 1.0),))


def expected_sums(
    logits_MV: torch.Tensor, targets: BucketTargets, teacher_MV: torch.Tensor
) -> HeldoutSums:
    kl, _, nll = reference_loss(logits_MV, LABELS_M[: len(logits_MV)], targets, FORWARD_KL)
    agreed = (logits_MV.argmax(1) == teacher_MV.argmax(1)).sum()
    return HeldoutSums(float(len(logits_MV)), float(kl), float(agreed), float(nll))


def assert_close(found: HeldoutSums, expected: HeldoutSums, tolerance: float = 1e-10) -> None:
    assert (found.tokens, found.agreed) == (expected.tokens, expected.agreed)
    assert found.kl == pytest.approx(expected.kl, rel=tolerance)
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=tolerance)


@pytest.mark.parametrize("k", [1, 4, V])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_from_logits(k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", {"cpu": 7 * V})
    logits_MV, teacher_MV = normal(M, V, seed=1).to(dtype), normal(M, V, seed=2)
    targets = top_k_targets(teacher_MV, k, 1.0)
    before_MV = logits_MV.clone()
    found = heldout_sums(logits_MV, LABELS_M.int(), targets)
    assert torch.equal(logits_MV, before_MV)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert_close(found, expected_sums(logits_MV.double(), targets, teacher_MV), tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_sums_from_hidden_states(shape: LogitShape, bias: bool) -> None:
    hidden_MD, weight_VD = normal(M, D, seed=1), normal(V + 2, D, seed=2)
    bias_V = normal(V + 2, seed=3) if bias else None
    teacher_MV = normal(M, V, seed=4)
    targets = top_k_targets(teacher_MV, 4, 1.0)
    found = linear_heldout_sums(
        hidden_MD, weight_VD, bias_V, LABELS_M, targets, shape=shape, vocab_size=V
    )
    logits_MV = reference_logits(hidden_MD, weight_VD, bias_V, shape, V)
    assert_close(found, expected_sums(logits_MV, targets, teacher_MV))


def test_without_a_teacher_cross_entropy_is_the_same() -> None:
    logits_MV, teacher_MV = normal(M, V, seed=1), normal(M, V, seed=2)
    with_teacher = heldout_sums(logits_MV, LABELS_M, top_k_targets(teacher_MV, 4, 1.0))
    alone = heldout_sums(logits_MV, LABELS_M, None)
    assert alone.cross_entropy == pytest.approx(with_teacher.cross_entropy, rel=1e-12)
    assert (alone.tokens, alone.kl, alone.agreed) == (M, 0.0, 0.0)


def test_no_token_is_nothing() -> None:
    targets = top_k_targets(normal(0, V, seed=1), 3, 1.0)
    assert heldout_sums(normal(0, V, seed=2), LABELS_M[:0], targets) == HeldoutSums()


def test_sums_add_up_over_batches() -> None:
    logits_MV, targets = normal(M, V, seed=1), top_k_targets(normal(M, V, seed=2), 4, 1.0)
    halves = [
        heldout_sums(logits_MV[rows], LABELS_M[rows], targets.rows(rows))
        for rows in (slice(0, 100), slice(100, M))
    ]
    assert_close(halves[0] + halves[1], heldout_sums(logits_MV, LABELS_M, targets))
