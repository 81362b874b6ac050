from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
import torch

from raykd import schema
from raykd.models.batch import Batch, collate, flat


def table(rows: list[tuple[list[int], list[int], list[int]]]) -> pa.Table:
    ids, positions, masks = (list(column) for column in zip(*rows, strict=True))
    return pa.table(
        {"input_ids": ids, "position_ids": positions, "loss_mask": masks}, schema=schema.PREPARED
    )


ROWS = [
    ([10, 11, 12, 20, 21], [0, 1, 2, 0, 1], [1, 1, 0, 1, 0]),
    ([30, 31], [0, 1], [0, 0]),
    ([40, 41, 42], [0, 1, 2], [0, 1, 0]),
]


def assert_is_rows(batch: Batch) -> None:
    assert batch.input_ids_BT.tolist() == [
        [10, 11, 12, 20, 21],
        [30, 31, 0, 0, 0],
        [40, 41, 42, 0, 0],
    ]
    assert batch.position_ids_BT.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 0, 0], [0, 1, 2, 0, 0]]
    # row 0 learns at 0, 1 and 3; row 1 nothing; row 2 at 1, which is 2 * 5 + 1 of all
    assert batch.keep_M.tolist() == [0, 1, 3, 11]
    assert batch.label_ids_M.tolist() == [11, 12, 21, 42]
    for tensor in (batch.input_ids_BT, batch.position_ids_BT, batch.keep_M, batch.label_ids_M):
        assert tensor.dtype == torch.int64


def test_rows_of_different_length() -> None:
    assert_is_rows(collate(table(ROWS)))


def test_a_part_of_a_longer_table() -> None:
    """Arrow's slices keep the offsets of the whole."""
    before = ([1, 2, 3, 4, 5, 6, 7], list(range(7)), [1] * 6 + [0])
    whole = table([before, *ROWS, before])
    assert_is_rows(collate(whole.slice(1, 3)))


def test_a_table_of_several_chunks() -> None:
    assert_is_rows(collate(pa.concat_tables([table(ROWS[:1]), table(ROWS[1:])])))


def test_rows_with_nothing_to_learn() -> None:
    batch = collate(table([([5, 6], [0, 1], [0, 0]), ([7], [0], [0])]))
    assert batch.input_ids_BT.tolist() == [[5, 6], [7, 0]]
    assert batch.keep_M.tolist() == []
    assert batch.label_ids_M.tolist() == []


def test_a_row_of_no_tokens() -> None:
    """A filler that completes the last step."""
    batch = collate(table([([], [], []), ([7, 8], [0, 1], [1, 0])]))
    assert batch.input_ids_BT.tolist() == [[0, 0], [7, 8]]
    assert batch.keep_M.tolist() == [2]
    assert batch.label_ids_M.tolist() == [8]


def test_only_rows_of_no_tokens() -> None:
    batch = collate(table([([], [], []), ([], [], [])]))
    assert batch.input_ids_BT.shape == (2, 1)
    assert batch.keep_M.shape == batch.label_ids_M.shape == (0,)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_flat_gives_values_and_offsets_from_zero(start: int) -> None:
    values, offsets = flat(table(ROWS).slice(start), "input_ids")
    rows = [values[a:b].tolist() for a, b in pairwise(offsets)]
    assert rows == [ids for ids, _, _ in ROWS[start:]]
    assert offsets[0] == 0
    assert offsets[-1] == len(values)


def test_flat_of_no_rows() -> None:
    values, offsets = flat(table(ROWS).slice(0, 0), "input_ids")
    assert len(values) == 0
    assert offsets.tolist() == [0]


def test_a_batch_moves_as_a_whole() -> None:
    moved = collate(table(ROWS)).to(torch.device("meta"))
    assert {t.device.type for t in vars(moved).values()} == {"meta"}
