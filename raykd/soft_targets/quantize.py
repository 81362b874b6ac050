"""Log probabilities in fewer bits: steps down from the likeliest, the kept mass as it was.

A token's value is `top - distance(code)`. `top` is corrected after rounding so that the kept mass
(logsumexp at temperature 1) is exactly, to float32, what it was; the tail's mass beside it is then
still the rest of 1. Each log probability is off by at most one `scale` (int8, int6), rounding and
correction together being half a step each; so the added KL at temperature 1 is at most
scale^2 / 8 nats times the kept mass (Hoeffding's lemma).

A teacher that computes its logits in bf16 puts them on a grid: their differences are multiples of a
power of two. Where a token's values lie on such a grid and the codes reach that far, the scale is
the grid's, and nothing is lost: nearly nine tokens in ten at k = 128 (benchmarks/codecs.py).

Code 0 is the likeliest id and no other: an id that rounds to the same value, or ties, has code 1,
of distance 0 as well. So the likeliest survives rounding. The greatest code is -inf.

Shapes: T tokens, K ids kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

BITS: Final = {"int8": 8, "int6": 6}
_BF16_INF: Final = 0x7F80
# Nats by which rounding to a grid may move a value that lies on it: float32's own noise.
_ON_GRID: Final = 1e-5
# Keeps a scale above 0 where all kept values are one.
_LEAST_SCALE: Final = 1e-30


@dataclass(frozen=True, eq=False)
class Quantized:
    """Kept log probabilities of T tokens.

    Attributes:
        codes_TK: int32, 0 the likeliest, in the order of the values given; int8 below 2^8, int6
            below 2^6, bf16 the bits of the distance.
        top_T1: float32, nats: the log probability of code 0.
        scale_T1: bfloat16, nats a step; None for bf16.
    """

    codes_TK: torch.Tensor
    top_T1: torch.Tensor
    scale_T1: torch.Tensor | None


def quantize(logprobs_TK: torch.Tensor, values: str) -> Quantized:
    """Round kept log probabilities.

    Args:
        logprobs_TK: float32, likeliest first, the first of each token finite; -inf is legal.
        values: int8, int6 or bf16.
    """
    distance_TK = logprobs_TK[:, :1] - logprobs_TK
    scale_T1 = None
    if values == "bf16":
        # Distances are not negative, so their bits sort as they do.
        codes_TK = distance_TK.bfloat16().view(torch.int16).int().clamp_(1, _BF16_INF)
    else:
        most = 2 ** BITS[values] - 2
        # Code 1 has distance 0, code `most` the whole range of what is not ruled out.
        scale_T1 = _scale((_range(distance_TK) / (most - 1)).clamp_(min=_LEAST_SCALE), distance_TK)
        # What is ruled out, infinitely far, gets the one code more.
        steps_TK = (distance_TK / scale_T1.float()).round_().clamp_(max=most)
        codes_TK = steps_TK.int().add_(1)
    codes_TK[:, 0] = 0
    rounded_TK = distances(codes_TK, scale_T1, values)
    top_T1 = _log_sum(logprobs_TK) - _log_sum(-rounded_TK)
    return Quantized(codes_TK, top_T1, scale_T1)


def _range(distance_TK: torch.Tensor) -> torch.Tensor:
    """The greatest finite distance [T, 1]; distances rise along a token."""
    farthest_T1 = distance_TK[:, -1:]
    if not bool((farthest_T1 == math.inf).any()):
        return farthest_T1
    # Masks cost more than all else here, and few teachers rule anything out.
    return distance_TK.masked_fill(distance_TK == math.inf, 0.0).amax(1, keepdim=True)


def _scale(least_T1: torch.Tensor, distance_TK: torch.Tensor) -> torch.Tensor:
    """A bfloat16 scale [T, 1] of at least `least_T1`; the values' own grid where they have one."""
    grid_T1 = _rounded_up(least_T1, mantissa_bits=0)
    off_TK = distance_TK - (distance_TK / grid_T1).round_().mul_(grid_T1)
    on_grid_T1 = off_TK.abs_().amax(1, keepdim=True) <= _ON_GRID
    return torch.where(on_grid_T1, grid_T1, _rounded_up(least_T1, mantissa_bits=7)).bfloat16()


def distances(codes_TK: torch.Tensor, scale_T1: torch.Tensor | None, values: str) -> torch.Tensor:
    """Nats [T, K], float32, by which codes lie below the likeliest; +inf where ruled out.

    Args:
        codes_TK: Any integer dtype.
        scale_T1: bfloat16; None for bf16.
        values: int8, int6 or bf16.
    """
    if scale_T1 is None:
        return codes_TK.to(torch.int16).view(torch.bfloat16).float()
    ruled_out = 2 ** BITS[values] - 1
    steps_TK = codes_TK.to(torch.float32).sub_(1.0).clamp_(min=0.0)
    if codes_TK.numel() and int(codes_TK.amax()) == ruled_out:
        steps_TK.masked_fill_(codes_TK == ruled_out, math.inf)
    return steps_TK.mul_(scale_T1.float())


def pack_6_bits(codes_TK: torch.Tensor) -> torch.Tensor:
    """Codes below 64, int32, four to three bytes: uint8 [T, 3 * ceil(K / 4)], padded at the end."""
    padded_TK = torch.nn.functional.pad(codes_TK, (0, -codes_TK.shape[1] % 4))
    first, second, third, fourth = (padded_TK[:, n::4] for n in range(4))
    words_TG = first | (second << 6) | (third << 12) | (fourth << 18)
    return words_TG.view(torch.uint8).view(*words_TG.shape, 4)[..., :3].flatten(1)


def unpack_6_bits(packed_TP: torch.Tensor, top_k: int) -> torch.Tensor:
    """Undo `pack_6_bits`: int32 [T, K]."""
    shape = (len(packed_TP), packed_TP.shape[1] // 3)
    wide_TG4 = torch.zeros(*shape, 4, dtype=torch.uint8, device=packed_TP.device)
    wide_TG4[..., :3] = packed_TP.view(*shape, 3)
    words_TG = wide_TG4.view(torch.int32)[..., 0]
    codes_TG4 = torch.stack([(words_TG >> shift) & 63 for shift in (0, 6, 12, 18)], dim=2)
    return codes_TG4.flatten(1)[:, :top_k]


def quantize_symmetric(values_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Any numbers to int8 [T, D] and a float32 scale [T, 1]; off by at most half a scale."""
    wide_TD = values_TD.float()
    scale_T1 = (wide_TD.abs().amax(1, keepdim=True) / 127).clamp_(min=_LEAST_SCALE)
    return (wide_TD / scale_T1).round_().clamp_(-127, 127).to(torch.int8), scale_T1


def _log_sum(logs_TK: torch.Tensor) -> torch.Tensor:
    """Logsumexp [T, 1] of rows whose first is the greatest, and finite."""
    first_T1 = logs_TK[:, :1]
    return (logs_TK - first_T1).exp_().sum(1, keepdim=True).log_() + first_T1


def _rounded_up(positive: torch.Tensor, mantissa_bits: int) -> torch.Tensor:
    """The least float32 with so many bits not below: no distance then needs more steps."""
    dropped = 23 - mantissa_bits
    bits = positive.view(torch.int32)
    kept_bits: torch.Tensor = ((bits + (2**dropped - 1)) >> dropped) << dropped
    return kept_bits.view(torch.float32)
