"""Rows taken apart, against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd import schema
from raykd.evaluation.pieces import joined, pieces_of


def as_lists(pieces: Any) -> list[list[int]]:
    return [pieces.ids_N[pieces.piece_N == i].tolist() for i in range(pieces.num_pieces)]


def padded() -> pa.Table:
    """Two documents and three tokens of padding; one prompt of two tokens, its answer of three."""
    return pa.table(
        {
            "input_ids": [[7, 8, 9, 5, 6, 0, 0, 0], [1, 2, 3, 4, 5]],
            "position_ids": [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 2, 3, 4]],
            "loss_mask": [[1, 1, 0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0]],
        },
        schema=schema.PREPARED,
    )


def test_padding_is_no_piece() -> None:
    pieces = pieces_of(padded())
    assert as_lists(pieces) == [[7, 8, 9], [5, 6], [1, 2, 3, 4, 5]]
    assert pieces.row_P.tolist() == [0, 0, 1]
    assert pieces.lengths.tolist() == [3, 2, 5]


def test_prompts_are_what_is_not_learned() -> None:
    # Of running text only the first token is read without being learned: no prompt at all.
    pieces = pieces_of(padded(), prompts=True)
    assert as_lists(pieces) == [[1, 2]]
    assert pieces.row_P.tolist() == [1]


def test_packed_rows(packed_rows: Callable[..., pa.Table]) -> None:
    rows = packed_rows([[9, 5], [12], [3, 7]])
    expected = []
    for row in rows.to_pylist():
        for token, position in zip(row["input_ids"], row["position_ids"], strict=True):
            if position == 0:
                expected.append([])
            expected[-1].append(token)
    assert as_lists(pieces_of(rows)) == expected


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_stay_within_a_piece(packed_rows: Callable[..., pa.Table], n: int) -> None:
    pieces = pieces_of(packed_rows([[9, 2], [4]]))
    keys, piece = pieces.ngrams(n, 400)
    expected = [
        (sum(t * 400 ** (n - 1 - i) for i, t in enumerate(ids[at : at + n])), number)
        for number, ids in enumerate(as_lists(pieces))
        for at in range(len(ids) - n + 1)
    ]
    assert list(zip(keys.tolist(), piece.tolist(), strict=True)) == expected


def test_some_pieces_and_joined_ones() -> None:
    pieces = pieces_of(padded())
    some = pieces.take(np.array([2, 0]))
    assert as_lists(some) == [[7, 8, 9], [1, 2, 3, 4, 5]]
    both = joined([some, pieces])
    assert as_lists(both) == as_lists(some) + as_lists(pieces)
    assert both.row_P.tolist() == [0, 1, 0, 0, 1]
