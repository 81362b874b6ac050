from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.config.corpus import ColumnsConfig, CorpusConfig
from raykd.data.corpus import find_files, read_documents
from raykd.data.documents import BadRecords, Chat, Document, PromptCompletion, RunningText
from raykd.errors import CorpusError


def corpus(source: Path | str | list[str], **fields: Any) -> CorpusConfig:
    source = str(source) if isinstance(source, Path) else source
    return CorpusConfig(source=source, **fields)


def read(config: CorpusConfig, side_file: Path | None = None) -> list[Document]:
    return list(read_documents(config, BadRecords.of(config, "data.corpus", side_file)))


def texts(config: CorpusConfig) -> list[str]:
    documents = read(config)
    assert [d.index for d in documents] == list(range(len(documents)))
    assert all(isinstance(d.content, RunningText) for d in documents)
    return [d.content.text for d in documents]


# What is read


def test_jsonl_with_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\n{"text": "zw\xc3\xb6lf", "n": 3}')
    documents = read(corpus(path))
    assert [d.content for d in documents] == [RunningText("one"), RunningText("zwölf")]
    assert [d.place for d in documents] == [f"{path}:1", f"{path}:3"]


def test_prompt_with_completion_and_messages(write_jsonl) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    path = write_jsonl([{"q": "2+2", "a": "4", "chat": messages}])
    pair = corpus(path, columns=ColumnsConfig(prompt="q", completion="a"))
    assert read(pair)[0].content == PromptCompletion("2+2", "4")
    chat = corpus(path, columns=ColumnsConfig(messages="chat"))
    assert read(chat)[0].content == Chat(messages)


def test_parquet_reads_only_the_chosen_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"row {i}" for i in range(600)]
    pq.write_table(pa.table({"n": list(range(600)), "body": rows}), path)
    documents = read(corpus(path, columns=ColumnsConfig(text="body")))
    assert [d.content.text for d in documents] == rows
    assert documents[599].place == f"{path}, row 600"


def test_parquet_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    pq.write_table(pa.table({"m": [messages]}), path)
    assert read(corpus(path, columns=ColumnsConfig(messages="m")))[0].content == Chat(messages)


