"""Hidden states and the head's weight in, the loss and its gradients out; never a [T, V] tensor.

Tokens go through in chunks: logits by one matrix product into a buffer that every chunk uses again,
the loss and its gradient by the logits in that buffer, two more products for the gradients of
hidden states and weight. All is done in the forward pass; backward hands the gradients out, times
the scalar that comes in.

Shapes: T tokens, C tokens of one chunk, D hidden size, V vocabulary ids, P rows of the head's
weight (V and padding).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from raykd.losses.checks import check_inputs
from raykd.losses.chunks import LossCall, token_losses
from raykd.losses.head import HeadGradients, chunk_size_tokens
from raykd.losses.spec import LossSpec
from raykd.losses.targets import HiddenTargets, LogitShape, Targets


class LossParts(NamedTuple):
    """Sums over tokens, scalars in nats; the caller divides by the global count of kept tokens.

    A tuple, because the hooks of ZeRO 3 look for tensors in tuples.

    Attributes:
        total: (1 - alpha) * divergence + alpha * cross_entropy, with the gradient.
        divergence: temperature^2 times the sum of the weighted divergences, for reading only; None
            where no targets were given.
        cross_entropy: Sum of -log probability of the labels at temperature 1, for reading only.
    """

    total: torch.Tensor
    divergence: torch.Tensor | None
    cross_entropy: torch.Tensor


def linear_distillation_loss(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_T: torch.Tensor,
    targets: Targets | None,
    spec: LossSpec,
    *,
    shape: LogitShape,
    vocab_size: int,
    token_weights_T: torch.Tensor | None = None,
    chunk_tokens: int | None = None,
) -> LossParts:
    """Return the loss of a head, with gradients for hidden states, weight and bias.

    Arithmetic on logits is in float32 (float64 for float64). Only gradients that are asked for are
    made; none without grad mode. They are made in this call, so backward may run only once. T = 0
    gives zeros that backward runs through, so that a rank without a token keeps step with others.
    What is given is read: targets at alpha 1 cost their divergence, though nothing learns from it.

    Args:
        hidden_TD: Of the weight's dtype.
        weight_VD: Any float dtype; rows from `vocab_size` on are padding and get a gradient of 0.
        bias_V: Of the weight's dtype and rows, or None.
        labels_T: Any integer dtype, in [0, V): the token that really follows.
        targets: What the teacher says; None only where alpha is 1.
        spec: What is minimised.
        shape: What the student does with its head's raw output.
        vocab_size: V of both sides.
        token_weights_T: Floats, 0 or more: each token's weight in all three sums, without a
            gradient. One of weight 0 is left out, be its loss infinite. None is 1 for all.
        chunk_tokens: Tokens whose logits are held at once; None leaves it to the sizes.

    Returns:
        The loss and its parts.

    Raises:
        ValueError: Tensors that do not fit together, or targets that cannot serve the loss.
    """
    check_inputs(hidden_TD, weight_VD, bias_V, labels_T, targets, spec, vocab_size, token_weights_T)
    if chunk_tokens is None:
        num_buffers = 2 if isinstance(targets, HiddenTargets) else 1
        chunk_tokens = chunk_size_tokens(len(hidden_TD), weight_VD, vocab_size, num_buffers)
    elif chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1; found {chunk_tokens}")
    call = LossCall(labels_T, targets, spec, shape, vocab_size, token_weights_T, chunk_tokens)
    # Within an autograd function grad mode is always off, so it is looked up here.
    total, divergence, cross_entropy = _LinearLoss.apply(  # type: ignore[no-untyped-call]
        hidden_TD, weight_VD, bias_V, call, torch.is_grad_enabled()
    )
    return LossParts(total, divergence, cross_entropy)


class _LinearLoss(torch.autograd.Function):
    """Gradients are made in forward, kept, and handed out by the one backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: torch.Tensor,
        weight_PD: torch.Tensor,
        bias_P: torch.Tensor | None,
        call: LossCall,
        grad_mode: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        wanted, gradients = ctx.needs_input_grad[:3], None
        if grad_mode and any(wanted):
            gradients = HeadGradients(hidden_TD, weight_PD, bias_P, wanted, call.vocab_size)
        divergence_T, nll_T = token_losses(hidden_TD, weight_PD, bias_P, call, gradients)
        ctx.gradients = gradients.hand_out() if gradients is not None else None
        ctx.set_materialize_grads(False)
        divergence = None
        cross_entropy = _weighted_sum(nll_T, call.token_weights_T)
        if divergence_T is not None:
            divergence = _weighted_sum(divergence_T, call.token_weights_T)
            divergence *= call.spec.temperature**2
        total = _mix(divergence, cross_entropy, call.spec.alpha)
        ctx.mark_non_differentiable(*(x for x in (divergence, cross_entropy) if x is not None))
        return total, divergence, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_total: torch.Tensor | None, *_: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "backward ran a second time through linear_distillation_loss: its gradients were "
                "made in the forward pass and are handed out once; call the loss again instead"
            )
        if by_total is None:
            return None, None, None, None, None
        # Reading the scalar would stall a GPU, where one pass over the gradient costs less.
        if by_total.device.type != "cpu" or by_total != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(by_total)
        return *gradients, None, None


def _weighted_sum(values_T: torch.Tensor, weights_T: torch.Tensor | None) -> torch.Tensor:
    if weights_T is None:
        return values_T.sum()
    # 0 * inf is NaN.
    weighted_T = values_T * weights_T.to(values_T.dtype)
    return weighted_T.masked_fill_(weights_T == 0.0, 0.0).sum()


def _mix(
    divergence: torch.Tensor | None, cross_entropy: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Leave a part of weight 0 out: 0 * inf is NaN."""
    if divergence is None or alpha == 1.0:
        return cross_entropy.clone()
    if alpha == 0.0:
        return divergence.clone()
    return (1.0 - alpha) * divergence + alpha * cross_entropy
