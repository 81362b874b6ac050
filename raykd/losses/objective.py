"""A weighted sum of divergences, and its gradient by the student's log probabilities.

Shapes: T tokens, B buckets.
"""

from __future__ import annotations

import math

import torch

from raykd.losses import divergences
from raykd.losses.spec import LossSpec


def weighted_divergence(
    log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, spec: LossSpec, *, has_tail: bool
) -> torch.Tensor:
    """Return the sum of the spec's divergences times their weights, without temperature^2.

    Args:
        log_p_TB: Teacher, normalised, nats.
        log_q_TB: Student, normalised, nats.
        spec: Names at least one divergence.
        has_tail: The last bucket is many ids.

    Returns:
        [T], nats.
    """
    parts = [
        weight * _divergence(name, log_p_TB, log_q_TB, spec, has_tail)
        for name, weight in spec.divergences
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def divergence_gradient(
    log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, spec: LossSpec, *, has_tail: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `weighted_divergence` and its gradient [T, B] by `log_q_TB`, each entry on its own.

    That all probabilities add up to 1 is left to the caller's softmax.
    """
    if spec.names == ("forward_kl",):  # the usual one, worth a form of its own over a vocabulary
        p_TB = log_p_TB.exp()
        gap_TB = (log_p_TB - log_q_TB).masked_fill_(log_p_TB == -math.inf, 0.0)
        weight = spec.divergences[0][1]
        return gap_TB.mul_(p_TB).sum(1) * weight, p_TB.mul_(-weight)
    with torch.enable_grad():
        leaf_TB = log_q_TB.detach().requires_grad_()
        value_T = weighted_divergence(log_p_TB, leaf_TB, spec, has_tail=has_tail)
        (gradient_TB,) = torch.autograd.grad(value_T.sum(), leaf_TB)
    return value_T.detach(), gradient_TB


def _divergence(
    name: str, log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, spec: LossSpec, has_tail: bool
) -> torch.Tensor:
    match name:
        case "forward_kl":
            return divergences.forward_kl(log_p_TB, log_q_TB)
        case "reverse_kl":
            return divergences.reverse_kl(log_p_TB, log_q_TB)
        case "jsd":
            return divergences.jsd(log_p_TB, log_q_TB, spec.beta)
        case "skewed_kl":
            return divergences.skewed_kl(log_p_TB, log_q_TB, spec.skew)
        case "skewed_reverse_kl":
            return divergences.skewed_reverse_kl(log_p_TB, log_q_TB, spec.skew)
        case "adaptive_kl":
            return divergences.adaptive_kl(log_p_TB, log_q_TB, spec.head_mass, has_tail=has_tail)
        case "total_variation":
            return divergences.total_variation(log_p_TB, log_q_TB)
        case _:
            raise AssertionError(f"the spec lets {name} through")
