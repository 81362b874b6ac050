"""Inner states the plain way: one document at a time, the model's own hidden states, float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import torch

NAMES = ("query", "key", "value")


def documents(rows: pa.Table) -> Iterator[list[int]]:
    """Token ids of each document that has a token to learn."""
    for row in rows.to_pylist():
        ids, mask = row["input_ids"], row["loss_mask"]
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if any(mask[start:end]):
                yield ids[start:end]


def inner_states(model: Any, ids: list[int], layer: int) -> dict[str, torch.Tensor]:
    """A Llama's state after a layer, and that layer's projections: [L, .] by name."""
    own = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    block = model.model.layers[layer]
    before = block.input_layernorm(own[layer][0])
    found = {name: getattr(block.self_attn, f"{name[0]}_proj")(before) for name in NAMES}
    last = layer + 1 == model.config.num_hidden_layers
    if not last:
        return {**found, "hidden": own[layer + 1][0]}
    # What the last layer puts out, transformers shows after the norm only: run the layer again.
    positions = torch.arange(len(ids))[None]
    rotary = model.model.rotary_emb(own[layer], positions)
    ahead = torch.full((len(ids), len(ids)), -math.inf).triu(1)[None, None]
    out = block(
        own[layer], attention_mask=ahead, position_ids=positions, position_embeddings=rotary
    )
    return {**found, "hidden": (out[0] if isinstance(out, tuple) else out)[0]}


def relation(states: torch.Tensor, heads: int) -> torch.Tensor:
    """[heads, L, L], causal."""
    length, width = states.shape[0], states.shape[1] // heads
    by_head = states.double().view(length, heads, width).transpose(0, 1)
    scores = by_head @ by_head.transpose(1, 2) / math.sqrt(width)
    ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(ahead, -math.inf), -1)


def hidden_sum(student: torch.Tensor, teacher: torch.Tensor, loss: str) -> torch.Tensor:
    """Over positions."""
    s, t = student.double(), teacher.double()
    if loss == "mse":
        return (s - t).square().mean(1).sum()
    return (1 - (s * t).sum(1) / (s.norm(dim=1) * t.norm(dim=1))).sum()


def relation_sum(student: torch.Tensor, teacher: torch.Tensor, heads: int) -> torch.Tensor:
    """KL of relations over positions, a mean over heads."""
    q, p = relation(student, heads), relation(teacher, heads)
    seen = p > 0
    return (p[seen] * (p[seen] / q[seen]).log()).sum() / heads


def inner_losses(
    student: Any,
    teacher: Any,
    rows: pa.Table,
    pairs: list[tuple[int, int]],
    heads: int,
    loss: str,
    projections: list[torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean distance of hidden states, mean divergence of relations; with gradient."""
    hidden = attention = torch.zeros((), dtype=torch.float64)
    positions = 0
    for ids in documents(rows):
        positions += len(ids)
        for at, (s, t) in enumerate(pairs):
            mine = inner_states(student, ids, s)
            with torch.no_grad():
                told = {k: v.bfloat16() for k, v in inner_states(teacher, ids, t).items()}
            own = mine["hidden"]
            if projections is not None:
                own = own @ projections[at].T
            hidden = hidden + hidden_sum(own, told["hidden"], loss) / len(pairs)
            if (s, t) == pairs[-1]:
                for name in NAMES:
                    attention = attention + relation_sum(mine[name], told[name], heads) / 3
    return hidden / positions, attention / positions
