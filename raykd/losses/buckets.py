"""Distributions over K + 1 buckets: the teacher's K likeliest ids, one each, and all others in one.

Shapes: T tokens, V vocabulary ids, K ids kept, B buckets (K + 1, or K where K == V and nothing is
left over), R tokens of one block, 1 an axis of length one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.autograd.function import once_differentiable

# Elements of one block in the arithmetic dtype: within the cache on a CPU, few launches on a GPU.
_BLOCK_ELEMENTS: Final = {"cpu": 2**19}
_BLOCK_ELEMENTS_GPU: Final = 2**26


@dataclass(frozen=True, eq=False)
class BucketTargets:
    """What the teacher says about T tokens, as one loss at one temperature needs it.

    Attributes:
        ids_TK: Any integer dtype, distinct within a token, in [0, V).
        logprobs_TK: Floats, nats, at temperature 1; -inf is legal.
        log_tail_T: Floats: log of the sum over ids not kept of exp(logprob / temperature), at the
            loss's own temperature; -inf where nothing is left out.
    """

    ids_TK: torch.Tensor
    logprobs_TK: torch.Tensor
    log_tail_T: torch.Tensor


def teacher_buckets(
    targets: BucketTargets, temperature: float, vocab_size: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return the teacher's log probability of each bucket at `temperature`, exactly normalised.

    Args:
        targets: K ids a token and the tail at the same temperature.
        temperature: Above 0.
        vocab_size: V of the student; K == V drops the tail's bucket.
        dtype: Of the result: float32 or float64.

    Returns:
        log_p_TB, without a gradient.

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, the softened softmax.
    """
    with torch.no_grad():
        scaled_TK = targets.logprobs_TK.to(dtype) / temperature
        if scaled_TK.shape[1] == vocab_size:
            return scaled_TK.log_softmax(1)
        log_tail_T1 = targets.log_tail_T.to(dtype)[:, None]
        log_z_T1 = torch.logaddexp(scaled_TK.logsumexp(1, keepdim=True), log_tail_T1)
        return torch.cat([scaled_TK, log_tail_T1], 1) - log_z_T1


def student_buckets(
    student_logits_TV: torch.Tensor,
    ids_TK: torch.Tensor,
    labels_T: torch.Tensor | None,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the student's log probability of each bucket, and of the labels, in one go.

    One gradient for the logits is made for both, in closed form and block by block, so that
    neither pass ever holds another [T, V] than that gradient. Arithmetic is in float32, or in
    float64 if the logits are. A result that the loss does not use costs nothing backward.

    Args:
        student_logits_TV: Any float dtype.
        ids_TK: Any integer dtype, the kept ids.
        labels_T: Any integer dtype, or None if their log probabilities are not wanted.
        temperature: Above 0; of the buckets only.

    Returns:
        log_q_TB at `temperature`, and the labels' log probabilities [T] at temperature 1.
    """
    log_q_TB, label_logprobs_T = _StudentLogprobs.apply(  # type: ignore[no-untyped-call]
        student_logits_TV,
        ids_TK.long(),
        None if labels_T is None else labels_T.long(),
        temperature,
    )
    return log_q_TB, label_logprobs_T


def label_logprobs(student_logits_TV: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """Return the student's log probability of each label at temperature 1.

    Args:
        student_logits_TV: Any float dtype.
        labels_T: Any integer dtype.

    Returns:
        [T], float32 (float64 if the logits are), with the gradient made as in `student_buckets`.
    """
    logprobs_T: torch.Tensor = _StudentLogprobs.apply(  # type: ignore[no-untyped-call]
        student_logits_TV, None, labels_T.long(), 1.0
    )[1]
    return logprobs_T


class _StudentLogprobs(torch.autograd.Function):
    """Log probabilities of buckets (at a temperature) and labels (at 1), with one gradient.

    With s the softmax at temperature tau, q_b the mass of bucket b, g_b the gradient by log q_b,
    and G their sum, the gradient by the logit of v is

        (g_v - G q_v) / tau                      where v is kept,
        (g_tail - G q_tail) (s_v / q_tail) / tau where v lies in the tail,

    and s_v / q_tail = exp(logit_v / tau - log tail) needs no division by a tiny mass. The labels
    add h (onehot_v - softmax_v) at temperature 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: torch.Tensor,
        ids_TK: torch.Tensor | None,
        labels_T: torch.Tensor | None,
        temperature: float,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        num_tokens, vocab_size = logits_TV.shape
        dtype = arithmetic_dtype(logits_TV)
        log_z_T = logits_TV.new_empty(num_tokens, dtype=dtype)  # temperature 1
        log_tail_T = torch.empty_like(log_z_T)  # temperature tau, logits not normalised
        log_q_TB = label_logprobs_T = None
        if ids_TK is not None:
            num_buckets = min(ids_TK.shape[1] + 1, vocab_size)
            log_q_TB = logits_TV.new_empty(num_tokens, num_buckets, dtype=dtype)
        for rows in _blocks(logits_TV):
            work_RV = logits_TV[rows].to(dtype, copy=True)
            if ids_TK is not None and log_q_TB is not None:
                if labels_T is not None and temperature != 1.0:
                    log_z_T[rows] = _logsumexp_(work_RV.clone())
                log_q_TB[rows], log_tail_T[rows], log_z_R = _bucket_block_(
                    work_RV, ids_TK[rows], temperature
                )
                if temperature == 1.0:
                    log_z_T[rows] = log_z_R
            else:
                log_z_T[rows] = _logsumexp_(work_RV)
        if labels_T is not None:
            label_logprobs_T = logits_TV.gather(1, labels_T[:, None])[:, 0].to(dtype) - log_z_T
        ctx.save_for_backward(logits_TV, ids_TK, labels_T, log_q_TB, log_tail_T, log_z_T)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return log_q_TB, label_logprobs_T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_TB: torch.Tensor | None, h_T: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, None, None, None]:
        if g_TB is None and h_T is None:
            return None, None, None, None
        logits_TV, ids_TK, labels_T, log_q_TB, log_tail_T, log_z_T = ctx.saved_tensors
        grad_TV = torch.empty_like(logits_TV)
        for rows in _blocks(logits_TV):
            work_RV = logits_TV[rows].to(log_z_T.dtype, copy=True)
            shared = h_T is not None and g_TB is not None and ctx.temperature == 1.0
            label_RV = None
            if h_T is not None and not shared:
                label_RV = work_RV if g_TB is None else work_RV.clone()
                label_RV.sub_(log_z_T[rows, None]).exp_().mul_(-h_T[rows, None])
            if g_TB is not None:
                _bucket_grad_block_(
                    work_RV,
                    ids_TK[rows],
                    log_q_TB[rows],
                    log_tail_T[rows],
                    g_TB[rows],
                    h_T[rows] if shared and h_T is not None else None,
                    ctx.temperature,
                )
                if label_RV is not None:
                    work_RV += label_RV
            if h_T is not None:
                work_RV.scatter_add_(1, labels_T[rows, None], h_T[rows, None])
            grad_TV[rows] = work_RV
        return grad_TV, None, None, None


