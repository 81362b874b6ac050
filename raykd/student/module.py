"""The module that DeepSpeed wraps: a causal language model whose forward pass is the loss.

B rows, T tokens, M positions learned from, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from raykd.config.job import Job
from raykd.losses.buckets import BucketTargets
from raykd.losses.mix import LossParts, distillation_loss
from raykd.models.batch import Batch
from raykd.models.head import head_logits, hidden_states
from raykd.soft_targets.codec import columns_to_targets
from raykd.soft_targets.top_k import TopKTargets

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DistillationModule(torch.nn.Module):
    """Hidden states, the head at learned positions only, the loss; all under ZeRO's hooks."""

    def __init__(self, causal_lm: PreTrainedModel, job: Job, vocab_size: int) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._loss = job.loss
        self._vocab_size = vocab_size

    def forward(self, batch: Batch, targets: TopKTargets | None) -> LossParts:
        """Sums of the loss and its parts over the batch's learned positions."""
        return distillation_loss(
            self.logits(batch),
            batch.label_ids_M,
            _buckets(targets),
            divergence=self._loss.divergence,
            temperature=self._loss.temperature,
            beta=self._loss.beta,
            alpha=self._loss.alpha,
        )

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits [M, V] of the batch's learned positions."""
        hidden_BTD = hidden_states(self.causal_lm, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        return head_logits(self.causal_lm, hidden_MD, self._vocab_size)


def _buckets(targets: TopKTargets | None) -> BucketTargets | None:
    """What the loss looks at: the tail at its own temperature, which is the last one kept."""
    if targets is None:
        return None
    return BucketTargets(targets.ids_TK, targets.logprobs_TK, targets.log_tail_TN[:, -1])


def decode_targets(rows: pa.Table, job: Job, vocab_size: int) -> TopKTargets | None:
    """Soft targets of rows, checked; None where the loss needs none."""
    if not job.needs_teacher_for_training:
        return None
    return columns_to_targets(
        rows, job.soft_targets.top_k, len(job.temperatures), vocab_size=vocab_size
    )
