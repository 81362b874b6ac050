"""A masked language model as a student: what its micro-batches are, what its loss is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from raykd.losses.masked import MaskedTargets, masked_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import DenseTargets
from raykd.models.batch import Batch
from raykd.models.encoder import EncoderSpec, encoder_outputs, load_encoder
from raykd.models.masking import batch_of
from raykd.soft_targets.codec import FullTargets, TopKHidden, TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec
from raykd.student.encoder_student import checkpoint_activations, projection_to_teacher
from raykd.student.engine import ZeroStudent
from raykd.student.micro_batch import MicroBatch
from raykd.student.module import StepParts, loss_spec
from raykd.student.protocol import StudentSpec
from raykd.student.targets import TargetReader, buckets


@dataclass(frozen=True, eq=False)
class MaskedMicroBatch(MicroBatch):
    """Rows of a masked language model; every masked token counts alike."""

    masked: MaskedTargets | None = None

    @property
    def targets(self) -> MaskedTargets | None:
        """What the teacher says of its masked tokens."""
        return self.masked


class MaskedModule(torch.nn.Module):
    """A masked language model whose forward pass is the loss.

    Where its hidden states are of another width than the teacher's, a matrix is learned with it.
    """

    def __init__(self, encoder: Any, spec: EncoderSpec, loss: LossSpec, cosine: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection_to_teacher(encoder, spec)
        self._spec = spec
        self._loss = loss
        self._cosine = cosine

    def forward(
        self,
        batch: Batch,
        targets: MaskedTargets,
        token_weights_M: None = None,
        states: None = None,
    ) -> StepParts:
        """Sums of the loss and its parts over the batch's masked tokens.

        Args:
            batch: Of `models.masking.batch_of`.
            targets: What the teacher says of them.
            token_weights_M: All count alike.
            states: What is compared of them travels with the targets.
        """
        outputs_MV, hidden_MH = encoder_outputs(self.encoder, batch, self._spec, self.projection)
        labels_M = batch.label_ids_M
        return StepParts(
            *masked_loss(outputs_MV, hidden_MH, labels_M, targets, self._loss, self._cosine)
        )


class MaskedStudent(ZeroStudent):
    """A DeepSpeed engine around a masked language model."""

    def __init__(self, spec: StudentSpec) -> None:
        assert spec.encoder is not None, "the pipeline found the models of a classifier"
        self._encoder_spec = spec.encoder
        self._targets = spec.targets
        super().__init__(spec)

    def _module(self, spec: StudentSpec) -> torch.nn.Module:
        job, encoder = spec.job, self._encoder_spec
        assert job.classifier is not None, "the job was checked"
        model = load_encoder(spec.source, encoder, job.student.dtype, "student.init")
        if job.student.activation_checkpointing:
            checkpoint_activations(model)
        return MaskedModule(model, encoder, loss_spec(job), job.classifier.cosine)

    def _check_module(self) -> None:
        """An encoder runs as `transformers` runs it: nothing to compare."""

    def _reader(self, spec: StudentSpec) -> TargetReader | None:
        """Targets are read with what travels beside them: `_micro_batch`."""
        return None

    def _micro_batch(self, rows: pa.Table) -> MicroBatch:
        batch = batch_of(rows, self._encoder_spec.masking).to(self._device)
        targets = MaskedTargets(None, None)
        if self._job.learns_from_logits:
            targets = masked_targets(rows, self._targets, self._job.loss.temperature, self._device)
        return MaskedMicroBatch(batch, None, None, masked=targets)


def masked_targets(
    rows: pa.Table, spec: CodecSpec, temperature: float, device: torch.device
) -> MaskedTargets:
    """Check and decode what the teacher says of the rows' masked tokens.

    Args:
        rows: With the columns of `spec`.
        spec: Codec `top_k`, `top_k_hidden` or `full`.
        temperature: The loss's; one that the codec keeps.
        device: Where the loss runs.

    Raises:
        SoftTargetError: Truncated, corrupted or of another job; names the row.
    """
    at, found = spec.temperatures.index(temperature), decode(rows, spec, device)
    if isinstance(found, FullTargets):
        return MaskedTargets(DenseTargets(found.logprobs_TV), None)
    if isinstance(found, TopKHidden):
        return MaskedTargets(buckets(found.top_k, at), found.hidden_TD)
    assert isinstance(found, TopKTargets), "the job was checked: no other codec serves"
    return MaskedTargets(buckets(found, at), None)
