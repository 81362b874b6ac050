"""How much each learned token counts.

B rows, T tokens of a row, M learned tokens, D documents of all rows.
"""

from __future__ import annotations

import math

import torch

from raykd.config.loss import TokenWeights
from raykd.models.batch import Batch


def token_weights(
    batch: Batch, label_logprobs_M: torch.Tensor | None, weights: TokenWeights
) -> torch.Tensor | None:
    """How much each learned position counts; None where all count alike.

    Args:
        batch: Rows.
        label_logprobs_M: The teacher's log probability of the token that follows, nats.
        weights: What the job asks.

    Returns:
        [M], float32, in [0, 1].
    """
    factors = []
    if weights.needs_confidence:
        assert label_logprobs_M is not None, "the job was checked: its codec carries them"
    if weights.teacher_confidence > 0:
        assert label_logprobs_M is not None
        factors.append((weights.teacher_confidence * label_logprobs_M).clamp(max=0.0).exp())
    if weights.drop_documents_below > 0:
        assert label_logprobs_M is not None
        means_M = document_means(batch, label_logprobs_M)
        factors.append((means_M >= math.log(weights.drop_documents_below)).float())
    if weights.position_ramp_tokens > 0:
        positions_M = batch.position_ids_BT.flatten().index_select(0, batch.keep_M)
        factors.append(((positions_M + 1) / weights.position_ramp_tokens).clamp(max=1.0))
    if not factors:
        return None
    return torch.stack([factor.float() for factor in factors]).prod(0)


def document_means(batch: Batch, values_M: torch.Tensor) -> torch.Tensor:
    """Of each learned position, the mean over the learned positions of its document.

    A part of a document that lies in a row of its own is a document here.

    Args:
        batch: Rows; a document begins at each position 0 and at each row's first token.
        values_M: Any float dtype.

    Returns:
        [M], float64.
    """
    begins_BT = batch.position_ids_BT == 0
    begins_BT[:, 0] = True
    document_M = begins_BT.flatten().cumsum(0).index_select(0, batch.keep_M)
    sums_D = torch.zeros(int(begins_BT.sum()) + 1, dtype=torch.float64, device=values_M.device)
    counts_D = torch.zeros_like(sums_D)
    sums_D.index_add_(0, document_M, values_M.double())
    counts_D.index_add_(0, document_M, torch.ones_like(values_M, dtype=torch.float64))
    return (sums_D / counts_D).index_select(0, document_M)