@pytest.mark.parametrize(
    ("unit", "wanted", "lines"),
    [
        ("file", ["a\nb\n\n\nc\n"], [1]),
        ("paragraph", ["a\nb", "c"], [1, 5]),
        ("line", ["a", "b", "c"], [1, 2, 5]),
    ],
)
def test_plain_text_units(tmp_path: Path, unit: str, wanted: list[str], lines: list[int]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n\n\nc\n")
    documents = read(corpus(path, text_unit=unit))
    assert [d.content.text for d in documents] == wanted
    assert [d.place for d in documents] == [f"{path}:{line}" for line in lines]


def test_a_saved_dataset_and_a_saved_dict(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "n": [1, 2, 3]})
    rows.select([2, 0]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(
        train=rows, validation=datasets.Dataset.from_dict({"text": ["v"]})
    ).save_to_disk(tmp_path / "dict")
    assert texts(corpus(tmp_path / "one")) == ["c", "a"]
    assert texts(corpus(tmp_path / "dict")) == ["a", "b", "c"]
    assert texts(corpus(tmp_path / "dict", split="validation", format="datasets")) == ["v"]
    with pytest.raises(CorpusError, match="no split 'test'; it has train, validation"):
        read(corpus(tmp_path / "dict", split="test"))
    with pytest.raises(CorpusError, match="without splits"):
        read(corpus(tmp_path / "one", split="test"))


def test_hub_streams_through_datasets(tmp_path: Path, write_jsonl) -> None:
    """A local folder stands in for the hub: `datasets` reads both by the same call."""
    write_jsonl([{"text": "a"}, {"text": "b"}], "train.jsonl")
    documents = read(corpus(tmp_path, format="hub"))
    assert [d.content.text for d in documents] == ["a", "b"]
    assert documents[1].place == f"hub dataset {tmp_path}, row 2"
    with pytest.raises(CorpusError, match=r"split 'nope'.*cannot be read"):
        read(corpus(tmp_path, format="hub", split="nope"))


def test_python_literals_are_read_and_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "topics.py"
    path.write_text(
        f"open({str(mark)!r}, 'w')\n"
        "__all__ = ['topics']\n"
        "topics = {'a': 'first '\n"
        "          'topic',\n"
        "          'b': 'second'}\n"
        "more: list[str] = ['third']\n"
        "numbers = [1, 2]\n"
        "mixed = ['x', 1]\n"
        "computed = [str(1)]\n"
    )
    documents = read(corpus(path))
    assert [d.content.text for d in documents] == ["first topic", "second", "third"]
    assert [d.place for d in documents] == [f"{path}:{line}" for line in (3, 5, 6)]
    assert not mark.exists()


def test_a_file_that_a_package_carries() -> None:
    documents = read(corpus("package:pydoc_data/topics.py"))
    from pydoc_data.topics import topics

    assert [d.content.text for d in documents] == list(topics.values())


def test_globs_directories_and_lists(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.rst", ".hidden.txt", "d.bin"):
        (tmp_path / name).write_text(name)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "e.jsonl").write_text('{"text": "e"}\n')
    assert texts(corpus(tmp_path)) == ["a.txt", "b.txt", "c.rst", "e"]
    assert texts(corpus(tmp_path, format="text")) == ["a.txt", "b.txt", "c.rst"]
    assert texts(corpus(tmp_path / "*.txt")) == ["a.txt", "b.txt"]
    assert texts(corpus([str(tmp_path / "c.rst"), str(tmp_path / "a.txt")])) == ["c.rst", "a.txt"]
    assert texts(corpus(tmp_path / "d.bin", format="text")) == ["d.bin"]


def test_a_real_name_may_look_like_a_glob(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"
    path.write_text("x")
    assert [f.path for f in find_files(corpus(path))] == [path]


def test_max_documents_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nbroken\n')
    assert texts(corpus(path, max_documents=2)) == ["a", "b"]


# What is refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "b"', r"broken JSON at column 13"),
        (b"[", r"broken JSON.*one whole object a line"),
        (b'["b"]', r"one JSON object; found a list"),
        (b'{"txet": "b", "n": 1}', r"no column 'text' \(columns here: 'txet', 'n'\); did you mean"),
        (b'{"text": 3}', r"'text' must be text; found a whole number"),
        (b'{"text": null}', r"'text' must be text; found null"),
        (b'{"text": "\xff"}', r"not UTF-8: byte 0xff at byte 11 of the line"),
        (b'{"text": "\\ud800"}', r"'text' holds half of a surrogate pair at character 0"),
        (b'{"text": ' + b"[" * 100_000, r"broken JSON"),
    ],
)
def test_a_bad_jsonl_record_stops_with_file_and_line(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "c"}\n')
    with pytest.raises(CorpusError, match=message) as caught:
        read(corpus(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "data.corpus.on_bad_record" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "must be a list of messages .*; found text"),
        ([], "found an empty list"),
        (["hello"], "message 1, must be a mapping .*; found text"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], "message 2, has no 'content'"),
        ([{"content": "a"}], "message 1, has no 'role'"),
        ([{"role": "user", "content": 1}], r"'chat\[1\]\.content' must be text"),
    ],
)
def test_bad_messages(write_jsonl, value: Any, message: str) -> None:
    path = write_jsonl([{"chat": value}])
    with pytest.raises(CorpusError, match=message) as caught:
        read(corpus(path, columns=ColumnsConfig(messages="chat")))
    assert str(caught.value).startswith(f"{path}:1: ")


