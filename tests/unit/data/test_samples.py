"""A sample for `raykd eval`: a document a row, and where each comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.config.corpus import CorpusConfig, DataConfig
from raykd.data.gold import GoldOf, with_gold
from raykd.data.labelled import LabelSpec
from raykd.data.rows import open_rows
from raykd.data.samples import Origins, prepare_sample, read_origins
from raykd.errors import CorpusError


def corpus(source: Path | list[Path], **fields: Any) -> CorpusConfig:
    sources = [str(s) for s in source] if isinstance(source, list) else str(source)
    return CorpusConfig.model_validate({"source": sources, **fields})


def data(source: Path, **fields: Any) -> DataConfig:
    return DataConfig.model_validate(
        {"corpus": {"source": str(source)}, "sequence_length_tokens": 8, **fields}
    )


def texts(directory: Path, tokenizer: Any) -> list[str]:
    rows = open_rows(directory)
    taken = rows.take(np.arange(rows.num_rows))
    return [
        "".join(tokenizer.convert_ids_to_tokens(row)).replace("<pad>", "").replace("<eos>", ".")
        for row in taken.column("input_ids").to_pylist()
    ]


def test_each_row_has_its_origin(
    tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    (tmp_path / "x").mkdir()
    one = write_jsonl(
        [
            {"text": "abc", "kind": "news", "n": 3},
            {"text": ""},
            {"text": "defghijklmnop", "kind": None, "n": 4},
        ],
        "x/one.jsonl",
    )
    two = write_jsonl([{"text": "qr", "kind": "chat", "n": 5}], "two.jsonl")
    target = tmp_path / "rows"
    source = corpus([one, two])
    stats = prepare_sample(source, data(one), tokenizer, target, 100, ["kind", "n"])
    assert stats.rows == 4
    assert texts(target, tokenizer) == ["abc.", "defghijk", "lmnop.", "qr."]
    origins = read_origins(target)
    assert origins.places == [f"{one}:1", f"{one}:3", f"{one}:3", f"{two}:1"]
    assert origins.files == ["x/one.jsonl", "x/one.jsonl", "x/one.jsonl", "two.jsonl"]
    assert origins.slices == {
        "kind": ["news", "(none)", "(none)", "chat"],
        "n": ["3", "4", "4", "5"],
    }
    again = prepare_sample(source, data(one), tokenizer, target, 100, ["kind", "n"])
    assert again == stats


def test_another_slice_is_another_sample(
    tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    file = write_jsonl([{"text": "abc", "kind": "news"}])
    prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 5, [])
    assert read_origins(tmp_path / "rows").slices == {}
    prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 5, ["kind"])
    assert read_origins(tmp_path / "rows").slices == {"kind": ["news"]}


def test_reading_ends_at_the_limit(
    tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    file = write_jsonl([{"text": "abcdefghijklmn"}, {"text": "abc"}, {"text": "def"}])
    stats = prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 3, [])
    assert stats.rows == 3
    assert texts(tmp_path / "rows", tokenizer) == ["abcdefgh", "ijklmn.", "abc."]
    one = prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "one", 1, [])
    assert (one.rows, one.tokens_unused) == (1, 7)


def test_parquet_slices(tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["abc", "def"], "region": ["eu", "us"]}), file)
    source = corpus(file, columns={"text": "text"})
    prepare_sample(source, data(file), tokenizer, tmp_path / "rows", 5, ["region"])
    assert read_origins(tmp_path / "rows").slices == {"region": ["eu", "us"]}
    with pytest.raises(CorpusError, match=r"no column 'regoin'.*did you mean 'region'"):
        prepare_sample(source, data(file), tokenizer, tmp_path / "no", 5, ["regoin"])
    assert not (tmp_path / "no").exists()


def test_no_such_column(tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any) -> None:
    file = write_jsonl([{"text": "abc", "kind": "news"}])
    with pytest.raises(CorpusError, match=r"--slice knd: no column 'knd'.*did you mean 'kind'"):
        prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 5, ["knd"])


def test_plain_text_has_no_columns(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "a.txt"
    file.write_text("abc")
    with pytest.raises(CorpusError, match=r"--slice kind: .* is text and has no columns"):
        prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 5, ["kind"])


def test_nothing_to_measure(
    tmp_path: Path, write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    file = write_jsonl([{"text": ""}])
    with pytest.raises(CorpusError, match="--data: its 1 documents make no row"):
        prepare_sample(corpus(file), data(file), tokenizer, tmp_path / "rows", 5, [])


def test_files_of_one_directory_go_by_their_names() -> None:
    places = ["/a/b/one.parquet, row 3", "/a/b/two.txt:1"]
    assert Origins(places, {}).files == ["one.parquet", "two.txt"]
    assert Origins(["hub dataset x/y, row 3"], {}).files == ["y"]


def test_a_classifiers_texts_keep_their_gold_labels(
    tmp_path: Path, write_jsonl: Callable[..., Path], encoder_tokenizer: Any
) -> None:
    file = write_jsonl(
        [
            {"text": "the wind", "other": "a river", "y": "stone", "kind": "a"},
            {"text": "", "other": "", "y": "wind", "kind": "b"},
            {"text": "no light", "other": "slow", "y": None, "kind": "c"},
        ]
    )
    settings = data(file, packing="pad", long_documents="cut", sequence_length_tokens=16)
    source = corpus(file, columns={"text": "text", "label": "y"})
    spec = LabelSpec("single_label", ("wind", "stone"))
    target = tmp_path / "rows"
    prepare_sample(source, settings, encoder_tokenizer, target, 9, ["kind"], spec)
    # An empty text is no row: gold labels, places and slices go on with the next one.
    rows = np.arange(2)
    table = with_gold(open_rows(target).take(rows), target, rows)
    assert [row[0] for row in table.column("gold").to_pylist()] == [
        1.0,
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert read_origins(target).slices == {"kind": ["a", "c"]}
    assert [place[-2:] for place in read_origins(target).places] == [":1", ":3"]
    pairs = corpus(file, columns={"text": "text", "text_pair": "other"})
    other = tmp_path / "pairs"
    prepare_sample(pairs, settings, encoder_tokenizer, other, 9, ["kind"], LabelSpec("embedding"))
    assert read_origins(other).slices == {"kind": ["a", "a", "c", "c"]}
    sides = GoldOf(other)(np.arange(4))[:, :2].tolist()
    assert sides == [[0, 0], [0, 1], [2, 0], [2, 1]]
