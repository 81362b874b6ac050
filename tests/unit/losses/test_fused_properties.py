"""The fused loss for any shape, k, temperature, mask, holes and ties."""

from __future__ import annotations

import math
from typing import Any

import torch
from fused_cases import (
    FORWARD,
    LABELS_T,
    V,
    fused,
    inputs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import (
    SHAPES,
    normal,
    reference_logits,
    reference_loss,
    sampled_targets,
    top_k_targets,
)

from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import DIVERGENCES, LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    Targets,
    TeacherHead,
)


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
