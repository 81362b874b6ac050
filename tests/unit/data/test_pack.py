from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.data.pack import OPEN_ROWS, PackedRow, Packer, default_buckets_tokens
from raykd.data.tokenize import TokenizedDocument
from raykd.errors import CorpusError

PAD = 9


def document(ids: list[int], learn: list[int] | None = None, index: int = 0) -> TokenizedDocument:
    return TokenizedDocument(
        index,
        f"corpus.jsonl:{index + 1}",
        np.array(ids, dtype=np.int32),
        np.array([1] * len(ids) if learn is None else learn, dtype=np.uint8),
    )


def pack(packer: Packer, documents: list[TokenizedDocument]) -> list[PackedRow]:
    rows = [row for each in documents for row in packer.add(each)] + packer.flush()
    for row in rows:
        packer.stats.count_row(row)
    return rows


def test_documents_stay_apart_in_a_row() -> None:
    documents = [document([11, 12, 13]), document([21, 22], [0, 1]), document([31, 32])]
    (row,) = pack(Packer(9, pad_id=PAD), documents)
    assert row.input_ids.tolist() == [11, 12, 13, 21, 22, 31, 32, PAD, PAD]
    assert row.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 0]
    # 13 must not learn 21, 22 must not learn 31, and nothing learns padding.
    assert row.loss_mask.tolist() == [1, 1, 0, 1, 0, 1, 0, 0, 0]
    assert (row.input_ids.dtype, row.position_ids.dtype, row.loss_mask.dtype) == (
        np.int32,
        np.int32,
        np.uint8,
    )


def test_only_learned_tokens_are_in_the_mask() -> None:
    (row,) = pack(Packer(8), [document([1, 2, 3, 4, 5], [0, 0, 0, 1, 1])])
    assert row.loss_mask.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_split_keeps_every_token_in_order() -> None:
    packer = Packer(8, pad_id=PAD)
    rows = pack(packer, [document(list(range(100, 120)))])
    assert [row.input_ids.tolist() for row in rows] == [
        list(range(100, 108)),
        list(range(108, 116)),
        [116, 117, 118, 119, PAD, PAD, PAD, PAD],
    ]
    assert all(row.position_ids[0] == 0 for row in rows)
    assert rows[1].position_ids.tolist() == list(range(8))
    stats = packer.stats
    assert (stats.documents_split, stats.tokens_at_seams, stats.tokens_cut) == (1, 2, 0)
    assert stats.tokens_learned == 20 - 3


def test_cut_keeps_the_start_and_counts_the_rest() -> None:
    packer = Packer(8, long_documents="cut")
    (row,) = pack(packer, [document(list(range(20)))])
    assert row.input_ids.tolist() == list(range(8))
    assert (packer.stats.tokens_cut, packer.stats.documents_split) == (12, 0)


def test_refuse_names_the_place_and_both_lengths() -> None:
    packer = Packer(8, long_documents="refuse")
    packer.add(document(list(range(8))))
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:5: 9 tokens.*sequence_length_tokens = 8"):
        packer.add(document(list(range(9)), index=4))


@pytest.mark.parametrize(
    ("ids", "learn"),
    [([], []), ([1], [1]), ([1, 2, 3], [0, 0, 0]), ([1, 2, 3], [1, 0, 0])],
)
def test_documents_with_nothing_to_learn_are_dropped(ids: list[int], learn: list[int]) -> None:
    packer = Packer(8)
    assert pack(packer, [document(ids, learn)]) == []
    assert packer.stats.documents == packer.stats.documents_dropped == 1
    assert packer.stats.tokens_dropped == len(ids)


def test_a_dropped_piece_of_a_kept_document_is_counted() -> None:
    packer = Packer(8)
    rows = pack(packer, [document(list(range(9)))])
    assert len(rows) == 1
    assert (packer.stats.tokens_dropped, packer.stats.documents_dropped) == (1, 0)


def test_the_best_fitting_open_row_is_filled_first() -> None:
    lengths = [5, 7, 3]  # 3 fits both 10 - 5 and 10 - 7; the second is left full
    packer = Packer(10, pad_id=PAD)
    rows = pack(packer, [document([i] * n) for i, n in enumerate(lengths)])
    assert [sorted(set(row.input_ids.tolist())) for row in rows] == [[1, 2], [0, PAD]]