def _bucket_block_(
    work_RV: torch.Tensor, ids_RK: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log_q [R, B], log tail [R] and log normaliser [R] at `temperature`; destroys `work`.

    The tail is a sum of its own, not "1 - kept", so that it keeps its digits however small it is.
    """
    if temperature != 1.0:
        work_RV.mul_(1.0 / temperature)
    kept_RK = work_RV.gather(1, ids_RK)
    log_kept_R = kept_RK.logsumexp(1)
    if ids_RK.shape[1] == work_RV.shape[1]:
        return kept_RK - log_kept_R[:, None], torch.full_like(log_kept_R, -math.inf), log_kept_R
    log_tail_R = _logsumexp_(work_RV.scatter_(1, ids_RK, -math.inf))
    log_z_R = torch.logaddexp(log_kept_R, log_tail_R)
    log_q_RB = torch.cat([kept_RK, log_tail_R[:, None]], 1) - log_z_R[:, None]
    return log_q_RB, log_tail_R, log_z_R


def _bucket_grad_block_(
    work_RV: torch.Tensor,
    ids_RK: torch.Tensor,
    log_q_RB: torch.Tensor,
    log_tail_R: torch.Tensor,
    g_RB: torch.Tensor,
    h_R: torch.Tensor | None,
    temperature: float,
) -> None:
    """Turn logits into their gradient, in place.

    `h_R`, the gradient by the labels' log probabilities, is given where they share the softmax
    (temperature 1): its part -h softmax is then folded in.
    """
    total_R1 = g_RB.sum(1, keepdim=True)
    if h_R is not None:
        total_R1 = total_R1 + h_R[:, None]
    d_RB = (g_RB - total_R1 * log_q_RB.exp()) / temperature
    num_kept = ids_RK.shape[1]
    if num_kept < work_RV.shape[1]:
        if temperature != 1.0:
            work_RV.mul_(1.0 / temperature)
        work_RV.sub_(_finite_shift(log_tail_R)[:, None]).exp_().mul_(d_RB[:, num_kept:])
    # Kept ids may have overflowed just now; they are overwritten here.
    work_RV.scatter_(1, ids_RK, d_RB[:, :num_kept])


def _logsumexp_(work_RV: torch.Tensor) -> torch.Tensor:
    """Return log sum exp of each line; destroys `work_RV`, which saves torch's own three copies."""
    shift_R = _finite_shift(work_RV.amax(1))
    return work_RV.sub_(shift_R[:, None]).exp_().sum(1).log_().add_(shift_R)


def _finite_shift(top_R: torch.Tensor) -> torch.Tensor:
    """Return `top_R` with -inf as 0: -inf - -inf would be NaN; NaN itself stays."""
    return top_R.masked_fill(top_R == -math.inf, 0.0)


def arithmetic_dtype(logits_TV: torch.Tensor) -> torch.dtype:
    """Return float64 for float64 logits, else float32."""
    return torch.float64 if logits_TV.dtype == torch.float64 else torch.float32


def _blocks(logits_TV: torch.Tensor) -> list[slice]:
    num_tokens, vocab_size = logits_TV.shape
    elements = _BLOCK_ELEMENTS.get(logits_TV.device.type, _BLOCK_ELEMENTS_GPU)
    step = max(1, elements // vocab_size)
    return [slice(start, start + step) for start in range(0, num_tokens, step)]
