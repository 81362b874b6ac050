"""The module that DeepSpeed wraps: a causal language model whose forward pass is the loss.

B rows, T tokens, M positions learned from, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from raykd.config.job import Job
from raykd.losses.fused import LossParts, linear_distillation_loss
from raykd.losses.heldout import HeldoutSums, linear_heldout_sums
from raykd.losses.spec import LossSpec
from raykd.losses.targets import BucketTargets, LogitShape, Targets
from raykd.models.alignment import Alignment
from raykd.models.batch import Batch
from raykd.models.head import AfterHead, UseOfHead, hidden_states, open_head
from raykd.models.states import StateTaker
from raykd.student.representations import ArrivedStates, RepresentationLoss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")


class StepParts(NamedTuple):
    """Sums over a micro-batch; a tuple, because the hooks of ZeRO 3 look for tensors in tuples.

    The first three are those of `LossParts`, over learned tokens; the others are those of
    `RepresentationSums`, over positions, and None where no inner states are compared.
    """

    total: torch.Tensor
    divergence: torch.Tensor | None
    cross_entropy: torch.Tensor
    representations: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    attention: torch.Tensor | None = None


class DistillationModule(torch.nn.Module):
    """Hidden states, then head and loss in one at learned positions only; all under ZeRO's hooks.

    Logits never exist for more than a chunk of tokens.
    """

    def __init__(
        self,
        causal_lm: PreTrainedModel,
        job: Job,
        vocab_size: int,
        alignment: Alignment | None = None,
    ) -> None:
        """Open the head, and set the hooks that take inner states.

        Args:
            causal_lm: The student.
            job: The run's.
            vocab_size: V of both sides.
            alignment: Of inner states, where the job compares them.
        """
        super().__init__()
        open_head(causal_lm, "student")
        self.causal_lm = causal_lm
        self._loss = loss_spec(job)
        self._vocab_size = vocab_size
        # Alone, inner states leave the text at its own weight and the divergence at none.
        self._text_weight = job.loss.alpha if job.method == "representations" else 1.0
        self.representations: RepresentationLoss | None = None
        if alignment is not None:
            assert job.representations is not None, "the alignment is of it"
            attention_layer = alignment.last[0] if alignment.relations else None
            self._taker = StateTaker(
                causal_lm, alignment.student_layers, attention_layer, alignment.relations
            )
            self.representations = RepresentationLoss(
                job.representations, alignment, causal_lm.dtype, job.seed
            )

    def forward(
        self,
        batch: Batch,
        targets: Targets | None,
        token_weights_M: torch.Tensor | None,
        states: ArrivedStates | None = None,
    ) -> StepParts:
        """Sums of the loss and its parts over the batch's learned positions.

        Args:
            batch: Rows.
            targets: What the teacher says of its M learned positions; None for the text alone.
            token_weights_M: How much each counts; None counts all alike.
            states: The teacher's inner states, where the job compares them.
        """
        use = partial(
            linear_distillation_loss,
            labels_T=batch.label_ids_M,
            targets=targets,
            spec=self._loss,
            shape=logit_shape(AfterHead.of(self.causal_lm)),
            vocab_size=self._vocab_size,
            token_weights_T=token_weights_M,
        )
        if self.representations is None:
            return StepParts(*self._through_head(batch, use))
        assert states is not None, "the job was checked: its rows bring inner states"
        with self._taker.taking() as taken:
            parts: LossParts = self._through_head(batch, use)
        total = self._text_weight * parts.total
        sums = self.representations(taken, states)
        return StepParts(total, parts.divergence, parts.cross_entropy, *sums)

    @torch.no_grad()
    def heldout(self, batch: Batch, targets: BucketTargets) -> HeldoutSums:
        """How close the student is to its teacher on the batch's learned positions."""
        measure = partial(
            linear_heldout_sums,
            label_ids_M=batch.label_ids_M,
            targets=targets,
            shape=logit_shape(AfterHead.of(self.causal_lm)),
            vocab_size=self._vocab_size,
        )
        # As a tuple, for the hooks of ZeRO 3 look into what comes out.
        return HeldoutSums(*self._through_head(batch, lambda h, w, b: astuple(measure(h, w, b))))

    def _through_head(self, batch: Batch, use: UseOfHead[Result]) -> Result:
        hidden_BTD = hidden_states(self.causal_lm, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        result: Result = self.causal_lm.get_output_embeddings()(hidden_MD, use)
        return result


def loss_spec(job: Job) -> LossSpec:
    """The job's loss, as the losses know it."""
    loss = job.loss
    return LossSpec(
        divergences=tuple(loss.divergences.items()),
        temperature=loss.temperature,
        # Without a divergence the text's loss is whole here; the module weighs it.
        alpha=1.0 if job.method == "representations" else loss.alpha,
        beta=loss.beta,
        skew=loss.skew,
        head_mass=loss.head_mass,
    )


def logit_shape(after: AfterHead) -> LogitShape:
    """What follows the head, as the losses know it."""
    return LogitShape(after.scale, after.softcap)
