"""From hidden states to each token's loss, chunk by chunk, gradients made on the way.

Shapes: T tokens, C tokens of one chunk, R tokens of one block of it, D hidden size, V vocabulary
ids, P rows of the head's weight (V and padding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raykd.losses.block_loss import BlockTargets, Share, block_loss_
from raykd.losses.blocks import (
    arithmetic_dtype,
    keep_freed_pages,
    row_blocks,
    shape_,
    unshape_,
)
from raykd.losses.head import HeadGradients, project
from raykd.losses.spec import LossSpec
from raykd.losses.targets import DenseTargets, HiddenTargets, LogitShape, Targets
from raykd.losses.teacher import TeacherLogits


@dataclass(frozen=True, eq=False)
class LossCall:
    """What a loss is made of beside hidden states and head."""

    labels_T: torch.Tensor
    targets: Targets | None
    spec: LossSpec
    shape: LogitShape
    vocab_size: int
    token_weights_T: torch.Tensor | None
    chunk_tokens: int


def token_losses(
    hidden_TD: torch.Tensor,
    weight_PD: torch.Tensor,
    bias_P: torch.Tensor | None,
    call: LossCall,
    gradients: HeadGradients | None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return each token's divergence and -log probability of its label; fill the gradients."""
    keep_freed_pages(hidden_TD.device)
    num_tokens, vocab_size = len(hidden_TD), call.vocab_size
    weight_VD = weight_PD[:vocab_size]
    bias_V = None if bias_P is None else bias_P[:vocab_size]
    nll_T = hidden_TD.new_empty(num_tokens, dtype=arithmetic_dtype(hidden_TD.dtype))
    reads_teacher = call.targets is not None and bool(call.spec.divergences)
    divergence_T = torch.empty_like(nll_T) if reads_teacher else None
    share = _share(call, nll_T) if gradients is not None else Share()
    buffer_CV = hidden_TD.new_empty(min(call.chunk_tokens, num_tokens), vocab_size)
    teacher = _TeacherChunks(call.targets if reads_teacher else None, buffer_CV.shape)
    for at in range(0, num_tokens, call.chunk_tokens):
        rows = slice(at, min(at + call.chunk_tokens, num_tokens))
        logits_CV = buffer_CV[: rows.stop - rows.start]
        project(hidden_TD[rows], weight_VD, bias_V, logits_CV)
        labels_C, of_chunk = call.labels_T[rows].long(), teacher.rows(rows)
        out = (None if divergence_T is None else divergence_T[rows], nll_T[rows])
        _chunk_loss_(logits_CV, labels_C, of_chunk, call, share.rows(rows), out)
        if gradients is not None:
            gradients.add(rows, logits_CV)
    return divergence_T, nll_T


def _chunk_loss_(
    raw_CV: torch.Tensor,
    labels_C: torch.Tensor,
    targets: BlockTargets | None,
    call: LossCall,
    share: Share,
    out: tuple[torch.Tensor | None, torch.Tensor],
) -> None:
    """Write the tokens' losses to `out`; turn the head's raw output into its gradient, in place.

    Nothing new outlives a block: small tensors kept between its large ones would scatter these
    over ever more memory.
    """
    dtype, (divergence_C, nll_C) = arithmetic_dtype(raw_CV.dtype), out
    for rows in row_blocks(raw_CV, dense=isinstance(targets, TeacherLogits)):
        work_RV = raw_CV[rows].to(dtype)  # the same memory where the dtype is the same
        slope_RV = shape_(work_RV, call.shape)
        of_block = None if targets is None else targets.rows(rows)
        divergence_R, nll_C[rows] = block_loss_(
            work_RV, labels_C[rows], of_block, call.spec, share.rows(rows)
        )
        if divergence_C is not None and divergence_R is not None:
            divergence_C[rows] = divergence_R
        if share.learns:
            unshape_(work_RV, slope_RV, call.shape)
            if raw_CV.dtype != dtype:
                raw_CV[rows] = work_RV


class _TeacherChunks:
    """The teacher's side of each chunk; its logits, where it sent hidden states, in one buffer."""

    def __init__(self, targets: Targets | None, buffer_shape: torch.Size) -> None:
        self._targets = targets
        if isinstance(targets, HiddenTargets):
            self._buffer_CV = targets.head.weight_VD.new_empty(buffer_shape)

    def rows(self, rows: slice) -> BlockTargets | None:
        """What the arithmetic on blocks looks at."""
        if self._targets is None:
            return None
        targets = self._targets.rows(rows)
        if isinstance(targets, DenseTargets):
            return TeacherLogits(targets.logprobs_TV, LogitShape())
        if not isinstance(targets, HiddenTargets):
            return targets
        head, vocab_size = targets.head, self._buffer_CV.shape[1]
        logits_CV = self._buffer_CV[: targets.num_tokens]
        bias_V = None if head.bias_V is None else head.bias_V[:vocab_size]
        hidden_CD = targets.hidden_TD.to(head.weight_VD.dtype)
        project(hidden_CD, head.weight_VD[:vocab_size], bias_V, logits_CV)
        return TeacherLogits(logits_CV, head.shape)


def _share(call: LossCall, like_T: torch.Tensor) -> Share:
    """Split each token's weight; a part of weight 0 is not to be learned from at all."""
    weights_T = torch.ones_like(like_T)
    if call.token_weights_T is not None:
        weights_T = call.token_weights_T.to(like_T.dtype)
    weights_T1, spec = weights_T[:, None], call.spec
    return Share(
        weights_T1 * ((1.0 - spec.alpha) * spec.temperature**2) if spec.alpha < 1.0 else None,
        weights_T1 * spec.alpha if spec.alpha > 0.0 else None,
    )