def test_pad_has_one_document_a_row_in_the_smallest_bucket() -> None:
    packer = Packer(32, "pad", [8, 16, 32], pad_id=PAD)
    lengths = [2, 8, 9, 16, 17, 32, 33]
    rows = pack(packer, [document([5] * n) for n in lengths])
    assert [len(row.input_ids) for row in rows] == [8, 8, 16, 16, 32, 32, 32]
    assert rows[0].input_ids.tolist() == [5, 5] + [PAD] * 6
    assert rows[0].position_ids.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert rows[0].loss_mask.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert packer.stats.tokens_dropped == 1  # the last token of 33


@pytest.mark.parametrize(
    ("length", "buckets"),
    [(1024, [32, 64, 128, 256, 512, 1024]), (100, [50, 100]), (8, [8]), (63, [63])],
)
def test_default_buckets_are_halves_down_to_32(length: int, buckets: list[int]) -> None:
    assert default_buckets_tokens(length) == buckets


@st.composite
def corpora(draw: st.DrawFn) -> list[TokenizedDocument]:
    documents = []
    for index in range(draw(st.integers(0, 30))):
        learn = draw(st.lists(st.integers(0, 1), max_size=70))
        documents.append(document([index + 100] * len(learn), learn, index))
    return documents


@settings(deadline=None)
@given(corpora(), st.sampled_from(["pack", "pad"]), st.sampled_from(["split", "cut"]))
def test_the_stats_add_up(
    documents: list[TokenizedDocument], packing: str, long_documents: str
) -> None:
    packer = Packer(24, packing, [8, 24], long_documents, PAD)
    rows = pack(packer, documents)
    stats = packer.stats
    assert stats.documents == len(documents)
    assert stats.rows == len(rows)
    assert stats.tokens + stats.tokens_padded == sum(len(row.input_ids) for row in rows)
    assert stats.tokens_padded == sum(int((row.input_ids == PAD).sum()) for row in rows)
    assert stats.tokens_learned == sum(int(row.loss_mask.sum()) for row in rows)
    given_tokens = sum(len(each.input_ids) for each in documents)
    assert stats.tokens + stats.tokens_cut + stats.tokens_dropped == given_tokens


@settings(deadline=None)
@given(corpora())
def test_a_row_is_whole_documents_with_positions_from_zero(
    documents: list[TokenizedDocument],
) -> None:
    rows = pack(Packer(80, pad_id=PAD), documents)
    learn = {int(each.input_ids[0]): each.learn for each in documents if len(each.input_ids)}
    seen = []
    for row in rows:
        assert len(row.input_ids) == 80
        starts = np.flatnonzero(row.position_ids[: row.num_tokens] == 0)
        for a, b in zip(starts, [*starts[1:], row.num_tokens], strict=True):
            (identity,) = set(row.input_ids[a:b].tolist())
            seen.append(identity)
            assert row.position_ids[a:b].tolist() == list(range(b - a))
            assert row.loss_mask[a:b].tolist() == [*learn[identity][1:].tolist(), 0]
    assert sorted(seen) == sorted(i for i, flags in learn.items() if flags[1:].any())


def test_little_padding_is_left_and_few_rows_are_open() -> None:
    lengths = np.random.default_rng(1).integers(10, 256, 2000)
    packer = Packer(256)
    emitted = 0
    started = 0
    for index, n in enumerate(lengths.tolist()):
        finished = packer.add(document([1] * n, index=index))
        emitted += len(finished)
        started += n
        for row in finished:
            packer.stats.count_row(row)
        # What is open holds at most OPEN_ROWS rows' worth of tokens.
        assert started - packer.stats.tokens <= OPEN_ROWS * 256
    rows = packer.flush()
    for row in rows:
        packer.stats.count_row(row)
    assert len(rows) <= OPEN_ROWS
    stats = packer.stats
    assert stats.tokens_padded / (stats.tokens + stats.tokens_padded) < 0.05


def test_the_sentence_has_the_numbers() -> None:
    packer = Packer(8, pad_id=PAD)
    pack(packer, [document([1] * 12), document([1])])
    sentence = packer.stats.sentence()
    assert sentence.startswith("2 documents -> 2 rows of 8: 12 tokens kept (10 to learn)")
    assert "1 documents split, 0 tokens cut, 25.0 % padding" in sentence
    assert "1 tokens dropped" in sentence
