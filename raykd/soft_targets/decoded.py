"""What a student reads: one frozen record of tensors for each codec.

Shapes: T tokens, V vocabulary ids, K ids kept, N temperatures, U most ids drawn for a token,
D hidden size. Read only everywhere: tensors may be views of an Arrow table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch


class TokenTensors:
    """Tensors whose first axis is the token; the base of each codec's record."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of them, in the order of their fields."""
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.tensors[0].shape[0])

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`; the same tensors where they are there already."""
        return type(self)(*(tensor.to(device) for tensor in self.tensors))

    def cpu(self) -> Self:
        """Return the same in the host's memory."""
        return self.to("cpu")

    def split(self, lengths_tokens: Sequence[int]) -> list[Self]:
        """Cut into consecutive parts, for instance one a row.

        Args:
            lengths_tokens: Tokens of each part; they add up to T.

        Returns:
            Views, one a length.
        """
        cut = [torch.split(tensor, list(lengths_tokens)) for tensor in self.tensors]
        return [type(self)(*part) for part in zip(*cut, strict=True)]


@dataclass(frozen=True, eq=False)
class TopKTargets(TokenTensors):
    """Codec `top_k`.

    The teacher's log normaliser at temperatures[n], over the whole vocabulary, is
    logaddexp(logsumexp(logprobs_TK / temperatures[n]), log_tail_TN[:, n]).

    Attributes:
        ids_TK: int32, likeliest first; of ids with one value the lowest first.
        logprobs_TK: float32, nats, at temperature 1; -inf where the teacher's logit was.
        log_tail_TN: float32, log of the sum over ids not kept of exp(logprob / temperature n);
            -inf where nothing is left out, or the tail is not kept. At temperature 1 it is the log
            of the tail's mass.
        label_logprobs_T: float32, nats, the teacher's log probability of the next token.
    """

    ids_TK: torch.Tensor
    logprobs_TK: torch.Tensor
    log_tail_TN: torch.Tensor
    label_logprobs_T: torch.Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[TopKTargets]) -> TopKTargets:
        """Join at least one part, token after token; all have the same K, N and device."""
        columns = zip(*(part.tensors for part in parts), strict=True)
        return cls(*(torch.cat(list(column)) for column in columns))


@dataclass(frozen=True, eq=False)
class SampledTokens(TokenTensors):
    """Codec `sampled`.

    Attributes:
        ids_TU: int32, ascending; where a token has fewer than U, padded with id 0.
        weights_TU: float32; an unbiased estimate of the teacher's distribution at the last
            temperature, 0 at padding.
        entropy_T: float32, nats, of the teacher at the last temperature.
        label_logprobs_T: float32, nats, at temperature 1.
    """

    ids_TU: torch.Tensor
    weights_TU: torch.Tensor
    entropy_T: torch.Tensor
    label_logprobs_T: torch.Tensor


@dataclass(frozen=True, eq=False)
class FullTargets(TokenTensors):
    """Codec `full`.

    Attributes:
        logprobs_TV: float32 or bfloat16, nats, at temperature 1; -inf is legal.
        label_logprobs_T: float32, nats.
    """

    logprobs_TV: torch.Tensor
    label_logprobs_T: torch.Tensor


@dataclass(frozen=True, eq=False)
class HiddenStates(TokenTensors):
    """Codec `hidden`.

    Attributes:
        hidden_TD: bfloat16 (`hidden_values` bf16) or float32: what the teacher's head takes.
    """

    hidden_TD: torch.Tensor


@dataclass(frozen=True, eq=False)
class InnerStates:
    """Codec `states`; tokens are all of every document that has a token to learn.

    Attributes:
        hidden_TD: bfloat16 by layer: what the layer puts out.
        projections_TW: bfloat16 by name (query, key, value), of one layer.
    """

    hidden_TD: Mapping[int, torch.Tensor]
    projections_TW: Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class TopKHidden:
    """Codec `top_k_hidden`.

    Attributes:
        top_k: As of codec `top_k`.
        hidden_TD: As of codec `hidden`.
    """

    top_k: TopKTargets
    hidden_TD: torch.Tensor


Decoded = TopKTargets | SampledTokens | FullTargets | HiddenStates | InnerStates | TopKHidden
