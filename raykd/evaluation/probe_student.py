"""What a probe asks of the student: a gradient at its hidden states, and its speed.

M learned tokens, B rows, T tokens of a row, D hidden size of the student, V vocabulary.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import LogitShape, Targets
from raykd.models.batch import Batch
from raykd.models.head import AfterHead, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class StudentHead:
    """The student's head in float32, without a gradient of its own."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    shape: LogitShape
    vocab_size: int

    @classmethod
    def of(cls, student: PreTrainedModel, vocab_size: int) -> StudentHead:
        """The head of a student that learns over `vocab_size` ids."""
        head: Any = student.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(
            head.weight.detach().float(),
            None if bias is None else bias.detach().float(),
            shape_of(AfterHead.of(student)),
            vocab_size,
        )

    def gradient(
        self, own_MD: torch.Tensor, batch: Batch, targets: Targets, loss: LossSpec
    ) -> tuple[float, torch.Tensor]:
        """The divergence's sum, and its gradient [M, D] by the student's hidden states."""
        hidden_MD = own_MD.detach().requires_grad_(True)
        parts = linear_distillation_loss(
            hidden_MD,
            self.weight_VD,
            self.bias_V,
            batch.label_ids_M,
            targets,
            replace(loss, alpha=0.0),
            shape=self.shape,
            vocab_size=self.vocab_size,
        )
        parts.total.backward()
        assert hidden_MD.grad is not None
        return float(parts.total.detach()), hidden_MD.grad


def shape_of(after: AfterHead) -> LogitShape:
    """What a model does with its head's outputs, as the losses know it."""
    return LogitShape(after.scale, after.softcap)


def student_tokens_per_s(
    student: PreTrainedModel, batch: Batch, vocab_size: int, seconds: float = 3.0
) -> float:
    """Forward, loss and backward of one micro-batch, over and over; no optimizer.

    Args:
        student: With its first weights.
        batch: A micro-batch of the job.
        vocab_size: V.
        seconds: Measure for at least this long, after one pass that warms up.

    Returns:
        Tokens, learned from or not, a second.
    """
    head: Any = student.get_output_embeddings()
    hard_labels = LossSpec((), alpha=1.0)
    passes, started = -1, time.perf_counter()
    while passes < 1 or time.perf_counter() - started < seconds:
        hidden_BTD = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        parts = linear_distillation_loss(
            hidden_MD,
            head.weight,
            getattr(head, "bias", None),
            batch.label_ids_M,
            None,
            hard_labels,
            shape=shape_of(AfterHead.of(student)),
            vocab_size=vocab_size,
        )
        parts.total.backward()
        if batch.keep_M.device.type == "cuda":
            torch.cuda.synchronize()
        passes += 1
        if passes == 0:
            started = time.perf_counter()
    student.zero_grad(set_to_none=True)
    return passes * batch.input_ids_BT.numel() / (time.perf_counter() - started)
