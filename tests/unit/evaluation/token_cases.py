"""Rows with a tiny teacher's targets, and dense log probabilities of any tiny model on them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from raykd.models.batch import collate
from raykd.models.head import hidden_states
from raykd.soft_targets.codec import encode, to_columns
from raykd.soft_targets.spec import CodecSpec

VOCAB = 320
SPEC = CodecSpec("top_k", VOCAB, top_k=16, values="fp32")


def logits_of(model: Any, rows: pa.Table) -> list[torch.Tensor]:
    """float64 [m, V] of each row's learned tokens."""
    found = []
    with torch.no_grad():
        for i in range(rows.num_rows):
            batch = collate(rows.slice(i, 1))
            hidden = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
            found.append(model.lm_head(hidden.flatten(0, 1)[batch.keep_M]).double())
    return found


def labels_of(rows: pa.Table) -> list[torch.Tensor]:
    return [collate(rows.slice(i, 1)).label_ids_M for i in range(rows.num_rows)]


def scored_by(teacher: Any, rows: pa.Table) -> pa.Table:
    """Rows with targets, as a service would give them."""
    encoded = [
        encode(logits, labels, None, SPEC)
        for logits, labels in zip(logits_of(teacher, rows), labels_of(rows), strict=True)
    ]
    columns = to_columns(encoded, SPEC)
    return pa.table([*rows.columns, *columns.values()], names=[*rows.column_names, *columns])


def bucket_kl(teacher: torch.Tensor, student: torch.Tensor, k: int) -> torch.Tensor:
    """[m] nats over the teacher's k likeliest ids and one bucket for the rest, in float64."""
    p, q = teacher.softmax(1), student.softmax(1)
    ids = p.topk(k, 1).indices
    p, q = p.gather(1, ids), q.gather(1, ids)
    p, q = (torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) for x in (p, q))
    return (p * (p / q).log()).sum(1)
