"""Rows of a classifier, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.evaluation.classify import MeasuredRows
from raykd.models.encoder import EncoderSpec

LABELS = ("wind", "stone", "light")


def table_of(rows: Sequence[tuple[Sequence[int], Sequence[int]]], longest: int = 12) -> pa.Table:
    """Rows of (ids, places of learned positions), padded."""
    padding = [longest - len(ids) for ids, _ in rows]
    masks = [[int(at in learned) for at in range(longest)] for _, learned in rows]
    positions = [
        [*range(len(ids)), *[0] * num] for (ids, _), num in zip(rows, padding, strict=True)
    ]
    return pa.table(
        {
            "input_ids": pa.array(
                [[*ids, *[0] * num] for (ids, _), num in zip(rows, padding, strict=True)],
                pa.list_(pa.int32()),
            ),
            "position_ids": pa.array(positions, pa.list_(pa.int32())),
            "loss_mask": pa.array(masks, pa.list_(pa.uint8())),
        }
    )


def texts_of(num: int) -> pa.Table:
    """Texts with a learned position each, of 5 tokens and more."""
    return table_of([([1, *range(10, 13 + row % 4), 2], [0]) for row in range(num)])


def measured(
    task: Any, table: pa.Table, teacher: Any = None, gold: Any = None, labels: Any = LABELS
) -> MeasuredRows:
    """A set, with what is known of it."""
    spec = EncoderSpec(task, labels, 2)
    known = None if gold is None else np.asarray(gold, dtype=np.float64)
    return MeasuredRows(table, spec, teacher, known)
