"""How close a student is to its teacher on held-out tokens: sums that add up over batches.

M tokens, C tokens of one chunk, R tokens of one block, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from raykd.losses.block_loss import Share, block_loss_
from raykd.losses.blocks import arithmetic_dtype, row_blocks, shape_
from raykd.losses.head import chunk_size_tokens, project
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, LogitShape

_FORWARD_KL: Final = LossSpec((("forward_kl", 1.0),))


@dataclass(frozen=True)
class HeldoutSums:
    """Sums over tokens; divide by `tokens` for means."""

    tokens: float = 0.0
    kl: float = 0.0
    """Nats, over the teacher's kept ids and one bucket for all others."""
    agreed: float = 0.0
    """Tokens where both sides' likeliest id is the same."""
    cross_entropy: float = 0.0
    """Nats, of the token that really follows."""

    def __add__(self, other: HeldoutSums) -> HeldoutSums:
        return HeldoutSums(
            self.tokens + other.tokens,
            self.kl + other.kl,
            self.agreed + other.agreed,
            self.cross_entropy + other.cross_entropy,
        )


@torch.no_grad()
def heldout_sums(
    logits_MV: torch.Tensor,
    label_ids_M: torch.Tensor,
    targets: BucketTargets | None,
) -> HeldoutSums:
    """Measure one batch at temperature 1.

    Args:
        logits_MV: The student's, any float dtype; reckoned in float32 (float64 for float64).
        label_ids_M: The token that follows.
        targets: The teacher's, ids likeliest first, the tail at temperature 1; None measures
            cross-entropy alone.
    """
    return _sums(logits_MV, label_ids_M, targets, LogitShape())


@torch.no_grad()
def linear_heldout_sums(
    hidden_MD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    label_ids_M: torch.Tensor,
    targets: BucketTargets,
    *,
    shape: LogitShape,
    vocab_size: int,
) -> HeldoutSums:
    """Measure from hidden states and head, a chunk of logits at a time.

    Args:
        hidden_MD: Of the weight's dtype.
        weight_VD: The head's; rows from `vocab_size` on are padding.
        bias_V: The head's, or None.
        label_ids_M: The token that follows.
        targets: The teacher's, ids likeliest first, the tail at temperature 1.
        shape: What the student does with its head's raw output.
        vocab_size: V.
    """
    size = chunk_size_tokens(len(hidden_MD), weight_VD, vocab_size, num_buffers=1)
    buffer_CV = weight_VD.new_empty(min(size, len(hidden_MD)), vocab_size)
    kept_V = None if bias_V is None else bias_V[:vocab_size]
    sums = HeldoutSums()
    for at in range(0, len(hidden_MD), size):
        rows = slice(at, min(at + size, len(hidden_MD)))
        raw_CV = buffer_CV[: rows.stop - at]
        project(hidden_MD[rows], weight_VD[:vocab_size], kept_V, raw_CV)
        sums += _sums(raw_CV, label_ids_M[rows], targets.rows(rows), shape)
    return sums


def _sums(
    raw_MV: torch.Tensor,
    label_ids_M: torch.Tensor,
    targets: BucketTargets | None,
    shape: LogitShape,
) -> HeldoutSums:
    """Measure what a head put out."""
    dtype = arithmetic_dtype(raw_MV.dtype)
    sums_3 = raw_MV.new_zeros(3, dtype=torch.float64)
    for rows in row_blocks(raw_MV, dense=False):
        work_RV = raw_MV[rows].to(dtype, copy=True)
        shape_(work_RV, shape)
        of_block = None if targets is None else targets.rows(rows)
        agreed_R = None if of_block is None else work_RV.argmax(1) == of_block.ids_TK[:, 0]
        kl_R, nll_R = block_loss_(work_RV, label_ids_M[rows].long(), of_block, _FORWARD_KL, Share())
        parts = [nll_R.new_zeros(1) if part is None else part for part in (kl_R, agreed_R, nll_R)]
        sums_3 += torch.stack([part.double().sum() for part in parts])
    kl, agreed, cross_entropy = sums_3.tolist()
    return HeldoutSums(float(len(raw_MV)), kl, agreed, cross_entropy)