def test_skipped_records_are_counted_and_written_down(tmp_path: Path) -> None:
    path, side_file = tmp_path / "a.jsonl", tmp_path / "bad_records.jsonl"
    path.write_bytes(b'{"text": "a"}\n{broken\n{"text": "c"}\n{"text": "\xff"}\n{"n": 1}\n')
    config = corpus(path, on_bad_record="skip")
    bad_records = BadRecords.of(config, "evaluation.sets.news", side_file)
    documents = list(read_documents(config, bad_records))
    assert [(d.index, d.content.text) for d in documents] == [(0, "a"), (1, "c")]
    assert bad_records.count == 3
    lines = [json.loads(line) for line in side_file.read_text().splitlines()]
    assert [line["place"] for line in lines] == [f"{path}:{n}" for n in (2, 4, 5)]
    assert lines[0]["excerpt"] == "{broken"
    assert "not UTF-8" in lines[1]["reason"]
    assert {line["corpus"] for line in lines} == {"evaluation.sets.news"}
    bad_records.restart()
    assert (bad_records.count, side_file.read_text()) == (0, "")


def test_restart_keeps_what_others_wrote(tmp_path: Path) -> None:
    side_file = tmp_path / "bad.jsonl"
    BadRecords(skip=True, side_file=side_file).report("a:1", "broken", "x")
    before = side_file.read_text()
    second = BadRecords(skip=True, side_file=side_file)
    second.report("b:1", "broken", "y" * 10_000)
    assert len(side_file.read_text()) < 1_000
    second.restart()
    assert side_file.read_text() == before


@pytest.mark.parametrize(("unit", "line"), [("file", 3), ("paragraph", 3), ("line", 3)])
def test_text_that_is_not_utf8_names_the_line(tmp_path: Path, unit: str, line: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo\nth\xffree\n")
    message = r"not UTF-8: byte 0xff at byte 3 of the line"
    with pytest.raises(CorpusError, match=message) as caught:
        read(corpus(path, text_unit=unit))
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_parquet_complaints(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet"):
        read(corpus(path))
    pq.write_table(pa.table({"texts": ["a"]}), path)
    with pytest.raises(CorpusError, match=r"no column 'text' .*did you mean 'texts'"):
        read(corpus(path, on_bad_record="skip"))
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(CorpusError, match=r"a\.parquet, row 1: column 'text' must be text"):
        read(corpus(path))
    broken = pa.array([b"fine", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), path)
    with pytest.raises(CorpusError, match=r"a\.parquet, row 2: not UTF-8: byte 0xff"):
        read(corpus(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.jsonl", r"data\.corpus\.source: '.*none\.jsonl': no such file.*format: hub"),
        ("*.jsonl", r"data\.corpus\.source: '.*\*\.jsonl' matches no file"),
        ("a.bin", r"a\.bin: cannot tell the format from the ending '\.bin'.*data\.corpus\.format"),
        ("empty", r"the directory .*empty holds no file ending in \.jsonl"),
    ],
)
def test_sources_that_name_nothing(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "a.bin").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=message):
        read(corpus(tmp_path / source))


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_an_empty_corpus(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(CorpusError, match=r"data\.corpus\.source: .*holds no documents"):
        read(corpus(path))


def test_a_corpus_of_bad_records_only_says_so(write_jsonl, tmp_path: Path) -> None:
    path = write_jsonl([{"n": 1}, {"n": 2}])
    with pytest.raises(CorpusError, match=r"no documents \(2 bad records were skipped\)"):
        read(corpus(path, on_bad_record="skip"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "x = (\n", r"a\.py:1: not a Python file"),
        ("a.py", "x = 1\n", r"assigns no literal dict or list of strings"),
        ("a.py", "x = []\n", r"assigns no literal dict or list of strings"),
    ],
)
def test_python_complaints(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message):
        read(corpus(tmp_path / name))


def test_formats_without_columns_refuse_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"plain text has no columns 'q', 'a'"):
        read(corpus(tmp_path / "a.txt", columns=ColumnsConfig(prompt="q", completion="a")))


def test_hub_fields_without_hub(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for name in ("subset", "revision"):
        with pytest.raises(CorpusError, match=rf"data\.corpus\.{name}: only hub datasets"):
            read(corpus(tmp_path / "a.txt", **{name: "x"}))


def test_datasets_needs_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_text("x")
    with pytest.raises(CorpusError, match="reads a directory; this is a file"):
        read(corpus(tmp_path / "a.arrow", format="datasets"))
    with pytest.raises(CorpusError, match="cannot be read as a directory saved by `datasets`"):
        read(corpus(tmp_path, format="datasets"))
