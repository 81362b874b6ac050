"""The fused loss against the same written plainly in float64: values and every gradient."""

from __future__ import annotations

from dataclasses import replace

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
    assert_same,
    fused,
    gradcheck,
    gradients,
    inputs,
)
from loss_reference import (
    SHAPES,
    every_kind,
    normal,
    reference_logits,
    reference_loss,
    top_k_targets,
)

from raykd.losses import blocks
from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import DIVERGENCES, LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    LogitShape,
    SampledTargets,
    TeacherHead,
)

# A rounding can turn the sign of p - q, and with it all of total variation's gradient.
WITHOUT_CORNERS = (("forward_kl", 0.5), ("reverse_kl", 0.25), ("jsd", 1.0), ("skewed_kl", 1.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_kind_of_target(kind: str, tau: float, alpha: float) -> None:
    spec = LossSpec((("forward_kl", 0.7),), temperature=tau, alpha=alpha)
    assert_same(every_kind(T, V, tau)[kind], spec, token_weights_T=WEIGHTS_T, shape=SHAPES[2])


@pytest.mark.parametrize("kind", ["top_k", "whole", "dense", "hidden"])
@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_every_divergence(kind: str, name: str, tau: float) -> None:
    spec = LossSpec(((name, 0.7),), temperature=tau, alpha=0.2, beta=0.3, skew=0.2, head_mass=0.6)
    assert_same(every_kind(T, V, tau)[kind], spec)


@pytest.mark.parametrize("kind", ["top_k", "hidden"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_scale_cap_bias_and_several_divergences(kind: str, bias: bool, shape: LogitShape) -> None:
    spec = LossSpec(SEVERAL, temperature=1.5, alpha=0.4)
    assert_same(every_kind(T, V, 1.5)[kind], spec, bias=bias, shape=shape)


@pytest.mark.parametrize("weighted", [False, True])
def test_plain_fine_tuning_needs_no_targets(weighted: bool) -> None:
    weights_T = WEIGHTS_T if weighted else None
    assert_same(None, LossSpec((), alpha=1.0), token_weights_T=weights_T, shape=SHAPES[1])
    given = inputs()
    assert fused(given, None, LossSpec(FORWARD, alpha=1.0)).divergence is None
    assert fused(given, every_kind(T, V, 1.0)["top_k"], LossSpec((), alpha=1.0)).divergence is None
    with pytest.raises(ValueError, match=r"alpha is 0\.5: below 1 .* targets"):
        fused(given, None, LossSpec(FORWARD, alpha=0.5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
def test_neither_chunks_nor_blocks_show(
    kind: str, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", {"cpu": 2 * V})
    spec = LossSpec(FORWARD, temperature=2.0, alpha=0.3)
    assert_same(every_kind(T, V, 2.0)[kind], spec, chunk_tokens=chunk_tokens, shape=SHAPES[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_gradcheck(kind: str, tau: float) -> None:
    targets = every_kind(T, V, tau)[kind]
    divergences = FORWARD if kind == "sampled" else SEVERAL
    spec = LossSpec(divergences, temperature=tau, alpha=0.3)

    def total(*given: torch.Tensor) -> torch.Tensor:
        weights = {"token_weights_T": WEIGHTS_T, "shape": SHAPES[2], "chunk_tokens": 3}
        return fused(list(given), targets, spec, **weights).total

    assert gradcheck(total, *inputs())


# Differences would see the weights of adaptive KL move: the plain form above is its check.
@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "adaptive_kl"])
@pytest.mark.parametrize("kind", ["top_k", "dense", "hidden"])
def test_gradcheck_of_each_divergence(name: str, kind: str) -> None:
    targets = every_kind(T, V, 1.5)[kind]
    spec = LossSpec(((name, 1.0),), temperature=1.5, skew=0.3)
    assert gradcheck(lambda *given: fused(list(given), targets, spec).total, *inputs())


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    gap = found.detach().double() - expected.detach()
    return float(gap.norm() / expected.detach().norm())


NARROW = (
    (False, FORWARD, 0.0, SHAPES[0]),
    (False, FORWARD, 0.5, SHAPES[2]),
    (True, WITHOUT_CORNERS, 0.3, SHAPES[1]),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize(("weighted", "divergences", "alpha", "shape"), NARROW)
def test_narrow_dtypes_equal_float64(
    kind: str,
    dtype: torch.dtype,
    tolerance: float,
    tau: float,
    weighted: bool,
    divergences: tuple[tuple[str, float], ...],
    alpha: float,
    shape: LogitShape,
) -> None:
    """Against plain autograd in float64 on the very same narrow inputs."""
    num_tokens, vocab_size, width = 48, 200, 16
    spec = LossSpec(FORWARD if kind == "sampled" else divergences, temperature=tau, alpha=alpha)
    narrow = [
        normal(num_tokens, width, seed=20),
        normal(vocab_size + 3, width, seed=21, scale=0.5),
        normal(vocab_size + 3, seed=22),
    ]
    narrow = [x.to(dtype).requires_grad_() for x in narrow]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    labels_T = torch.randint(vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(1))
    weights_T = normal(num_tokens, seed=23).abs() if weighted else None
    targets = every_kind(num_tokens, vocab_size, tau)[kind]
    if isinstance(targets, HiddenTargets) and dtype == torch.bfloat16:
        targets = in_bfloat16(targets)

    parts = linear_distillation_loss(
        *narrow,
        labels_T,
        targets,
        spec,
        shape=shape,
        vocab_size=vocab_size,
        token_weights_T=weights_T,
        chunk_tokens=13,
    )
    logits_TV = reference_logits(*wide, shape, vocab_size)
    total, divergence, cross_entropy = reference_loss(logits_TV, labels_T, targets, spec, weights_T)
    assert parts.total.dtype == torch.float32
    assert relative(parts.total, total) < tolerance
    assert parts.divergence is not None
    assert relative(parts.divergence, divergence) < tolerance
    assert relative(parts.cross_entropy, cross_entropy) < tolerance
    parts.total.backward()
    total.backward()
    for found, expected in zip(narrow, wide, strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        assert found.grad.dtype == dtype
        assert relative(found.grad, expected.grad) < tolerance


def in_bfloat16(targets: HiddenTargets) -> HiddenTargets:
    head = targets.head
    assert head.bias_V is not None
    narrow = TeacherHead(head.weight_VD.bfloat16(), head.bias_V.bfloat16(), head.shape)
    return HiddenTargets(targets.hidden_TD.bfloat16(), narrow)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64]
)
def test_ids_may_be_any_integers(dtype: torch.dtype) -> None:
    kinds, spec = every_kind(T, V, 1.0), LossSpec(FORWARD)
    kept, drawn = kinds["top_k"], kinds["sampled"]
    assert isinstance(kept, BucketTargets)
    assert isinstance(drawn, SampledTargets)
    for targets, same in (
        (kept, replace(kept, ids_TK=kept.ids_TK.to(dtype))),
        (drawn, replace(drawn, ids_TU=drawn.ids_TU.to(dtype))),
    ):
        expected = fused(inputs(), targets, spec, chunk_tokens=2)
        found = fused(inputs(), same, spec, labels_T=LABELS_T.to(dtype), chunk_tokens=2)
        assert torch.equal(found.total, expected.total)


def test_keeping_every_id_equals_dense() -> None:
    teacher_TV, tau = normal(T, V, seed=3), 2.0
    spec = LossSpec(SEVERAL, temperature=tau, alpha=0.2)
    results = []
    for targets in (top_k_targets(teacher_TV, V, tau), DenseTargets(teacher_TV)):
        given = inputs()
        parts = fused(given, targets, spec)
        results.append([parts.total, parts.divergence, *gradients(parts.total, given)])
    torch.testing.assert_close(results[0], results[1])


def test_dense_forward_kl_equals_torch() -> None:
    teacher_TV, tau, given = normal(T, V, seed=3), 2.0, inputs(bias=False)
    parts = fused(given, DenseTargets(teacher_TV), LossSpec(FORWARD, temperature=tau, alpha=0.25))
    found = gradients(parts.total, given)
    again = inputs(bias=False)
    logits_TV = (again[0] @ again[1].T)[:, :V]  # type: ignore[operator, union-attr]
    kl = torch.nn.functional.kl_div(
        (logits_TV / tau).log_softmax(-1), (teacher_TV / tau).softmax(-1), reduction="sum"
    )
    nll = torch.nn.functional.cross_entropy(logits_TV, LABELS_T, reduction="sum")
    total = 0.75 * tau**2 * kl + 0.25 * nll
    torch.testing.assert_close(parts.total, total)
    torch.testing.assert_close(found, gradients(total, again))
