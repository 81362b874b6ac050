"""A small head with padding, its fused loss, and the same written plainly."""

from __future__ import annotations

from typing import Any

import torch
from loss_reference import (
    SHAPES,
    every_kind,
    normal,
    reference_logits,
    reference_loss,
)

from raykd.losses.fused import LossParts, linear_distillation_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import (
    LogitShape,
    Targets,
)

T, V, D, PADDING = 7, 12, 4, 3
KINDS = tuple(every_kind(1, V, 1.0))
LABELS_T = torch.tensor([0, 7, 11, 7, 3, 5, 1])
WEIGHTS_T = torch.tensor([1.0, 0.25, 0.0, 2.0, 0.0, 1.0, 0.5], dtype=torch.float64)
FORWARD = (("forward_kl", 1.0),)
SEVERAL = (("forward_kl", 0.5), ("reverse_kl", 0.25), ("total_variation", 2.0), ("jsd", 1.0))


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
