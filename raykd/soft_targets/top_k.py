"""Codec `top_k`, teacher's side: logits to the k likeliest ids and the mass of all others.

Shapes: T tokens, V vocabulary ids, K ids kept, N temperatures, R tokens of one block, 1 an axis of
length one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from raykd.errors import SoftTargetError

# Elements of one float32 block. On a CPU the passes over it then stay in the cache, which halves
# their time; a GPU wants few launches, and the caller's chunk is what bounds its memory.
_BLOCK_ELEMENTS: Final = {"cpu": 2**19}
_BLOCK_ELEMENTS_GPU: Final = 2**27


@dataclass(frozen=True, eq=False)
class TopKTargets:
    """Soft targets of T tokens; read only, for the tensors may be views of an Arrow table.

    The teacher's log normaliser at temperatures[n], over the whole vocabulary, is exactly
    logaddexp(logsumexp(logprobs_TK / temperatures[n]), log_tail_TN[:, n]).

    Attributes:
        ids_TK: int32, likeliest first.
        logprobs_TK: float32, nats, at temperature 1; -inf where the teacher's logit was.
        log_tail_TN: float32, log of the sum over ids not kept of exp(logprob / temperature n);
            -inf where nothing is left out. At temperature 1 it is the log of the tail's mass.
        label_logprobs_T: float32, nats, the teacher's log probability of the next token.
    """

    ids_TK: torch.Tensor
    logprobs_TK: torch.Tensor
    log_tail_TN: torch.Tensor
    label_logprobs_T: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.ids_TK.shape[0]

    @classmethod
    def concatenate(cls, parts: Sequence[TopKTargets]) -> TopKTargets:
        """Join at least one part, token after token; all have the same K, N and device."""
        return cls(*(torch.cat(list(column)) for column in zip(*map(_columns, parts), strict=True)))

    def split(self, lengths_tokens: Sequence[int]) -> list[TopKTargets]:
        """Cut into consecutive parts, for instance one a row.

        Args:
            lengths_tokens: Tokens of each part; they add up to T.

        Returns:
            Views, one a length.
        """
        cut = [torch.split(column, list(lengths_tokens)) for column in _columns(self)]
        return [TopKTargets(*part) for part in zip(*cut, strict=True)]

    def to(self, device: torch.device | str) -> TopKTargets:
        """Return the same on `device`; itself where it is there already."""
        return TopKTargets(*(column.to(device) for column in _columns(self)))

    def cpu(self) -> TopKTargets:
        """Return the same in the host's memory."""
        return self.to("cpu")


def _columns(targets: TopKTargets) -> tuple[torch.Tensor, ...]:
    return (
        targets.ids_TK,
        targets.logprobs_TK,
        targets.log_tail_TN,
        targets.label_logprobs_T,
    )


class TokenError(SoftTargetError):
    """A token's logits or label cannot become soft targets.

    Attributes:
        token: Index of the first such token among those that were given.
    """

    def __init__(self, token: int, complaint: str) -> None:
        super().__init__(f"token {token}: {complaint}")
        self.token = token


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
    _check_request(logits_TV, label_ids_T, top_k, temperatures)
    num_tokens, vocab_size = logits_TV.shape
    device = logits_TV.device
    out = TopKTargets(
        torch.empty(num_tokens, top_k, dtype=torch.int32, device=device),
        torch.empty(num_tokens, top_k, device=device),
        torch.empty(num_tokens, len(temperatures), device=device),
        torch.empty(num_tokens, device=device),
    )
    labels_T1 = label_ids_T.long()[:, None]
    block_tokens = _block_tokens(vocab_size, device)
    log_z_T = torch.empty(num_tokens, device=device)
    for start in range(0, num_tokens, block_tokens):
        rows = slice(start, start + block_tokens)
        ids, logprobs, log_tail, label_logprobs, log_z = _encode_block(
            logits_TV[rows], labels_T1[rows], top_k, temperatures
        )
        out.ids_TK[rows] = ids
        out.logprobs_TK[rows] = logprobs
        out.log_tail_TN[rows] = log_tail
        out.label_logprobs_T[rows] = label_logprobs
        log_z_T[rows] = log_z
    _check_finite(log_z_T)
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


def _block_tokens(vocab_size: int, device: torch.device) -> int:
    return max(1, _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_GPU) // vocab_size)


def _check_request(
    logits_TV: torch.Tensor,
    label_ids_T: torch.Tensor,
    top_k: int,
    temperatures: Sequence[float],
) -> None:
    vocab_size = logits_TV.shape[1]
    if top_k > vocab_size:
        raise SoftTargetError(
            f"soft_targets.top_k is {top_k}, but the teacher's vocabulary has {vocab_size} ids: "
            f"set soft_targets.top_k to at most {vocab_size}"
        )
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1; found {top_k}")
    if not temperatures or temperatures[0] != 1.0:
        raise ValueError(f"temperatures must begin with 1.0; found {tuple(temperatures)}")
    if not all(math.isfinite(t) and t > 0 for t in temperatures):
        raise ValueError(f"temperatures must be finite and above 0; found {tuple(temperatures)}")
    if label_ids_T.shape != logits_TV.shape[:1]:
        raise ValueError(
            f"one label a token: logits are {tuple(logits_TV.shape)}, labels "
            f"{tuple(label_ids_T.shape)}"
        )
    outside_T = (label_ids_T < 0) | (label_ids_T >= vocab_size)
    if outside_T.any():
        token = _first(outside_T)
        raise TokenError(
            token,
            f"its label is id {int(label_ids_T[token])}, outside the teacher's vocabulary of "
            f"{vocab_size} ids; is the text tokenized with the teacher's tokenizer?",
        )


def _check_finite(log_z_T: torch.Tensor) -> None:
    bad_T = ~log_z_T.isfinite()
    if bad_T.any():
        raise TokenError(
            _first(bad_T),
            "the teacher's logits hold NaN, +inf or nothing finite, as do those of "
            f"{int(bad_T.sum())} of these {len(bad_T)} tokens; try `teacher.dtype: fp32`, or check "
            "the teacher's weights",
        )


def _first(flags_T: torch.Tensor) -> int:
    return int(flags_T.int().argmax())
