"""Distances between inner states: hidden states, and how tokens relate within a document.

All are sums over positions, in float32 (float64 for float64); the caller divides by the global
count. Nothing here knows of layers or of causal models but by the argument `causal`.

Shapes: P positions of all documents, one document after the other; D hidden size; W width of a
projection; H relation heads; L positions of one document, C of them a block of queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.autograd.function import once_differentiable

_BLOCK_ELEMENTS: Final = {"cpu": 2**20}
_BLOCK_ELEMENTS_GPU: Final = 2**26
"""Elements of the [H, C, L] relations that exist at once."""


def cosine_distance(student_PD: torch.Tensor, teacher_PD: torch.Tensor) -> torch.Tensor:
    """Sum over positions of 1 - cos(student, teacher); 0 for states of one direction, at most 2.

    Args:
        student_PD: Any float dtype; gets a gradient.
        teacher_PD: Of the same shape.

    Raises:
        ValueError: The shapes differ.

    Source: DistilBERT, arXiv 1910.01108, section 3 (its cosine embedding loss).
    """
    _require_same(student_PD, teacher_PD)
    student_PD, teacher_PD = _wide(student_PD), _wide(teacher_PD)
    return (1.0 - torch.nn.functional.cosine_similarity(student_PD, teacher_PD, dim=1)).sum()


def mean_square(student_PD: torch.Tensor, teacher_PD: torch.Tensor) -> torch.Tensor:
    """Sum over positions of the mean over components of (student - teacher)^2.

    Args:
        student_PD: Any float dtype; gets a gradient.
        teacher_PD: Of the same shape.

    Raises:
        ValueError: The shapes differ.

    Source: FitNets, arXiv 1412.6550, equation 3; TinyBERT, arXiv 1909.10351, equation 8.
    """
    _require_same(student_PD, teacher_PD)
    return (_wide(student_PD) - _wide(teacher_PD)).square().mean(1).sum()


def relation_divergence(
    student_PW: torch.Tensor,
    teacher_PW: torch.Tensor,
    lengths_tokens: Sequence[int],
    heads: int,
    *,
    causal: bool,
) -> torch.Tensor:
    """Sum over positions of the mean over heads of KL(teacher's relation, student's relation).

    Within each document and head, of width d, position i relates to position j by
    softmax_j(x_i . x_j / sqrt(d)). Widths of the two sides may differ, heads may not; those of
    attention do not matter. Gradients are made in the forward pass, block by block, so that no
    relation is kept.

    Args:
        student_PW: Any float dtype; gets a gradient.
        teacher_PW: The same positions; another width is legal.
        lengths_tokens: Positions of each document; they add up to P.
        heads: H; divides both widths.
        causal: Whether a position relates to itself and those before it only.

    Raises:
        ValueError: Shapes, lengths and heads do not fit together.

    Source: MiniLMv2, arXiv 2012.15828, section 3.1 (relations among queries, keys and values).
    """
    num_positions = len(student_PW)
    if len(teacher_PW) != num_positions or sum(lengths_tokens) != num_positions:
        raise ValueError(
            f"positions differ: student {num_positions}, teacher {len(teacher_PW)}, documents "
            f"{sum(lengths_tokens)}"
        )
    for side, states_PW in (("student", student_PW), ("teacher", teacher_PW)):
        if states_PW.shape[1] % heads:
            raise ValueError(f"{heads} heads do not divide the {side}'s {states_PW.shape[1]}")
    wanted = torch.is_grad_enabled() and student_PW.requires_grad
    divergence: torch.Tensor = _RelationDivergence.apply(  # type: ignore[no-untyped-call]
        student_PW, teacher_PW, tuple(lengths_tokens), heads, causal, wanted
    )
    return divergence


class _RelationDivergence(torch.autograd.Function):
    """The gradient by the states is made in forward and kept in the place of the relations."""

    @staticmethod
    def forward(
        ctx: Any,
        student_PW: torch.Tensor,
        teacher_PW: torch.Tensor,
        lengths: tuple[int, ...],
        heads: int,
        causal: bool,
        wanted: bool,
    ) -> torch.Tensor:
        gradient_PW = torch.zeros_like(student_PW, dtype=_wide(student_PW).dtype)
        total = gradient_PW.new_zeros(())
        at = 0
        for length in lengths:
            place = slice(at, at + length)
            student_HLd = _by_head(student_PW[place], heads)
            teacher_HLd = _by_head(teacher_PW[place], heads)
            divergence, gradient_HLd = _one_document(student_HLd, teacher_HLd, causal, wanted)
            total += divergence
            if gradient_HLd is not None:
                gradient_PW[place] = gradient_HLd.transpose(0, 1).reshape(length, -1)
            at += length
        ctx.save_for_backward(gradient_PW.to(student_PW.dtype) if wanted else None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_PW,) = ctx.saved_tensors
        return gradient_PW * by_total, None, None, None, None, None


def _one_document(
    student_HLd: torch.Tensor, teacher_HLd: torch.Tensor, causal: bool, wanted: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The divergence of a document, and its gradient by the student's states if it is wanted."""
    heads, length, width = student_HLd.shape
    limit = _BLOCK_ELEMENTS.get(student_HLd.device.type, _BLOCK_ELEMENTS_GPU)
    block = max(1, limit // (heads * length))
    total = student_HLd.new_zeros(())
    gradient_HLd = torch.zeros_like(student_HLd) if wanted else None
    for start in range(0, length, block):
        rows = slice(start, min(length, start + block))
        # A causal block has nothing to do with what comes after it.
        seen = slice(0, rows.stop if causal else length)
        log_q_HCL = _relation(student_HLd, rows, seen, causal)
        log_p_HCL = _relation(teacher_HLd, rows, seen, causal)
        p_HCL = log_p_HCL.exp()
        # -inf less -inf is NaN where nothing may be seen; the teacher has no mass there.
        total += (p_HCL * (log_p_HCL - log_q_HCL)).masked_fill_(p_HCL == 0, 0.0).sum() / heads
        if gradient_HLd is not None:
            by_score_HCL = (log_q_HCL.exp_() - p_HCL) / (heads * math.sqrt(width))
            gradient_HLd[:, rows] += by_score_HCL @ student_HLd[:, seen]
            gradient_HLd[:, seen] += by_score_HCL.transpose(1, 2) @ student_HLd[:, rows]
    return total, gradient_HLd


def _relation(states_HLd: torch.Tensor, rows: slice, seen: slice, causal: bool) -> torch.Tensor:
    """Log of the relation of some positions to all that they see: [H, C, L]."""
    scores_HCL = states_HLd[:, rows] @ states_HLd[:, seen].transpose(1, 2)
    scores_HCL /= math.sqrt(states_HLd.shape[2])
    if causal:
        ahead_CL = torch.ones(
            scores_HCL.shape[1:], dtype=torch.bool, device=scores_HCL.device
        ).triu_(rows.start + 1)
        scores_HCL.masked_fill_(ahead_CL, -math.inf)
    return scores_HCL.log_softmax(2)


def _by_head(states_LW: torch.Tensor, heads: int) -> torch.Tensor:
    """[H, L, W / H], wide enough to work in."""
    by_head_LHd: torch.Tensor = _wide(states_LW).unflatten(1, (heads, -1))
    return by_head_LHd.transpose(0, 1).contiguous()


def _wide(states: torch.Tensor) -> torch.Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


def _require_same(student_PD: torch.Tensor, teacher_PD: torch.Tensor) -> None:
    if student_PD.shape != teacher_PD.shape:
        raise ValueError(
            f"states differ in shape: student {tuple(student_PD.shape)}, teacher "
            f"{tuple(teacher_PD.shape)}; project the student's to the teacher's width first"
        )
