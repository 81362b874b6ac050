"""The loss of a student: a divergence from its teacher mixed with cross-entropy on the text.

This is the form that takes logits. Shapes: T tokens learned from, V vocabulary ids, B buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raykd.losses.buckets import (
    BucketTargets,
    arithmetic_dtype,
    label_logprobs,
    student_buckets,
    teacher_buckets,
)
from raykd.losses.divergences import DIVERGENCES, divergence_per_token


@dataclass(frozen=True, eq=False)
class LossParts:
    """Sums over tokens, scalars in nats; the caller divides by the global count of kept tokens.

    Attributes:
        total: (1 - alpha) * divergence + alpha * cross_entropy, with the gradient.
        divergence: temperature^2 times the sum of the divergence, for reading only; None where no
            targets were given.
        cross_entropy: Sum of -log probability of the labels at temperature 1, for reading only.
    """

    total: torch.Tensor
    divergence: torch.Tensor | None
    cross_entropy: torch.Tensor


def distillation_loss(
    student_logits_TV: torch.Tensor,
    labels_T: torch.Tensor,
    targets: BucketTargets | None,
    *,
    divergence: str,
    temperature: float,
    beta: float,
    alpha: float,
) -> LossParts:
    """Return (1 - alpha) temperature^2 divergence + alpha cross-entropy, summed over tokens.

    The factor temperature^2 keeps the size of the gradient as the temperature rises; it is here and
    nowhere else. A part of weight 0 is a number to read and costs nothing backward. T = 0 gives
    zeros that backward can run through, so that a rank without a token keeps step with the others.

    Args:
        student_logits_TV: Any float dtype; arithmetic is in float32 (float64 for float64).
        labels_T: Any integer dtype, in [0, V): the token that really follows.
        targets: What the teacher says; None only where alpha is 1.
        divergence: One of `DIVERGENCES`.
        temperature: Above 0; of the divergence only.
        beta: In (0, 1), weight of the teacher in `jsd`; the others do not look at it.
        alpha: In [0, 1], weight of cross-entropy.

    Returns:
        The loss and its parts.

    Raises:
        ValueError: An argument is not as said.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2.
    """
    _check_settings(divergence, temperature, alpha)
    _check_shapes(student_logits_TV, labels_T, targets)
    if targets is None:
        if alpha < 1.0:
            raise ValueError(f"alpha is {alpha}: below 1 the loss needs the teacher's targets")
        cross_entropy = -label_logprobs(student_logits_TV, labels_T).sum()
        return LossParts(cross_entropy, None, cross_entropy.detach())

    dtype = arithmetic_dtype(student_logits_TV)
    log_p_TB = teacher_buckets(targets, temperature, student_logits_TV.shape[1], dtype)
    log_q_TB, logprobs_T = student_buckets(student_logits_TV, targets.ids_TK, labels_T, temperature)
    assert logprobs_T is not None, "labels were given"
    divergence_T = divergence_per_token(divergence, log_p_TB, log_q_TB, beta)
    scaled_divergence = temperature**2 * divergence_T.sum()
    cross_entropy = -logprobs_T.sum()
    return LossParts(
        _mix(scaled_divergence, cross_entropy, alpha),
        scaled_divergence.detach(),
        cross_entropy.detach(),
    )


def _mix(divergence: torch.Tensor, cross_entropy: torch.Tensor, alpha: float) -> torch.Tensor:
    """Leave a part of weight 0 out: its gradient would be made, and 0 times inf is NaN."""
    if alpha == 0.0:
        return divergence
    if alpha == 1.0:
        return cross_entropy
    return (1.0 - alpha) * divergence + alpha * cross_entropy


def _check_settings(divergence: str, temperature: float, alpha: float) -> None:
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"divergence must be one of {', '.join(DIVERGENCES)}; found {divergence!r}"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0; found {temperature}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in [0, 1]; found {alpha}")


def _check_shapes(
    student_logits_TV: torch.Tensor, labels_T: torch.Tensor, targets: BucketTargets | None
) -> None:
    num_tokens = student_logits_TV.shape[0]
    found = {"labels_T": labels_T}
    if targets is not None:
        found |= {
            "ids_TK": targets.ids_TK,
            "logprobs_TK": targets.logprobs_TK,
            "log_tail_T": targets.log_tail_T,
        }
    for name, tensor in found.items():
        if tensor.shape[0] != num_tokens:
            raise ValueError(f"{name} holds {tensor.shape[0]} tokens, the logits {num_tokens}")
    if targets is not None and targets.ids_TK.shape[1] > student_logits_TV.shape[1]:
        raise ValueError(
            f"{targets.ids_TK.shape[1]} ids a token are kept, but the student's vocabulary has "
            f"{student_logits_TV.shape[1]}"
        )
