"""Divergences of a student from its teacher, token by token, over buckets.

Each is a plain function of two normalised log distributions, teacher first, in nats; -inf is legal
on either side. A bucket is an id, or all ids that the teacher did not keep (the tail), so that each
value is at most the one over the whole vocabulary. None carries the factor temperature^2 (see
`spec.LossSpec`).

Shapes: T tokens, B buckets, I buckets of one id, N likeliest of them.
"""

from __future__ import annotations

import math
from typing import Final

import torch

LOG_FLOOR: Final = -87.0
"""Least log probability, in nats, that `reverse_kl` lets a teacher have.

A teacher that rules a bucket out altogether (-inf) would make any student's mass there infinitely
bad. The floor is about the log of the least normal float32, so no probability that can be stored is
touched.
"""

_FIRST_LOOK: Final = 64  # likeliest ids in which a head is looked for first


def forward_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q): sum of p (log p - log q), with 0 log 0 = 0; [T].

    It is +inf where the student rules out what the teacher does not.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, up to the teacher's entropy.
    """
    return _expected_gap(log_p_TB, log_p_TB, log_q_TB)


def reverse_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p), the teacher's log probabilities being at least LOG_FLOOR; [T].

    Source: Gu et al. 2023 (arXiv 2306.08543), section 2.1.
    """
    return _expected_gap(log_q_TB, log_q_TB, log_p_TB.clamp(min=LOG_FLOOR))


def jsd(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, beta: float) -> torch.Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m), where m = beta p + (1 - beta) q; [T].

    `beta`, in (0, 1), is the weight of the teacher; 0.5 is the symmetric Jensen-Shannon divergence.
    Over beta it tends to KL(p || q) as beta falls to 0; over 1 - beta, to KL(q || p) as beta rises
    to 1. Finite whatever either side rules out.

    Source: Agarwal et al. 2023 (GKD, arXiv 2306.13649), section 2, generalized JSD.
    """
    log_m_TB, log_q_TB = _mixture(log_p_TB, log_q_TB, beta)
    of_teacher_T = _expected_gap(log_p_TB, log_p_TB, log_m_TB)
    of_student_T = _expected_gap(log_q_TB, log_q_TB, log_m_TB)
    return beta * of_teacher_T + (1.0 - beta) * of_student_T


def skewed_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, skew: float) -> torch.Tensor:
    """Return KL(p || skew p + (1 - skew) q); [T]. `skew` in [0, 1); 0 is forward KL.

    Source: Ko et al. 2024 (DistiLLM, arXiv 2402.03898), section 3.1, skew KL.
    """
    if skew == 0.0:
        return forward_kl(log_p_TB, log_q_TB)
    log_m_TB, _ = _mixture(log_p_TB, log_q_TB, skew)
    return _expected_gap(log_p_TB, log_p_TB, log_m_TB)


def skewed_reverse_kl(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, skew: float) -> torch.Tensor:
    """Return KL(q || (1 - skew) p + skew q); [T]. `skew` in [0, 1); 0 is reverse KL.

    Source: Ko et al. 2024 (DistiLLM, arXiv 2402.03898), section 3.1, skew reverse KL.
    """
    if skew == 0.0:
        return reverse_kl(log_p_TB, log_q_TB)
    log_m_TB, log_q_TB = _mixture(log_p_TB, log_q_TB, 1.0 - skew)
    return _expected_gap(log_q_TB, log_q_TB, log_m_TB)


def adaptive_kl(
    log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, head_mass: float, *, has_tail: bool
) -> torch.Tensor:
    """Return (g_head KL(p || q) + g_tail KL(q || p)) / (g_head + g_tail); [T].

    The head is the fewest ids, likeliest first by the teacher, whose mass reaches `head_mass`, in
    (0, 1); g is the sum of |p - q| over the head, and over all the rest. The two weights are
    numbers: no gradient goes through them. Where p equals q, both are 0 and so is the value.

    `has_tail` says that the last bucket is many ids. It never counts as head.

    Source: Wu et al. 2024 (arXiv 2404.02657), adaptive KL. Their released code leaves the id that
    reaches the mass out of the head, unless it is the first; here, as in their text, it is in.
    """
    with torch.no_grad():
        gap_TB = (log_p_TB.exp() - log_q_TB.exp()).abs_()
        in_head_TB = _head(log_p_TB, head_mass, has_tail)
        head_T = gap_TB.masked_fill(~in_head_TB, 0.0).sum(1)
        tail_T = gap_TB.masked_fill(in_head_TB, 0.0).sum(1)
        tiny = torch.finfo(head_T.dtype).tiny
        of_head_T = head_T / (head_T + tail_T).clamp_min(tiny)
        of_tail_T = tail_T / (head_T + tail_T).clamp_min(tiny)
    return _weighed(of_head_T, forward_kl(log_p_TB, log_q_TB)) + _weighed(
        of_tail_T, reverse_kl(log_p_TB, log_q_TB)
    )


def total_variation(log_p_TB: torch.Tensor, log_q_TB: torch.Tensor) -> torch.Tensor:
    """Return half the sum of |p - q|; [T], in [0, 1].

    Source: Wen et al. 2023 (f-DISTILL, arXiv 2307.15190), total variation distance.
    """
    return 0.5 * (log_p_TB.exp() - log_q_TB.exp()).abs().sum(1)


def _expected_gap(
    log_w_TB: torch.Tensor, log_a_TB: torch.Tensor, log_b_TB: torch.Tensor
) -> torch.Tensor:
    """Return the sum over buckets of w (log a - log b), leaving out those where w is 0."""
    # Masked before the multiplication: 0 * inf is NaN, in the value and in the gradient.
    gap_TB = (log_a_TB - log_b_TB).masked_fill(log_w_TB == -math.inf, 0.0)
    return (log_w_TB.exp() * gap_TB).sum(1)


def _mixture(
    log_p_TB: torch.Tensor, log_q_TB: torch.Tensor, teacher_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log of teacher_weight p + (1 - teacher_weight) q, and the log q to go on with."""
    # A bucket ruled out on both sides adds nothing, but logaddexp's gradient there is NaN.
    nowhere_TB = (log_p_TB == -math.inf) & (log_q_TB == -math.inf)
    log_q_TB = log_q_TB.masked_fill(nowhere_TB, LOG_FLOOR)
    log_m_TB = torch.logaddexp(
        log_p_TB + math.log(teacher_weight), log_q_TB + math.log1p(-teacher_weight)
    )
    return log_m_TB, log_q_TB


def _head(log_p_TB: torch.Tensor, head_mass: float, has_tail: bool) -> torch.Tensor:
    """Say of each bucket whether it belongs to the head. Sorts no more ids than it must."""
    ids_TI = log_p_TB[:, :-1] if has_tail else log_p_TB
    num_ids = ids_TI.shape[1]
    num_looked_at = min(_FIRST_LOOK, num_ids)
    while True:
        top = ids_TI.topk(num_looked_at, dim=1)
        p_TN = top.values.exp()
        before_TN = p_TN.cumsum(1) - p_TN
        if num_looked_at == num_ids or bool((before_TN[:, -1] >= head_mass).all()):
            break
        num_looked_at = min(8 * num_looked_at, num_ids)
    in_head_TB = torch.zeros_like(log_p_TB, dtype=torch.bool)
    return in_head_TB.scatter_(1, top.indices, before_TN < head_mass)


def _weighed(weight_T: torch.Tensor, value_T: torch.Tensor) -> torch.Tensor:
    """Return weight * value, 0 where the weight is, be the value infinite."""
    return weight_T * value_T.masked_fill(weight_T == 0.0, 0.0)
