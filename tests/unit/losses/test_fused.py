"""The fused loss against the same written plainly in float64: values and every gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import (
    SHAPES,
    every_kind,
    normal,
    reference_logits,
    reference_loss,
    sampled_targets,
    top_k_targets,
)

from raykd.losses import blocks
from raykd.losses.fused import LossParts, linear_distillation_loss
from raykd.losses.spec import DIVERGENCES, LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    LogitShape,
    SampledTargets,
    Targets,
    TeacherHead,
)

T, V, D, PADDING = 7, 12, 4, 3
KINDS = tuple(every_kind(1, V, 1.0))
LABELS_T = torch.tensor([0, 7, 11, 7, 3, 5, 1])
WEIGHTS_T = torch.tensor([1.0, 0.25, 0.0, 2.0, 0.0, 1.0, 0.5], dtype=torch.float64)
FORWARD = (("forward_kl", 1.0),)
SEVERAL = (("forward_kl", 0.5), ("reverse_kl", 0.25), ("total_variation", 2.0), ("jsd", 1.0))

# A rounding can turn the sign of p - q, and with it all of total variation's gradient.
WITHOUT_CORNERS = (("forward_kl", 0.5), ("reverse_kl", 0.25), ("jsd", 1.0), ("skewed_kl", 1.0))


def inputs(
    *, bias: bool = True, num_tokens: int = T, requires_grad: bool = True
) -> list[torch.Tensor | None]:
    """Hidden states, weight and bias of a padded head, float64."""
    found = [
        normal(num_tokens, D, seed=10),
        normal(V + PADDING, D, seed=11),
        normal(V + PADDING, seed=12) if bias else None,
    ]
    return [None if x is None else x.requires_grad_(requires_grad) for x in found]


def fused(
    given: list[torch.Tensor | None], targets: Targets | None, spec: LossSpec, **fields: Any
) -> LossParts:
    hidden_TD, weight_VD, bias_V = given
    assert hidden_TD is not None
    assert weight_VD is not None
    fields = {"shape": LogitShape(), "vocab_size": V, **fields}
    labels_T = fields.pop("labels_T", LABELS_T)
    return linear_distillation_loss(hidden_TD, weight_VD, bias_V, labels_T, targets, spec, **fields)


def plain(
    given: list[torch.Tensor | None],
    targets: Targets | None,
    spec: LossSpec,
    shape: LogitShape = SHAPES[0],
    labels_T: torch.Tensor = LABELS_T,
    token_weights_T: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden_TD, weight_VD, bias_V = given
    assert hidden_TD is not None
    assert weight_VD is not None
    logits_TV = reference_logits(hidden_TD, weight_VD, bias_V, shape, V)
    return reference_loss(logits_TV, labels_T, targets, spec, token_weights_T)


class Recomputed(torch.autograd.Function):
    """A loss anew in each backward, for gradcheck runs several through one graph."""

    @staticmethod
    def forward(ctx: Any, loss: Any, *given: torch.Tensor) -> torch.Tensor:
        ctx.loss = loss
        ctx.save_for_backward(*given)
        return loss(*given).detach()

    @staticmethod
    def backward(ctx: Any, by_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            return None, *torch.autograd.grad(ctx.loss(*leaves), leaves, by_total)


def gradcheck(loss: Any, *given: torch.Tensor | None) -> bool:
    return torch.autograd.gradcheck(lambda *x: Recomputed.apply(loss, *x), given)


def gradients(total: torch.Tensor, given: list[torch.Tensor | None]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total, [x for x in given if x is not None]))


def assert_same(
    targets: Targets | None, spec: LossSpec, *, bias: bool = True, **fields: Any
) -> None:
    given, again = inputs(bias=bias), inputs(bias=bias)
    chunk_tokens = fields.pop("chunk_tokens", None)
    parts = fused(given, targets, spec, chunk_tokens=chunk_tokens, **fields)
    total, divergence, cross_entropy = plain(again, targets, spec, **fields)
    torch.testing.assert_close(parts.total, total)
    torch.testing.assert_close(parts.cross_entropy, cross_entropy.detach())
    if targets is not None:
        torch.testing.assert_close(parts.divergence, divergence.detach())
    for found, expected in zip(gradients(parts.total, given), gradients(total, again), strict=True):
        torch.testing.assert_close(found, expected)


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


def draw_logits(
    data: st.DataObject, num_tokens: int, vocab_size: int, *, holes: bool
) -> torch.Tensor:
    """Small integers make ties; holes are -inf."""
    value: Any = st.one_of(st.integers(-2, 2), st.floats(-20, 20))
    if holes:
        value = st.one_of(st.just(-math.inf), value)
    row = st.lists(value, min_size=vocab_size, max_size=vocab_size).filter(
        lambda r: max(r) > -math.inf
    )
    rows = data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    return torch.tensor(rows, dtype=torch.float64).reshape(num_tokens, vocab_size)


def draw_targets(
    data: st.DataObject, kind: str, num_tokens: int, vocab_size: int, tau: float
) -> Targets:
    teacher_TV = draw_logits(data, num_tokens, vocab_size, holes=kind != "hidden")
    if kind == "top_k":
        return top_k_targets(teacher_TV, data.draw(st.integers(1, vocab_size)), tau)
    if kind == "sampled":
        return sampled_targets(teacher_TV, data.draw(st.integers(1, 5)), tau)
    if kind == "dense":
        return DenseTargets(teacher_TV)
    head = TeacherHead(torch.eye(vocab_size, dtype=torch.float64), None, SHAPES[1])
    return HiddenTargets(teacher_TV, head)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_properties(data: st.DataObject) -> None:
    """Any shape, k, temperature, mask, holes and ties: as the plain form says, never a NaN."""
    num_tokens, vocab_size = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 7))
    tau = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    kind = data.draw(st.sampled_from(["top_k", "sampled", "dense", "hidden"]))
    names = data.draw(st.lists(st.sampled_from(DIVERGENCES), min_size=1, max_size=3, unique=True))
    if "adaptive_kl" in names and kind != "sampled":
        names = [n for n in names if n != "adaptive_kl"] or ["jsd"]  # ties: any head is right
    spec = LossSpec(
        FORWARD if kind == "sampled" else tuple((name, 0.5) for name in names),
        temperature=tau,
        alpha=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        skew=data.draw(st.sampled_from([0.0, 0.2])),
    )
    targets = draw_targets(data, kind, num_tokens, vocab_size, tau)
    weight = st.sampled_from([0.0, 1.0, 0.3])
    weights_T = torch.tensor(
        data.draw(st.lists(weight, min_size=num_tokens, max_size=num_tokens)), dtype=torch.float64
    )
    label = st.integers(0, vocab_size - 1)
    labels_T = torch.tensor(
        data.draw(st.lists(label, min_size=num_tokens, max_size=num_tokens)),
        dtype=data.draw(st.sampled_from([torch.int64, torch.int32, torch.uint8])),
    )
    bias_V = draw_logits(data, 1, vocab_size, holes=True)[0]
    shape = data.draw(st.sampled_from(SHAPES))
    results = []
    for run in (True, False):
        given = [
            draw_fixed(num_tokens, 3),
            draw_fixed(vocab_size, 3),
            bias_V.clone(),
        ]
        for x in given:
            x.requires_grad_()
        if run:
            parts = linear_distillation_loss(
                *given,
                labels_T,
                targets,
                spec,
                shape=shape,
                vocab_size=vocab_size,
                token_weights_T=weights_T,
                chunk_tokens=data.draw(st.integers(1, 5)),
            )
            total, divergence = parts.total, parts.divergence
            cross_entropy = parts.cross_entropy
        else:
            logits_TV = reference_logits(*given, shape, vocab_size)
            total, divergence, cross_entropy = reference_loss(
                logits_TV, labels_T.long(), targets, spec, weights_T
            )
        if total.requires_grad:
            total.backward()
        found = [x.grad if x.grad is not None else torch.zeros_like(x) for x in given]
        results.append(([total, divergence, cross_entropy], found))
    (values, found), (expected_values, expected) = results
    for value, expected_value in zip(values, expected_values, strict=True):
        torch.testing.assert_close(value.detach(), expected_value.detach(), rtol=1e-7, atol=1e-8)
    if kind != "sampled":
        assert float(values[1].detach()) >= -1e-9
    assert all(bool(gradient.isfinite().all()) for gradient in found)
    if values[0].isfinite() and shape.softcap is None:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def draw_fixed(rows: int, columns: int) -> torch.Tensor:
    return normal(rows, columns, seed=rows + 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_forward_kl_with_a_tail_is_never_negative(data: st.DataObject) -> None:
    """Whatever was kept, however it was rounded: the teacher is normalised over what arrives."""
    k = data.draw(st.integers(1, V))
    some = st.floats(-40, 0)
    logprobs_1K = torch.tensor([data.draw(st.lists(some, min_size=k, max_size=k))])
    log_tail_1 = torch.tensor([data.draw(st.one_of(st.just(-math.inf), st.floats(-60, 0)))])
    ids_1K = torch.tensor([data.draw(st.permutations(range(V)))[:k]])
    given = inputs(num_tokens=1, requires_grad=False)
    narrow = [None if x is None else x.float() for x in given]
    targets = BucketTargets(ids_1K, logprobs_1K, log_tail_1)
    tau = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    spec = LossSpec(FORWARD, temperature=tau)
    assert float(fused(narrow, targets, spec, labels_T=LABELS_T[:1]).total) >= -1e-5


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
