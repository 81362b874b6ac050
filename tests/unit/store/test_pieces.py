"""Pieces of rows, their keys, and cutting targets into theirs."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import Piece, pieces_by_loop, rows_of, teach

from raykd.errors import SoftTargetError, StoreError
from raykd.store.piece_targets import join, split
from raykd.store.pieces import keys_to_bytes, pieces_of
from tests.codec_specs import SAMPLED, TOP_K

A: Piece = ([5, 6, 7], [1, 0, 0])
B: Piece = ([5, 6, 7, 8], [1, 1, 1, 0])
SILENT: Piece = ([9, 9], [0, 0])


def pieces_strategy() -> st.SearchStrategy[list[list[Piece]]]:
    """Few ids and short pieces, so that some come twice."""
    token = st.tuples(st.integers(0, 2), st.integers(0, 1))
    piece = st.lists(token, min_size=1, max_size=5).map(
        lambda tokens: ([i for i, _ in tokens], [m for _, m in tokens])
    )
    return st.lists(st.lists(piece, max_size=4), max_size=6)


@settings(max_examples=100, deadline=None)
@given(layout=pieces_strategy(), padding=st.integers(0, 3))
def test_pieces_are_those_that_a_loop_finds(layout: list[list[Piece]], padding: int) -> None:
    rows = rows_of(layout, padding)
    expected = [
        (row, ids, mask)
        for row, pieces in enumerate(pieces_by_loop(rows))
        for ids, mask in pieces
        if any(mask)
    ]
    found = pieces_of(rows)
    assert found.num_rows == len(layout)
    assert found.rows.tolist() == [row for row, _, _ in expected]
    assert found.tokens.tolist() == [sum(mask) for _, _, mask in expected]
    digests = [
        hashlib.blake2b(
            b"".join(i.to_bytes(4, "little") for i in ids) + bytes(mask), digest_size=16
        ).digest()
        for _, ids, mask in expected
    ]
    assert keys_to_bytes(found.keys) == b"".join(digests)


def test_a_key_does_not_see_the_row_around_it() -> None:
    alone, among = pieces_of(rows_of([[A]])), pieces_of(rows_of([[B, A], [SILENT, A]], padding=4))
    assert (among.keys[1] == alone.keys[0]).all()
    assert (among.keys[2] == alone.keys[0]).all()
    assert (among.keys[0] != alone.keys[0]).any()


def test_ids_and_mask_both_make_the_key() -> None:
    keys = pieces_of(rows_of([[A], [([5, 6, 7], [1, 1, 0])], [([5, 6, 8], [1, 0, 0])]])).keys
    assert len({tuple(key) for key in keys.tolist()}) == 3


def test_a_row_begins_a_piece_also_without_a_position_0() -> None:
    rows = pa.table(
        {"input_ids": [[1, 2], [3, 4]], "position_ids": [[0, 1], [7, 8]], "loss_mask": [[1, 0]] * 2}
    )
    assert pieces_of(rows).rows.tolist() == [0, 1]


@pytest.mark.parametrize("cut", [slice(1, 3), slice(2, 2), slice(0, 4)])
def test_slices_and_chunks_of_a_table_are_read_as_they_are(cut: slice) -> None:
    layout = [[A], [B, SILENT], [], [A, B]]
    whole = rows_of(layout)
    wanted = pieces_of(rows_of(layout[cut]))
    chunked = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    for table in (whole, chunked):
        found = pieces_of(table.slice(cut.start, cut.stop - cut.start))
        assert found.keys.tolist() == wanted.keys.tolist()
        assert found.rows.tolist() == wanted.rows.tolist()


def test_pieces_of_some_rows_are_the_pieces_of_a_table_of_them() -> None:
    rows = rows_of([[A], [B, A], [SILENT], [B]])
    some, direct = pieces_of(rows).of_rows(np.array([1, 2, 3])), pieces_of(rows.slice(1))
    assert some.keys.tolist() == direct.keys.tolist()
    assert some.rows.tolist() == direct.rows.tolist() == [0, 0, 2]
    assert some.num_rows == 3


@settings(max_examples=50, deadline=None)
@given(layout=pieces_strategy(), padding=st.integers(0, 2), spec=st.sampled_from([TOP_K, SAMPLED]))
def test_joined_again_is_what_was_split(layout: list[list[Piece]], padding: int, spec) -> None:
    rows = rows_of(layout, padding)
    targets, pieces = teach(rows, spec), pieces_of(rows)
    cut = split(pieces, targets, spec)
    assert cut.columns.num_rows == len(pieces.keys)
    assert join(pieces, cut.columns, spec).equals(targets)


def test_targets_of_other_rows_are_refused() -> None:
    rows = rows_of([[A], [B]])
    pieces = pieces_of(rows)
    with pytest.raises(
        StoreError, match=r"row 0 of the table: label_logprobs holds 3 .*asks for 1"
    ):
        split(pieces, teach(rows_of([[B], [A]]), TOP_K), TOP_K)
    with pytest.raises(StoreError, match="2 rows, but soft targets of 1"):
        split(pieces, teach(rows_of([[A]]), TOP_K), TOP_K)
    with pytest.raises(SoftTargetError, match="stamp"):
        split(pieces, teach(rows, TOP_K), SAMPLED)
    with pytest.raises(StoreError, match="nothing of the table was stored"):
        split(pieces, teach(rows_of([[A], [A]]), SAMPLED), SAMPLED)
