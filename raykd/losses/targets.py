"""What a teacher says about T tokens, in the forms that a loss can learn from.

Shapes: T tokens, V vocabulary ids, K ids kept, U ids drawn, D hidden size of the teacher.
`rows` of each gives the same of some tokens, as views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LogitShape:
    """What a model does with its head's raw output: times `scale`, then cap * tanh(x / cap).

    Attributes:
        scale: Of the raw logits (Cohere's logit_scale; 1 / Granite's logits_scaling).
        softcap: Above 0 (Gemma's final_logit_softcapping), or None.
    """

    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True, eq=False)
class BucketTargets:
    """K ids a token, one bucket each, and all other ids in one more.

    Attributes:
        ids_TK: Any integer dtype, distinct within a token, in [0, V).
        logprobs_TK: Floats, nats, at temperature 1; -inf is legal.
        log_tail_T: Floats: log of the sum over ids not kept of exp(logprob / temperature), at the
            loss's own temperature. -inf where nothing is left out, or where the tail was not kept:
            then the teacher is normalised over the kept ids, the student still over all.
    """

    ids_TK: torch.Tensor
    logprobs_TK: torch.Tensor
    log_tail_T: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.ids_TK.shape[0]

    def rows(self, rows: slice) -> BucketTargets:
        """The same of some tokens."""
        return BucketTargets(self.ids_TK[rows], self.logprobs_TK[rows], self.log_tail_T[rows])


@dataclass(frozen=True, eq=False)
class SampledTargets:
    """U ids a token drawn from a proposal, with importance weights: unbiased for forward KL.

    Attributes:
        ids_TU: Any integer dtype, in [0, V); an id may come twice. Padding has weight 0.
        weights_TU: Floats, 0 or more, for the teacher at the loss's own temperature; they add up to
            1 in expectation.
        entropy_T: Floats, nats, of the teacher at that temperature, over all ids.

    Source: random-sampling knowledge distillation, arXiv 2503.16870.
    """

    ids_TU: torch.Tensor
    weights_TU: torch.Tensor
    entropy_T: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.ids_TU.shape[0]

    def rows(self, rows: slice) -> SampledTargets:
        """The same of some tokens."""
        return SampledTargets(self.ids_TU[rows], self.weights_TU[rows], self.entropy_T[rows])


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """Every id's log probability.

    Attributes:
        logprobs_TV: Any float dtype, nats, at temperature 1, up to a constant a token (logits do);
            -inf is legal.
    """

    logprobs_TV: torch.Tensor

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.logprobs_TV.shape[0]

    def rows(self, rows: slice) -> DenseTargets:
        """The same of some tokens."""
        return DenseTargets(self.logprobs_TV[rows])


@dataclass(frozen=True, eq=False)
class TeacherHead:
    """The teacher's language-model head.

    Attributes:
        weight_VD: Any float dtype; rows beyond the vocabulary are padding and not looked at.
        bias_V: Of the same dtype, or None.
        shape: What the teacher does with its raw logits.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    shape: LogitShape


@dataclass(frozen=True, eq=False)
class HiddenTargets:
    """The teacher's last hidden states and its head: every id's logit, made chunk by chunk.

    Attributes:
        hidden_TD: Any float dtype; turned into the head's, a chunk at a time.
        head: On the same device.
    """

    hidden_TD: torch.Tensor
    head: TeacherHead

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.hidden_TD.shape[0]

    def rows(self, rows: slice) -> HiddenTargets:
        """The same of some tokens."""
        return HiddenTargets(self.hidden_TD[rows], self.head)


Targets = BucketTargets | SampledTargets | DenseTargets | HiddenTargets
