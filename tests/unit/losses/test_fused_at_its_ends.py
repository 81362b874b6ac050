"""The fused loss at its ends: weight 0, no token, infinities, NaN, what does not fit."""

from __future__ import annotations

import math

import pytest
import torch
from fused_cases import (
    FORWARD,
    KINDS,
    LABELS_T,
    SEVERAL,
    WEIGHTS_T,
    T,
    V,
    fused,
    gradients,
    inputs,
)
from loss_reference import (
    every_kind,
    normal,
    top_k_targets,
)

from raykd.losses.spec import LossSpec
from raykd.losses.targets import (
    DenseTargets,
    SampledTargets,
)


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_an_infinite_cross_entropy_of_weight_zero_cannot_hurt(tau: float) -> None:
    """Student and teacher both rule out id 7, which is a label."""
    given, teacher_TV = inputs(), normal(T, V, seed=3)
    teacher_TV[:, 7] = -math.inf
    with torch.no_grad():
        given[2][7] = -math.inf  # type: ignore[index]
    spec = LossSpec(FORWARD, temperature=tau, alpha=0.0)
    for targets in (top_k_targets(teacher_TV, 4, tau), DenseTargets(teacher_TV)):
        parts = fused(given, targets, spec)
        assert parts.total.isfinite()
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(parts.total, given))
        assert parts.cross_entropy.isinf()


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_an_infinite_divergence_of_weight_zero_cannot_hurt(tau: float) -> None:
    """The student alone rules out id 2, which is no label."""
    given, teacher_TV = inputs(), normal(T, V, seed=3)
    with torch.no_grad():
        given[2][2] = -math.inf  # type: ignore[index]
    spec = LossSpec(FORWARD, temperature=tau, alpha=1.0)
    for targets in (top_k_targets(teacher_TV, V, tau), DenseTargets(teacher_TV)):
        parts = fused(given, targets, spec)
        assert parts.total.isfinite()
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(parts.total, given))
        assert parts.divergence is not None
        assert parts.divergence.isinf()


@pytest.mark.parametrize("divergences", [FORWARD, SEVERAL])
@pytest.mark.parametrize("kind", ["top_k", "dense"])
def test_a_token_of_weight_zero_cannot_hurt(
    kind: str, divergences: tuple[tuple[str, float], ...]
) -> None:
    """Its loss is infinite, as its teacher wants what the student rules out."""
    given, weights_T = inputs(), torch.ones(T)
    weights_T[2] = 0.0
    with torch.no_grad():
        given[2][5] = -math.inf  # type: ignore[index]
    teacher_TV = normal(T, V, seed=3)
    teacher_TV[:, 5] = -math.inf
    teacher_TV[2, 5] = 3.0
    labels_T = LABELS_T.clone()
    labels_T[2], labels_T[5] = 5, 4
    targets = top_k_targets(teacher_TV, 4, 1.0) if kind == "top_k" else DenseTargets(teacher_TV)
    spec = LossSpec(divergences, alpha=0.5)
    assert fused(given, targets, spec, labels_T=labels_T).total.isinf()
    parts = fused(given, targets, spec, labels_T=labels_T, token_weights_T=weights_T)
    assert parts.total.isfinite()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(parts.total, given))


