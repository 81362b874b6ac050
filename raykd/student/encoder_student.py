"""A classifier as a student: what its micro-batches are, what its loss is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raykd.config.job import Job
from raykd.errors import ModelError
from raykd.losses.labels import (
    LabelLossSpec,
    LabelTargets,
    label_loss,
    position_weights,
)
from raykd.models.batch import Batch, collate
from raykd.models.encoder import EncoderSpec, encoder_outputs, load_encoder
from raykd.soft_targets.codec import HiddenStates, decode
from raykd.student.engine import ZeroStudent
from raykd.student.micro_batch import MicroBatch
from raykd.student.module import StepParts
from raykd.student.protocol import StudentSpec
from raykd.student.targets import TargetReader


@dataclass(frozen=True, eq=False)
class LabelledMicroBatch(MicroBatch):
    """Rows of a classifier; `token_weights_M` is 1 where a position is learned from."""

    labels: LabelTargets | None = None

    @property
    def targets(self) -> LabelTargets | None:
        """What is known of its positions."""
        return self.labels


class EncoderModule(torch.nn.Module):
    """An encoder whose forward pass is the loss.

    Where its vectors are of another width than the teacher's, a matrix is learned with it.
    """

    def __init__(self, encoder: Any, spec: EncoderSpec, loss: LabelLossSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection_to_teacher(encoder, spec)
        self._spec = spec
        self._loss = loss

    def forward(
        self,
        batch: Batch,
        targets: LabelTargets,
        token_weights_M: torch.Tensor | None,
        states: None = None,
    ) -> StepParts:
        """Sums of the loss and its parts over the batch's learned positions.

        Args:
            batch: Rows of one text each.
            targets: What is known of the positions; their weights follow from it.
            token_weights_M: Not looked at: the count that the caller makes its mean of.
            states: A classifier has none.
        """
        outputs_MC, hidden_MH = encoder_outputs(self.encoder, batch, self._spec, self.projection)
        weights = position_weights(targets, self._loss, len(outputs_MC))
        return StepParts(*label_loss(outputs_MC, hidden_MH, targets, weights, self._loss))


class EncoderStudent(ZeroStudent):
    """A DeepSpeed engine around an encoder."""

    def __init__(self, spec: StudentSpec) -> None:
        assert spec.encoder is not None, "the pipeline found the models of a classifier"
        self._encoder_spec = spec.encoder
        self._loss = label_loss_spec(spec.job)
        self._targets = spec.targets
        self._gold = spec.gold
        super().__init__(spec)

    def _module(self, spec: StudentSpec) -> torch.nn.Module:
        model = load_encoder(
            spec.source, self._encoder_spec, spec.job.student.dtype, "student.init"
        )
        if spec.job.student.activation_checkpointing:
            checkpoint_activations(model)
        return EncoderModule(model, self._encoder_spec, self._loss)

    def _check_module(self) -> None:
        """An encoder runs as `transformers` runs it: nothing to compare."""

    def _reader(self, spec: StudentSpec) -> TargetReader | None:
        """Outputs need no head to be read."""
        return None

    def _micro_batch(self, rows: pa.Table) -> MicroBatch:
        batch = collate(rows).to(self._device)
        labels = LabelTargets(*self._taught(rows), self._known(rows))
        weights = position_weights(labels, self._loss, len(batch.keep_M))
        return LabelledMicroBatch(batch, None, weights.learned, labels=labels)

    def _taught(self, rows: pa.Table) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The teacher's outputs and hidden states, as far as they are learned from."""
        if not self._job.learns_from_logits:
            return None, None
        found = decode(rows, self._targets, self._device)
        assert isinstance(found, HiddenStates), "a classifier's outputs travel as vectors"
        return split_outputs(found.hidden_TD, self._encoder_spec)

    def _known(self, rows: pa.Table) -> torch.Tensor | None:
        if self._gold is None:
            return None
        gold = self._gold(rows.column("source_row").to_numpy().astype(np.int64))
        return torch.from_numpy(gold).to(self._device)


def split_outputs(
    vectors_MW: torch.Tensor, spec: EncoderSpec
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Outputs [M, C] and hidden states [M, H] of the vectors in which they travel together."""
    if not spec.with_hidden:
        return vectors_MW, None
    return vectors_MW[:, : spec.num_outputs], vectors_MW[:, spec.num_outputs :]


def projection_to_teacher(encoder: Any, spec: EncoderSpec) -> torch.nn.Linear | None:
    """A fresh matrix to the width of the teacher's vectors; None where the student's have it."""
    width = encoder.config.hidden_size
    if spec.vector_width in (0, width):
        return None
    return torch.nn.Linear(width, spec.vector_width, bias=False, dtype=encoder.dtype)


def label_loss_spec(job: Job) -> LabelLossSpec:
    """The job's loss, as the losses know it."""
    section = job.classifier
    assert section is not None, "the job was checked"
    return LabelLossSpec(
        task=section.task,
        temperature=job.loss.temperature,
        alpha=job.loss.alpha,
        cosine=section.cosine,
        when_teacher_is_wrong=section.when_teacher_is_wrong,
        embedding_loss=section.embedding_loss,
    )


def checkpoint_activations(model: Any) -> None:
    """Have activations computed again in the backward pass.

    Raises:
        ModelError: The architecture cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"student.activation_checkpointing: a {model.config.model_type} model of transformers "
            "cannot recompute its activations; set it to false"
        )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
