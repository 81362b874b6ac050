"""What passes through an encoder and stays in memory: as `activations.py`, tensor by tensor.

Attention looks both ways, padding is masked, and dropout is at work while a student learns. On CPUs
torch's fused attention knows no dropout: all scores are held, in float32. On GPUs it does, and a
dropout keeps a byte a number.

T tokens of a row, B rows, w bytes of a number.
"""

from __future__ import annotations

from typing import Final

from raykd.config.model import Device
from raykd.planning.shape import EncoderPart, ModelShape

FP32: Final = 4
"""Bytes."""
IDS_BYTES: Final = 5 * 8
"""Of a token: its id, type and position, whether it is attended to, and what that is made of."""
SCORES_KEPT: Final = 3
"""With dropout: the softmax, the dropout's factors, their product."""


def encoder_layer_bytes(
    model: ModelShape, part: EncoderPart, width: int, row_tokens: int, device: Device
) -> int:
    """Bytes of one layer that its backward pass needs, for each token.

    Args:
        model: The model.
        part: What makes it an encoder.
        width: Bytes of a number: 2 or 4.
        row_tokens: T.
        device: Where it learns.
    """
    hidden = width * model.hidden_size
    norms = 2 * (hidden + 2 * width)
    dropped = part.hidden_dropouts * model.hidden_size * _factor(width, device)
    inputs = 2 * hidden  # of queries, keys and values, and of the feed-forward part
    inner = 2 * width * model.intermediate_size
    return norms + dropped + inputs + inner + _attention(model, part, width, row_tokens, device)


def _factor(width: int, device: Device) -> int:
    """Bytes that a dropout keeps of a number."""
    return width if device == "cpu" else 1


def _attention(
    model: ModelShape, part: EncoderPart, width: int, row_tokens: int, device: Device
) -> int:
    """Queries, keys, values and what comes out; scores or a mask."""
    query, scores = model.query_width, model.num_heads * row_tokens
    if model.full_scores:
        kept = width
        if part.attention_dropout:
            kept = 2 * width + _factor(width, device)
        return 4 * width * query + kept * scores
    if part.attention_dropout and device == "cpu":
        return (3 * FP32 + width) * query + SCORES_KEPT * FP32 * scores
    return 4 * width * query + FP32 * model.num_heads + width * row_tokens


def encoder_ends(model: ModelShape, part: EncoderPart, width: int, device: Device) -> int:
    """Bytes beside the layers, for each token: the embeddings' norm, dropout, the last states."""
    dropped = model.hidden_size * _factor(width, device) if part.hidden_dropouts else 0
    return 2 * width * model.hidden_size + 2 * width + dropped + IDS_BYTES


def encoder_while_scoring(model: ModelShape, width: int, rows: int, row_tokens: int) -> int:
    """Most bytes alive at once in a forward pass without gradients.

    Args:
        model: The model.
        width: Bytes of a number.
        rows: B.
        row_tokens: T.
    """
    tokens = rows * row_tokens
    hidden, inner = width * model.hidden_size, width * model.intermediate_size
    # The embeddings, the layer's input, ids and the mask, where padding is, stay throughout.
    stays = 2 * hidden + row_tokens + IDS_BYTES
    scores = bias = 0
    if model.full_scores:
        stays += hidden
        scores = 3 * width * model.num_heads * row_tokens
        bias = width * model.num_heads * row_tokens**2  # of relative positions, once for all rows
    mask = width * row_tokens
    attention = 5 * hidden + (scores or mask)
    return tokens * (stays + max(attention, hidden + 2 * inner)) + bias