@pytest.mark.parametrize("kind", KINDS)
def test_rubbish_targets_of_a_token_of_weight_zero_cannot_hurt(kind: str) -> None:
    targets, weights_T = every_kind(T, V, 1.0)[kind], torch.ones(T)
    weights_T[2] = 0.0
    for x in vars(targets).values():
        if torch.is_tensor(x) and x.is_floating_point():
            x[2] = math.nan
    spec = LossSpec(FORWARD if kind == "sampled" else SEVERAL, temperature=2.0, alpha=0.5)
    given = inputs()
    parts = fused(given, targets, spec, token_weights_T=weights_T)
    assert parts.total.isfinite()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(parts.total, given))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [*KINDS, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_no_token_gives_zeros_with_a_graph(
    alpha: float, kind: str | None, dtype: torch.dtype
) -> None:
    if kind is None and alpha < 1.0:
        alpha = 1.0
    given = [x.detach().to(dtype).requires_grad_() for x in inputs(num_tokens=0) if x is not None]
    targets = None if kind is None else every_kind(T, V, 2.0)[kind].rows(slice(0, 0))
    spec = LossSpec(FORWARD, temperature=2.0, alpha=alpha)
    parts = fused(list(given), targets, spec, labels_T=LABELS_T[:0])
    parts.total.backward()
    assert float(parts.total.detach()) == 0.0
    assert float(parts.cross_entropy) == 0.0
    for x in given:
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_a_mask_with_no_kept_token_gives_zeros() -> None:
    given = inputs()
    spec = LossSpec(SEVERAL, temperature=2.0, alpha=0.5)
    parts = fused(given, every_kind(T, V, 2.0)["top_k"], spec, token_weights_T=torch.zeros(T))
    assert float(parts.total.detach()) == 0.0
    assert all(not bool(gradient.any()) for gradient in gradients(parts.total, given))


def test_a_nan_in_the_hidden_states_is_a_nan_in_the_loss() -> None:
    for kind, targets in every_kind(T, V, 1.0).items():
        given = inputs(requires_grad=False)
        given[0][3, 1] = math.nan  # type: ignore[index]
        parts = fused(given, targets, LossSpec(FORWARD, alpha=0.5))
        assert parts.total.isnan(), kind


def test_samples_serve_forward_kl_only() -> None:
    drawn = every_kind(T, V, 1.0)["sampled"]
    assert isinstance(drawn, SampledTargets)
    with pytest.raises(ValueError, match=r"forward_kl only; found reverse_kl, .*top-k, hidden or"):
        fused(inputs(), drawn, LossSpec((*FORWARD, ("reverse_kl", 1.0))))


def test_what_does_not_fit_is_named() -> None:
    given, kinds, spec = inputs(), every_kind(T, V, 1.0), LossSpec(FORWARD)
    with pytest.raises(ValueError, match="labels_T holds 3 tokens, hidden_TD 7"):
        fused(given, kinds["top_k"], spec, labels_T=LABELS_T[:3])
    with pytest.raises(ValueError, match="targets holds 3 tokens, hidden_TD 7"):
        fused(given, kinds["top_k"].rows(slice(0, 3)), spec)
    with pytest.raises(ValueError, match="token_weights_T holds 3 tokens, hidden_TD 7"):
        fused(given, kinds["top_k"], spec, token_weights_T=WEIGHTS_T[:3])
    with pytest.raises(ValueError, match="weight_VD has 15 rows, the vocabulary 16 ids"):
        fused(given, kinds["top_k"], spec, vocab_size=16)
    with pytest.raises(ValueError, match="12 ids a token are kept of a vocabulary of 9"):
        fused(given, kinds["whole"], spec, vocab_size=9)
    with pytest.raises(ValueError, match="targets hold 12 ids a token, the vocabulary 9"):
        fused(given, kinds["dense"], spec, vocab_size=9)
    with pytest.raises(ValueError, match="teacher's head has 14 rows, the vocabulary 15 ids"):
        fused(given, kinds["hidden"], spec, vocab_size=15)
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1; found 0"):
        fused(given, kinds["top_k"], spec, chunk_tokens=0)
    with pytest.raises(ValueError, match=r"must be matrices; found \(0,\) and .* gathered first"):
        fused([given[0], given[1].new_empty(0), None], kinds["top_k"], spec)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="weight_VD takes 4 wide hidden states; found 2"):
        fused([given[0][:, :2], *given[1:]], kinds["top_k"], spec)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"hidden_TD is torch.float32, weight_VD torch.float64"):
        fused([given[0].float(), *given[1:]], kinds["top_k"], spec)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"its bias 3 of torch.float64"):
        fused([*given[:2], given[2][:3]], kinds["top_k"], spec)  # type: ignore[index]
