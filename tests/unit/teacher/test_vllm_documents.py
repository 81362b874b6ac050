"""Rows taken apart into documents."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from raykd import schema
from raykd.teacher.vllm_documents import documents_in, kept_in_rows

PackedRows = Callable[..., pa.Table]

ROWS = pa.table(
    {
        # Two documents, then padding; nothing to learn; one that begins the row at no position 0.
        "input_ids": [[5, 6, 7, 8, 9, 10, 0, 0], [11, 12], [13, 14, 15]],
        "position_ids": [[0, 1, 2, 0, 1, 2, 0, 0], [0, 1], [4, 5, 6]],
        "loss_mask": [[1, 1, 0, 1, 0, 0, 0, 0], [0, 0], [0, 1, 0]],
    },
    schema=schema.PREPARED,
)


def test_documents_are_split_where_positions_begin_and_cut_after_the_last_label() -> None:
    found = [(d.row, d.start, d.token_ids, d.wanted.tolist()) for d in documents_in(ROWS)]
    assert found == [
        (0, 0, [5, 6, 7], [0, 1]),
        (0, 3, [8, 9], [0]),
        (2, 0, [13, 14, 15], [1]),
    ]


def test_labels_are_the_tokens_that_follow() -> None:
    assert [d.labels.tolist() for d in documents_in(ROWS)] == [[6, 7], [9], [15]]


def test_kept_tokens_are_counted_by_row() -> None:
    assert kept_in_rows(documents_in(ROWS), 3) == [3, 0, 1]


def test_together_they_hold_each_learned_token_once(packed_rows: PackedRows) -> None:
    rows = packed_rows([[9, 1, 30], [4], [17, 2], [1, 1]], seed=5)
    places = []
    for document in documents_in(rows):
        assert (
            0
            not in rows.column("position_ids")[document.row].as_py()[
                document.start + 1 : document.start + len(document.token_ids)
            ]
        )
        places += [(document.row, document.start + int(at)) for at in document.wanted]
    learned = [
        (row, at)
        for row, mask in enumerate(rows.column("loss_mask").to_pylist())
        for at, flag in enumerate(mask)
        if flag
    ]
    assert places == learned


def test_slices_of_a_table_are_taken_apart_too() -> None:
    assert [d.token_ids for d in documents_in(ROWS.slice(2, 1))] == [[13, 14, 15]]
