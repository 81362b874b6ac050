"""What a masked language model minimises: soft and hard losses of logits, likeness of states.

Shapes: M masked tokens, V vocabulary ids, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from raykd.losses.block_loss import Share, block_loss_
from raykd.losses.blocks import arithmetic_dtype, row_blocks
from raykd.losses.fused import LossParts
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, DenseTargets, LogitShape
from raykd.losses.teacher import TeacherLogits


@dataclass(frozen=True, eq=False)
class MaskedTargets:
    """What the teacher says of M masked tokens.

    Attributes:
        distributions: None where nobody asks it.
        hidden_MH: Its last hidden states, floats; where they are compared.
    """

    distributions: BucketTargets | DenseTargets | None
    hidden_MH: torch.Tensor | None


def masked_loss(
    logits_MV: torch.Tensor,
    hidden_MH: torch.Tensor | None,
    labels_M: torch.Tensor,
    targets: MaskedTargets,
    spec: LossSpec,
    cosine: float,
) -> LossParts:
    """Return the sums over masked tokens, reckoned in float32 (float64 for float64), of

        (1 - alpha) temperature^2 divergence + alpha cross_entropy + cosine * (1 - cos(hidden)).

    Args:
        logits_MV: The student's.
        hidden_MH: Its last hidden states, of the teacher's width; where `cosine` is above 0.
        labels_M: int64: what stood there.
        targets: What the teacher says; nothing only where alpha is 1.
        spec: Divergence, temperature and alpha.
        cosine: 0 or more.

    Returns:
        `total` with the gradient; the parts as `losses.fused` gives them.

    Source: DistilBERT (arXiv 1910.01108), section 3.
    """
    found = targets.distributions
    total, divergence, cross_entropy = _LogitsLoss.apply(  # type: ignore[no-untyped-call]
        logits_MV, labels_M, found, spec
    )
    if cosine > 0:
        assert hidden_MH is not None, "the student was asked for them"
        assert targets.hidden_MH is not None, "so was the teacher"
        dtype = arithmetic_dtype(hidden_MH.dtype)
        alike_M = functional.cosine_similarity(
            hidden_MH.to(dtype), targets.hidden_MH.to(dtype), dim=1
        )
        total = total + cosine * (1.0 - alike_M).sum()
    return LossParts(total, divergence if found is not None else None, cross_entropy)


class _LogitsLoss(torch.autograd.Function):
    """The gradient is made in forward, in the place of the logits' copy, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_MV: torch.Tensor,
        labels_M: torch.Tensor,
        targets: BucketTargets | DenseTargets | None,
        spec: LossSpec,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = arithmetic_dtype(logits_MV.dtype)
        gradient_MV = torch.empty_like(logits_MV)
        sums_2 = logits_MV.new_zeros(2, dtype=dtype)
        for rows in row_blocks(logits_MV, dense=isinstance(targets, DenseTargets)):
            work_RV = logits_MV[rows].to(dtype, copy=True)
            share = _share(work_RV, targets, spec)
            found_R, nll_R = block_loss_(
                work_RV, labels_M[rows], _of_block(targets, rows), spec, share
            )
            gradient_MV[rows] = work_RV
            if found_R is not None:
                sums_2[0] += found_R.sum() * spec.temperature**2
            sums_2[1] += nll_R.sum()
        ctx.save_for_backward(gradient_MV)
        divergence, cross_entropy = sums_2.unbind()
        alpha = spec.alpha if targets is not None else 1.0
        # A part of weight 0 is left out: 0 * inf is NaN.
        parts = [(1.0 - alpha, divergence), (alpha, cross_entropy)]
        total = sum(weight * part for weight, part in parts if weight > 0)
        assert isinstance(total, torch.Tensor), "one of the weights is above 0"
        outputs = total, divergence.clone(), cross_entropy.clone()
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: torch.Tensor, *_: torch.Tensor) -> tuple[Any, ...]:
        (gradient_MV,) = ctx.saved_tensors
        return gradient_MV * by_total.to(gradient_MV.dtype), None, None, None


def _of_block(
    targets: BucketTargets | DenseTargets | None, rows: slice
) -> BucketTargets | TeacherLogits | None:
    if targets is None:
        return None
    of_block = targets.rows(rows)
    if isinstance(of_block, DenseTargets):
        return TeacherLogits(of_block.logprobs_TV, LogitShape())
    return of_block


def _share(
    work_RV: torch.Tensor, targets: BucketTargets | DenseTargets | None, spec: LossSpec
) -> Share:
    """Weights of both parts; a part of weight 0 is not learned from at all."""
    one_R1 = work_RV.new_ones(len(work_RV), 1)
    if targets is None:
        return Share(None, one_R1)
    soft = (1.0 - spec.alpha) * spec.temperature**2
    return Share(
        one_R1 * soft if spec.alpha < 1.0 else None,
        one_R1 * spec.alpha if spec.alpha > 0.0 else None,
    )
