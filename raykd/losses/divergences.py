"""Divergences of a student from its teacher, token by token, over buckets.

Each is a plain function of log probabilities; autograd of these small tensors meets the closed-form
gradient of `student_buckets`. None carries the factor temperature^2: that is `mix.py`'s, once.

Shapes: T tokens, V vocabulary ids, B buckets (K kept ids and the tail).
"""

from __future__ import annotations

import math
from typing import Final

import torch

from raykd.losses.buckets import (
    BucketTargets,
    arithmetic_dtype,
    student_buckets,
    teacher_buckets,
)

DIVERGENCES: Final = ("forward_kl", "reverse_kl", "jsd")

LOG_FLOOR: Final = -87.0
"""Least log probability, in nats, that `reverse_kl` lets a teacher have.

A teacher that rules a bucket out altogether (-inf) would make any student's mass there infinitely
bad. The floor is about the log of the least normal float32, so no probability that can be stored is
touched.
"""


def forward_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q), teacher first: sum of p (log p - log q), with 0 log 0 = 0.

    Args:
        log_p_TB: Teacher, normalised, nats; -inf is legal.
        log_q_TB: Student, normalised, nats. Where it is -inf and the teacher's is not, the
            divergence is +inf.

    Returns:
        [T], nats.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, up to the teacher's entropy.
    """
    return _expected_gap(log_p_TB, log_p_TB, log_q_TB)


def reverse_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p), student first, with the teacher's log probabilities at least LOG_FLOOR.

    Args:
        log_p_TB: Teacher, normalised, nats; -inf is legal.
        log_q_TB: Student, normalised, nats; -inf is legal.

    Returns:
        [T], nats.

    Source: Gu et al. 2023 (arXiv 2306.08543), section 2.1.
    """
    return _expected_gap(log_q_TB, log_q_TB, log_p_TB.clamp(min=LOG_FLOOR))


def jsd(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, beta: float) -> torch.Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q.

    `beta` is the weight of the teacher p. 0.5 is the symmetric Jensen-Shannon divergence. Over
    beta it tends to KL(p || q) as beta falls to 0; over 1 - beta, to KL(q || p) as beta rises to 1.
    Finite whatever either side rules out.

    Args:
        log_p_TB: Teacher, normalised, nats; -inf is legal.
        log_q_TB: Student, normalised, nats; -inf is legal.
        beta: In (0, 1).

    Returns:
        [T], nats.

    Raises:
        ValueError: `beta` lies outside (0, 1).

    Source: Agarwal et al. 2023 (GKD, arXiv 2306.13649), section 2, generalized JSD.
    """
    if not 0.0 < beta < 1.0:
        raise ValueError(f"beta must lie in (0, 1); found {beta}")
    # A bucket ruled out on both sides adds nothing, but logaddexp's gradient there is NaN.
    nowhere_TB = (log_p_TB == -math.inf) & (log_q_TB == -math.inf)
    log_q_TB = log_q_TB.masked_fill(nowhere_TB, LOG_FLOOR)
    log_m_TB = torch.logaddexp(log_p_TB + math.log(beta), log_q_TB + math.log1p(-beta))
    of_teacher_T = _expected_gap(log_p_TB, log_p_TB, log_m_TB)
    of_student_T = _expected_gap(log_q_TB, log_q_TB, log_m_TB)
    return beta * of_teacher_T + (1.0 - beta) * of_student_T


def divergence_per_token(
    divergence: str, log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, beta: float
) -> torch.Tensor:
    """Return the divergence of that name.

    Args:
        divergence: One of DIVERGENCES.
        log_p_TB: Teacher, normalised, nats.
        log_q_TB: Student, normalised, nats.
        beta: Of `jsd`; the others do not look at it.

    Returns:
        [T], nats.

    Raises:
        ValueError: No such divergence.
    """
    if divergence == "forward_kl":
        return forward_kl(log_p_TB, log_q_TB)
    if divergence == "reverse_kl":
        return reverse_kl(log_p_TB, log_q_TB)
    if divergence == "jsd":
        return jsd(log_p_TB, log_q_TB, beta)
    raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}; found {divergence!r}")


def forward_kl_per_token(
    student_logits_TV: torch.Tensor, targets: BucketTargets, temperature: float = 1.0
) -> torch.Tensor:
    """Return KL(teacher || student) over top-k and tail from the student's logits.

    It is a lower bound of the KL over the whole vocabulary, and equal to it where K == V.

    Args:
        student_logits_TV: Any float dtype.
        targets: With the tail at `temperature`.
        temperature: Above 0.

    Returns:
        [T], nats, float32 (float64 if the logits are).
    """
    log_q_TB, _ = student_buckets(student_logits_TV, targets.ids_TK, None, temperature)
    dtype = arithmetic_dtype(student_logits_TV)
    log_p_TB = teacher_buckets(targets, temperature, student_logits_TV.shape[1], dtype)
    return forward_kl(log_p_TB, log_q_TB)


def _expected_gap(
    log_w_TB: torch.Tensor, log_a_TB: torch.Tensor, log_b_TB: torch.Tensor
) -> torch.Tensor:
    """Return the sum over buckets of w (log a - log b), leaving out those where w is 0."""
    # Masked before the multiplication: 0 * inf is NaN, in the value and in the gradient.
    gap_TB = (log_a_TB - log_b_TB).masked_fill(log_w_TB == -math.inf, 0.0)
    return (log_w_TB.exp() * gap_TB).sum(1)
