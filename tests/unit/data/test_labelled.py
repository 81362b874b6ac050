"""Texts with labels as rows: what is learned where, and what is known there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd.config.corpus import ColumnsConfig, CorpusConfig, DataConfig
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords
from raykd.data.gold import GoldOf, with_gold
from raykd.data.labelled import LabelledTokenizer, LabelSpec
from raykd.data.prepare import open_rows, prepare_set
from raykd.errors import CorpusError

Write = Callable[..., Path]
TOPICS = LabelSpec("single_label", ("wind", "stone"))


def corpus(path: Path, **columns: str) -> CorpusConfig:
    return CorpusConfig(source=str(path), columns=ColumnsConfig(text="text", **columns))


def rows_of(
    tokenizer: Any, found: CorpusConfig, spec: LabelSpec, length: int = 16, **data: Any
) -> list[Any]:
    settings = DataConfig(
        corpus=found,
        sequence_length_tokens=length,
        packing="pad",
        **{"long_documents": "cut", **data},
    )
    bad = BadRecords.of(found, "data.corpus", None)
    return list(LabelledTokenizer(tokenizer, spec, settings, bad)(read_documents(found, bad)))


def test_names_numbers_and_nothing(write_jsonl: Write, encoder_tokenizer: Any) -> None:
    path = write_jsonl(
        [
            {"text": "the wind", "topic": "wind"},
            {"text": "a stone", "topic": 1},
            {"text": "no light", "topic": None},
        ]
    )
    rows = rows_of(encoder_tokenizer, corpus(path, label="topic"), TOPICS)
    values = [row.gold[0, 0].item() for row in rows]
    assert values[:2] == [0.0, 1.0]
    assert math.isnan(values[2])
    for row in rows:
        assert row.input_ids[0] == encoder_tokenizer.cls_token_id
        assert row.input_ids[-1] == encoder_tokenizer.sep_token_id
        # Its first position is learned: the mask is that of the token behind it.
        assert row.learn.tolist() == [0, 1] + [0] * (len(row.input_ids) - 2)


def test_a_label_that_nobody_knows_stops_the_run(
    write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"text": "the wind", "topic": "wnid"}])
    with pytest.raises(CorpusError, match=r"corpus.jsonl:1: label 'wnid' is none of the 2 .*stone"):
        rows_of(encoder_tokenizer, corpus(path, label="topic"), TOPICS)
    path = write_jsonl([{"text": "the wind", "topic": 2}])
    with pytest.raises(CorpusError, match="label 2 is none of the 2"):
        rows_of(encoder_tokenizer, corpus(path, label="topic"), TOPICS)


def test_several_labels_and_numbers(write_jsonl: Write, encoder_tokenizer: Any) -> None:
    spec = LabelSpec("multi_label", ("wind", "stone", "light"))
    path = write_jsonl(
        [{"text": "the", "y": ["light", 0]}, {"text": "a", "y": []}, {"text": "no", "y": None}]
    )
    rows = rows_of(encoder_tokenizer, corpus(path, label="y"), spec)
    assert [row.gold.tolist() for row in rows[:2]] == [[[1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]
    assert np.isnan(rows[2].gold).all()
    path = write_jsonl([{"text": "the", "y": 2.5}, {"text": "a", "y": 3}])
    rows = rows_of(encoder_tokenizer, corpus(path, label="y"), LabelSpec("regression"))
    assert [row.gold.tolist() for row in rows] == [[[2.5]], [[3.0]]]
    path = write_jsonl([{"text": "the", "y": "2.5"}])
    with pytest.raises(CorpusError, match=r"must be a finite number; found '2.5'"):
        rows_of(encoder_tokenizer, corpus(path, label="y"), LabelSpec("regression"))


def test_each_word_is_learned_at_its_first_piece(
    write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    words = ["the", "teacher", "sees", "stone"]  # te-acher and st-one are pieces of words
    path = write_jsonl([{"text": words, "y": ["wind", "stone", None, 1]}])
    spec = LabelSpec("tokens", ("wind", "stone"))
    (row,) = rows_of(encoder_tokenizer, corpus(path, label="y"), spec)
    encoded = encoder_tokenizer(words, is_split_into_words=True)
    firsts = [encoded.word_ids().index(word) for word in range(4)]
    # `learn` marks the token behind a learned position.
    assert (np.flatnonzero(row.learn) - 1).tolist() == firsts
    assert len(row.input_ids) > 6, "some words are several pieces"
    np.testing.assert_array_equal(row.gold[:, 0], [0.0, 1.0, math.nan, 1.0])
    (row,) = rows_of(encoder_tokenizer, corpus(path, label="y"), spec, length=8)
    kept = encoder_tokenizer(words, is_split_into_words=True, truncation=True, max_length=8)
    assert len(row.gold) == len({word for word in kept.word_ids() if word is not None})
    path = write_jsonl([{"text": words, "y": ["wind"]}])
    with pytest.raises(CorpusError, match="4 words need as many labels in a list; found 1"):
        rows_of(encoder_tokenizer, corpus(path, label="y"), spec)


def test_pairs_are_one_row_or_two(write_jsonl: Write, encoder_tokenizer: Any) -> None:
    path = write_jsonl([{"text": "the wind", "other": "a stone", "y": 0}])
    found = corpus(path, text_pair="other", label="y")
    (row,) = rows_of(encoder_tokenizer, found, TOPICS)
    assert row.input_ids.tolist() == encoder_tokenizer("the wind", "a stone")["input_ids"]
    sides = rows_of(encoder_tokenizer, corpus(path, text_pair="other"), LabelSpec("embedding"))
    assert [row.input_ids.tolist() for row in sides] == [
        encoder_tokenizer(text)["input_ids"] for text in ("the wind", "a stone")
    ]
    assert [row.gold[0, :2].tolist() for row in sides] == [[0.0, 0.0], [0.0, 1.0]]
    assert all(math.isnan(row.gold[0, 2]) for row in sides)


def test_a_separator_in_the_text_of_a_pair_is_refused(
    write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"text": "the [SEP] wind", "other": "a stone", "y": 0}])
    with pytest.raises(CorpusError, match=r"holds the separator '\[SEP\]' as text"):
        rows_of(encoder_tokenizer, corpus(path, text_pair="other", label="y"), TOPICS)


def test_long_texts_keep_their_last_special_token(
    write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"text": "the wind moves over the stone and the river", "y": 0}])
    (row,) = rows_of(encoder_tokenizer, corpus(path, label="y"), TOPICS, length=8)
    assert len(row.input_ids) == 8
    assert row.input_ids[-1] == encoder_tokenizer.sep_token_id
    whole = encoder_tokenizer("the wind moves over the stone and the river")["input_ids"]
    assert row.tokens_cut == len(whole) - 8
    with pytest.raises(CorpusError, match=r"tokens, but a row holds data.sequence_length_tokens"):
        rows_of(
            encoder_tokenizer, corpus(path, label="y"), TOPICS, length=8, long_documents="refuse"
        )


def test_a_tokenizer_without_special_tokens_is_none_of_an_encoder(
    write_jsonl: Write, tiny_tokenizer: Any
) -> None:
    path = write_jsonl([{"text": "the", "y": 0}])
    with pytest.raises(CorpusError, match="puts no special tokens around a text"):
        rows_of(tiny_tokenizer, corpus(path, label="y"), TOPICS)


def test_folders_are_labels_and_paragraphs_are_pairs(
    tmp_path: Path, encoder_tokenizer: Any
) -> None:
    for topic, text in (("wind", "the wind\n\nmoves over\n\nno river"), ("stone", "a stone")):
        (tmp_path / topic).mkdir()
        (tmp_path / topic / "1.txt").write_text(text)
    found = CorpusConfig(source=str(tmp_path / "*" / "*.txt"), label_from_folder=True)
    rows = rows_of(encoder_tokenizer, found, TOPICS)
    assert [row.gold.item() for row in rows] == [1.0, 0.0]
    pairs = CorpusConfig(
        source=str(tmp_path / "wind" / "*.txt"), columns=ColumnsConfig(text="a", text_pair="b")
    )
    first, rest = rows_of(encoder_tokenizer, pairs, LabelSpec("embedding"))
    assert first.input_ids.tolist() == encoder_tokenizer("the wind")["input_ids"]
    assert rest.input_ids.tolist() == encoder_tokenizer("moves over no river")["input_ids"]
    alone = pairs.model_copy(update={"source": str(tmp_path / "stone" / "*.txt")})
    with pytest.raises(CorpusError, match="one paragraph only"):
        rows_of(encoder_tokenizer, alone, LabelSpec("embedding"))
    named = CorpusConfig(
        source=str(tmp_path / "wind" / "*.txt"), columns=ColumnsConfig(text="a", label="y")
    )
    with pytest.raises(CorpusError, match="has no column 'y'"):
        rows_of(encoder_tokenizer, named, TOPICS)


def test_gold_lies_beside_the_rows(
    tmp_path: Path, write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    records = [{"text": f"{'the ' * (1 + i % 3)}wind", "y": i % 2} for i in range(7)]
    found = corpus(write_jsonl(records), label="y")
    data = DataConfig(corpus=found, sequence_length_tokens=32, packing="pad", long_documents="cut")
    stats = prepare_set(found, data, encoder_tokenizer, tmp_path / "rows", labels=TOPICS)
    assert (stats.rows, stats.tokens_learned) == (7, 7)
    gold = GoldOf(tmp_path / "rows")
    assert gold(np.array([3, -1, 0, 4])).tolist() == [[1.0], [0.0], [0.0]]
    numbers = np.array([5, 2], dtype=np.int64)
    table = with_gold(open_rows(tmp_path / "rows").take(numbers), tmp_path / "rows", numbers)
    assert table.column("gold").to_pylist() == [[1.0], [0.0]]
    assert table.column("gold").type == pa.list_(pa.float32())


def test_gold_of_words_is_found_by_row(
    tmp_path: Path, write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    records = [{"text": ["the"] * n, "y": [n % 2] * n} for n in (1, 3, 2)]
    found = corpus(write_jsonl(records), label="y")
    data = DataConfig(corpus=found, sequence_length_tokens=32, packing="pad", long_documents="cut")
    spec = LabelSpec("tokens", ("even", "odd"))
    prepare_set(found, data, encoder_tokenizer, tmp_path / "rows", labels=spec)
    assert GoldOf(tmp_path / "rows")(np.array([2, 1])).tolist() == [[0.0]] * 2 + [[1.0]] * 3


def test_other_labels_are_other_rows(
    tmp_path: Path, write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    found = corpus(write_jsonl([{"text": "the wind", "y": 1}] * 2), label="y")
    data = DataConfig(corpus=found, sequence_length_tokens=32, packing="pad", long_documents="cut")
    for labels, value in ((TOPICS, 1.0), (LabelSpec("regression"), 1.0)):
        prepare_set(found, data, encoder_tokenizer, tmp_path / labels.task, labels=labels)
        assert GoldOf(tmp_path / labels.task)(np.array([0])).item() == value
