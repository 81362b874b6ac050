"""What passes through a model and stays in memory: for the backward pass, and while it runs.

The bytes of one layer that the backward pass needs are counted tensor by tensor, and compared with
what autograd really keeps (`tests/unit/planning/test_activations.py`). The layers are those of
`transformers` with torch's scaled dot-product attention and packed rows, whose mask is a tensor.

Source: after Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models",
arXiv 2205.05198, section 4.1, for other layers: RMS norms, grouped keys, gated feed-forward parts,
and attention that keeps no scores.

T tokens of a row, B rows, w bytes of a number.
"""

from __future__ import annotations

from typing import Final

from raykd.config.model import Device
from raykd.planning.encoder_activations import (
    encoder_ends,
    encoder_layer_bytes,
    encoder_while_scoring,
)
from raykd.planning.shape import ModelShape

FP32: Final = 4
"""Bytes."""


def layer_bytes_a_token(
    model: ModelShape, width: int, row_tokens: int, device: Device = "gpu"
) -> int:
    """Bytes of one layer that its backward pass needs, for each token.

    Args:
        model: The model.
        width: Bytes of a number: 2 or 4.
        row_tokens: T.
        device: Where it learns; only an encoder's dropout is another there.
    """
    if model.encoder is not None:
        return encoder_layer_bytes(model, model.encoder, width, row_tokens, device)
    hidden, query = model.hidden_size, model.query_width
    norms = model.norms_a_layer * _norm_bytes(model, hidden, width)
    if model.head_norm_groups:
        norms += _norm_bytes(model, query + model.kv_width, width) - FP32
        norms += FP32 * model.head_norm_groups
    inputs = width * (hidden if model.one_input else 2 * hidden)
    feed_forward = width * model.feed_forward_kept * model.intermediate_size
    return norms + inputs + _attention_bytes(model, width, row_tokens) + feed_forward


def _norm_bytes(model: ModelShape, numbers: int, width: int) -> int:
    """What it read, and what it made of that before the weight; and its one or two statistics."""
    return {
        "rms": FP32 * numbers + width * numbers + FP32,
        "rms_in_fp32": 2 * FP32 * numbers + FP32,
        "layer_in_fp32": 3 * FP32 * numbers + FP32,
        "layer": width * numbers + 2 * width,
    }[model.norm]


def _attention_bytes(model: ModelShape, width: int, row_tokens: int) -> int:
    """Queries, and keys and values repeated for all heads; what comes out; scores or a mask."""
    qkv_and_out = 4 * width * model.query_width
    if model.full_scores:
        in_fp32 = 0 if width == FP32 else FP32  # the softmax is float32; a copy where not all is
        return qkv_and_out + (2 * width + in_fp32) * model.num_heads * row_tokens
    # The boolean mask [B, 1, T, T] becomes a tensor of numbers in every call, and is kept.
    return qkv_and_out + FP32 * model.num_heads + width * row_tokens


def kept_for_backward(
    model: ModelShape,
    width: int,
    rows: int,
    row_tokens: int,
    *,
    checkpointing: bool,
    device: Device = "gpu",
) -> tuple[int, int]:
    """Bytes of all layers that stay until the backward pass, and of one that is computed again.

    Args:
        model: The model.
        width: Bytes of a number.
        rows: B.
        row_tokens: T.
        checkpointing: Whether only each layer's input stays.
        device: Where it learns.
    """
    tokens = rows * row_tokens
    layer = tokens * layer_bytes_a_token(model, width, row_tokens, device)
    mask = 0 if model.full_scores else tokens * row_tokens
    ends = tokens * (_norm_bytes(model, model.hidden_size, width) + width * model.hidden_size)
    if model.encoder is not None:
        ends = tokens * encoder_ends(model, model.encoder, width, device)
    if checkpointing:
        inputs = model.num_layers * tokens * width * model.hidden_size
        return inputs + ends + mask, layer
    return model.num_layers * layer + ends + mask, 0


def while_scoring(model: ModelShape, width: int, rows: int, row_tokens: int, shards: int) -> int:
    """Most bytes alive at once in a forward pass without gradients, on one shard.

    Args:
        model: The model.
        width: Bytes of a number.
        rows: B.
        row_tokens: T.
        shards: What heads and feed-forward part are divided by.
    """
    if model.encoder is not None:
        return encoder_while_scoring(model, width, rows, row_tokens)
    tokens = rows * row_tokens
    hidden = width * model.hidden_size
    query, keys = width * model.query_width // shards, width * model.kv_width // shards
    inner = width * model.intermediate_size // shards
    norm = 2 * FP32 * model.hidden_size
    # Before and after the rotation, then repeated for all heads, then what comes out.
    attention = hidden + 2 * query + 2 * keys + keys + 2 * query + query
    scores = mask = 0
    if model.full_scores:
        scores = (3 * width + FP32) * model.num_heads // shards * row_tokens
    else:
        mask = (1 + width) * row_tokens
    feed_forward = hidden + 3 * inner
    return tokens * (2 * hidden + mask + max(norm, attention + scores, feed_forward))
