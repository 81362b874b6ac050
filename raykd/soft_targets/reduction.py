"""The reduction of codec `top_k`: logits to the k likeliest ids and the mass of all others.

Shapes: T tokens, V vocabulary ids, K ids kept, N temperatures, R tokens of one block, 1 an axis of
length one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.spec import check_temperatures, require_top_k_fits
from raykd.soft_targets.teacher_output import block_tokens, check_finite, check_labels


@torch.no_grad()
def encode_top_k(
    logits_TV: torch.Tensor,
    label_ids_T: torch.Tensor,
    top_k: int,
    temperatures: Sequence[float],
) -> TopKTargets:
    """Keep the k likeliest ids of every token and, for each temperature, the mass of the others.

    Works in float32, block by block: beside `logits_TV`, which is only read, it needs one small
    block and the result, so the caller bounds memory by the chunk of tokens it brings. The tail is
    summed by itself, never as "1 - kept", so that it keeps its digits however small it is.

    Args:
        logits_TV: Any float dtype. -inf and ties are legal.
        label_ids_T: Any integer dtype, in [0, V): the token that really follows.
        top_k: K, in [1, V].
        temperatures: N temperatures above 0, the first of them 1.

    Returns:
        The targets, on the device of `logits_TV`.

    Raises:
        SoftTargetError: K exceeds V.
        TokenError: A token's logits hold NaN, +inf or nothing finite, or its label lies outside the
            vocabulary.
        ValueError: K is below 1, or the temperatures are not as said.

    Source: The softmax of Hinton et al. 2015 (arXiv 1503.02531), section 2, kept exact by its
        normaliser; arXiv 2503.16870 shows how top-k values alone mislead.
    """
    num_tokens, vocab_size = logits_TV.shape
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1; found {top_k}")
    require_top_k_fits(top_k, vocab_size)
    check_temperatures(temperatures)
    check_labels(logits_TV, label_ids_T)
    device = logits_TV.device
    out = TopKTargets(
        torch.empty(num_tokens, top_k, dtype=torch.int32, device=device),
        torch.empty(num_tokens, top_k, device=device),
        torch.empty(num_tokens, len(temperatures), device=device),
        torch.empty(num_tokens, device=device),
    )
    labels_T1 = label_ids_T.long()[:, None]
    block = block_tokens(vocab_size, device)
    log_z_T = torch.empty(num_tokens, device=device)
    for start in range(0, num_tokens, block):
        rows = slice(start, start + block)
        ids, logprobs, log_tail, label_logprobs, log_z = _encode_block(
            logits_TV[rows], labels_T1[rows], top_k, temperatures
        )
        out.ids_TK[rows] = ids
        out.logprobs_TK[rows] = logprobs
        out.log_tail_TN[rows] = log_tail
        out.label_logprobs_T[rows] = label_logprobs
        log_z_T[rows] = log_z
    check_finite(log_z_T)
    return out


def _encode_block(
    logits_RV: torch.Tensor,
    labels_R1: torch.Tensor,
    top_k: int,
    temperatures: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids [R, K], logprobs [R, K], log tail [R, N], label logprobs [R], log normaliser [R].

    The normaliser is that of the logits less their maximum: finite if and only if all is well.
    """
    work_RV = logits_RV.to(torch.float32, copy=True)
    label_logits_R1 = work_RV.gather(1, labels_R1)
    # One value more than is kept: the greatest of the tail, the safe shift for its sum.
    values, ids = work_RV.topk(min(top_k + 1, work_RV.shape[1]), dim=1)
    top_R1, ids_RK = values[:, :1], ids[:, :top_k]
    kept_RK = values[:, :top_k] - top_R1
    log_tail_RN = work_RV.new_full((len(kept_RK), len(temperatures)), -math.inf)
    if values.shape[1] > top_k:
        tail_top_R1 = values[:, top_k:]
        shift_R1 = tail_top_R1.masked_fill(tail_top_R1 == -math.inf, 0.0)
        work_RV.scatter_(1, ids_RK, -math.inf).sub_(shift_R1)
        for n, temperature in enumerate(temperatures):
            last = n == len(temperatures) - 1
            scaled_RV = work_RV if last else work_RV.clone()
            if temperature != 1.0:
                scaled_RV.mul_(1.0 / temperature)
            log_sum_R = scaled_RV.exp_().sum(1).log_()
            log_tail_RN[:, n] = log_sum_R + (tail_top_R1 - top_R1)[:, 0] / temperature
    log_z_R1 = torch.logaddexp(kept_RK.logsumexp(1), log_tail_RN[:, 0])[:, None]
    inverse_N = torch.tensor([1.0 / t for t in temperatures], device=work_RV.device)
    return (
        ids_RK.int(),
        kept_RK - log_z_R1,
        log_tail_RN - log_z_R1 * inverse_N,
        (label_logits_R1 - top_R1 - log_z_R1)[:, 0],
        log_z_R1[:, 0],
    )
