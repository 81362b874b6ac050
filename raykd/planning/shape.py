"""A model as a list of parameters: names and shapes, nothing loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Role = Literal["embedding", "linear", "bias", "norm", "head"]
Norm = Literal["rms", "rms_in_fp32", "layer_in_fp32", "layer"]
"""RMS norm that multiplies in the model's dtype or in float32; LayerNorm written out in float32, or
torch's own."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: As `transformers` names it.
        shape: Its sizes; a linear layer's weight is (out, in), a Conv1D's (in, out).
        role: What it is; `linear` is a weight of a layer in the body.
        split: The axis that tensor parallelism cuts; None where each shard holds all of it.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    split: int | None = None

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    def shard_size(self, shards: int) -> int:
        """Numbers of the largest shard of it."""
        if self.split is None or shards == 1:
            return self.size
        return self.size // self.shape[self.split] * -(-self.shape[self.split] // shards)


@dataclass(frozen=True)
class EncoderPart:
    """What an encoder has that a causal language model has not.

    Attributes:
        hidden_dropouts: Of a layer that are at work while it learns, attention's left out.
        attention_dropout: Whether attention's is.
        head_products: Numbers that the head multiplies with for each token of a row, on average.
    """

    hidden_dropouts: int
    attention_dropout: bool
    head_products: int


@dataclass(frozen=True)
class ModelShape:
    """What memory and speed are reckoned from.

    Attributes:
        model_type: The family, as `config.json` names it.
        vocab_size: Rows of the embedding, and logits of the head.
        hidden_size: Width D.
        num_layers: Layers.
        num_heads: Query heads of a layer.
        num_kv_heads: Key and value heads.
        head_size: Width of a head.
        intermediate_size: Width of the feed-forward part.
        tied: Whether the head is the embedding.
        norm: How its norms compute, which decides what they keep.
        norms_a_layer: Norms over the whole width in one layer.
        head_norm_groups: Norms over parts of queries and keys, of a token; 0 without any.
        one_input: Whether attention and feed-forward part read one norm's output.
        feed_forward_kept: Tensors of the inner width that the backward pass needs.
        full_scores: Whether attention holds all T x T scores, as with a soft cap.
        sharded: Whether `transformers` can cut it for tensor parallelism.
        parameters: All of them, tied ones once.
        encoder: None for a causal language model.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    tied: bool
    norm: Norm
    norms_a_layer: int
    head_norm_groups: int
    one_input: bool
    feed_forward_kept: int
    full_scores: bool
    sharded: bool
    parameters: tuple[Parameter, ...]
    encoder: EncoderPart | None = None

    @cached_property
    def num_parameters(self) -> int:
        """All of them, tied ones once."""
        return total(self.parameters)

    @property
    def query_width(self) -> int:
        """Queries of all heads of a token."""
        return self.num_heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Keys, or values, of all heads of a token."""
        return self.num_kv_heads * self.head_size

    @cached_property
    def body_matrix_size(self) -> int:
        """Numbers in the weights that every token is multiplied with, the head left out."""
        return total(p for p in self.parameters if p.role == "linear")

    @property
    def head_size_total(self) -> int:
        """Numbers in the head, tied or not, that a token is multiplied with."""
        if self.encoder is not None:
            return self.encoder.head_products
        return self.vocab_size * self.hidden_size

    def shard_parameters(self, shards: int) -> int:
        """Numbers that the largest shard of a tensor-parallel model holds."""
        return sum(p.shard_size(shards) for p in self.parameters)


def total(parameters: Iterable[Parameter]) -> int:
    """Numbers in all of them."""
    return sum(p.size for p in parameters)
