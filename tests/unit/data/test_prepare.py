from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letter_tokenizer import letter_tokenizer
from pydantic import ValidationError

from raykd.config.corpus import CorpusConfig, DataConfig
from raykd.config.job import Job
from raykd.data.pack import PackingStats
from raykd.data.prepare import HeldoutSplit, open_rows, prepare, prepare_set
from raykd.errors import CorpusError, StorageError

WORDS = "abcdefghijklmnopqrstuvwxyz"


def word(index: int) -> str:
    """A text that tells its document: letters only, different for each index below 676."""
    return (WORDS[index // 26] + WORDS[index % 26]) * 3


def job(source: Path, evaluation: dict[str, Any] | None = None, seed: int = 0, **data: Any) -> Job:
    corpus = {"source": str(source), **data.pop("corpus", {})}
    return Job.model_validate(
        {
            "name": "test",
            "storage_path": "runs",
            "seed": seed,
            "data": {"corpus": corpus, "sequence_length_tokens": 16, **data},
            "teacher": {"model": "teacher"},
            "student": {"init": {"start": "pretrained", "model": "student"}},
            "evaluation": evaluation or {},
        }
    )


def documents_in(directory: Path, tokenizer: Any) -> list[str]:
    """The texts of the documents in a set of rows, told apart by their positions."""
    rows = open_rows(directory)
    found = []
    for each in rows.take(np.arange(rows.num_rows)).to_pylist():
        text = ""
        for token, position in zip(each["input_ids"], each["position_ids"], strict=True):
            if position == 0:
                found.append(text)
                text = ""
            text += tokenizer.convert_ids_to_tokens(token)
        found.append(text)
    return sorted(t.removesuffix("<eos>") for t in found if t not in ("", "<pad>"))


@pytest.fixture
def corpus_file(write_jsonl) -> Path:
    return write_jsonl([{"text": word(i)} for i in range(200)])


def test_every_document_is_in_one_set(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    directory = tmp_path / "run" / "prepared"
    the_job = job(corpus_file, {"heldout_fraction": 0.2, "max_rows": 1000})
    stats = prepare(the_job, tokenizer, directory, tmp_path / "logs")
    train = documents_in(directory / "train", tokenizer)
    heldout = documents_in(directory / "heldout", tokenizer)
    assert sorted(train + heldout) == sorted(word(i) for i in range(200))
    # Binomial(200, 0.2): outside 15..68 has probability below 1e-5.
    assert 15 < len(heldout) < 68
    assert stats["train"].documents == len(train)
    assert stats["heldout"].documents == len(heldout)


@pytest.mark.parametrize("packing", ["pack", "pad"])
def test_the_stats_are_those_of_the_rows(
    corpus_file: Path, tokenizer, tmp_path: Path, packing: str
) -> None:
    the_job = job(corpus_file, packing=packing)
    stats = prepare(the_job, tokenizer, tmp_path / "prepared", tmp_path / "logs")
    for name in ("train", "heldout"):
        rows = open_rows(tmp_path / "prepared" / name)
        table = rows.take(np.arange(rows.num_rows))
        assert stats[name].rows == rows.num_rows > 0
        assert stats[name].tokens + stats[name].tokens_padded == rows.lengths.sum()
        masks = table["loss_mask"].to_pylist()
        assert stats[name].tokens_learned == sum(map(sum, masks))
        assert [len(mask) for mask in masks] == rows.lengths.tolist()


def test_held_out_is_decided_by_seed_and_document_only() -> None:
    split = HeldoutSplit(seed=3, fraction=0.1)
    members = {i for i in range(20_000) if split.holds_out(i)}
    assert members == {i for i in range(20_000) if HeldoutSplit(3, 0.1).holds_out(i)}
    # Binomial(20000, 0.1) has a standard deviation of 42.
    assert abs(len(members) - 2_000) < 5 * 42
    more = {i for i in range(20_000) if HeldoutSplit(3, 0.2).holds_out(i)}
    assert members < more
    other = {i for i in range(20_000) if HeldoutSplit(4, 0.1).holds_out(i)}
    assert len(members & other) < 300  # 200 by chance


def test_held_out_stays_as_the_corpus_grows(write_jsonl, tokenizer, tmp_path: Path) -> None:
    evaluation = {"heldout_fraction": 0.3, "max_rows": 1000}
    sets = []
    for size in (60, 200):
        path = write_jsonl([{"text": word(i)} for i in range(size)], f"{size}.jsonl")
        prepare(job(path, evaluation), tokenizer, tmp_path / str(size), tmp_path / "logs")
        sets.append(documents_in(tmp_path / str(size) / "heldout", tokenizer))
    first = {word(i) for i in range(60)}
    assert [text for text in sets[1] if text in first] == sets[0]


@pytest.mark.parametrize("fraction", [0.001, 0.999])
@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_small_corpus_has_both_sides(
    write_jsonl, tokenizer, tmp_path: Path, fraction: float, size: int, seed: int
) -> None:
    path = write_jsonl([{"text": word(i)} for i in range(size)])
    the_job = job(path, {"heldout_fraction": fraction, "max_rows": 1}, seed=seed, packing="pad")
    prepare(the_job, tokenizer, tmp_path / "prepared", tmp_path / "logs")
    train = documents_in(tmp_path / "prepared" / "train", tokenizer)
    heldout = documents_in(tmp_path / "prepared" / "heldout", tokenizer)
    # Whoever has to change sides is the document whose draw is nearest to the other side.
    score = HeldoutSplit(seed, fraction).score
    by_score = [word(i) for i in sorted(range(size), key=score)]
    if fraction < 0.5:
        assert (heldout, train) == (by_score[:1], sorted(by_score[1:]))
    else:
        assert (len(heldout), train) == (1, by_score[-1:])
        assert heldout[0] in by_score[:-1]


def test_a_side_with_useless_documents_only_gets_a_useful_one(
    write_jsonl, tokenizer, tmp_path: Path
) -> None:
    split = HeldoutSplit(0, 0.2)
    records = [{"text": "" if split.holds_out(i) else word(i)} for i in range(30)]
    assert {"text": ""} in records
    the_job = job(write_jsonl(records), {"heldout_fraction": 0.2})
    prepare(the_job, tokenizer, tmp_path / "prepared", tmp_path / "logs")
    train = documents_in(tmp_path / "prepared" / "train", tokenizer)
    heldout = documents_in(tmp_path / "prepared" / "heldout", tokenizer)
    assert len(heldout) == 1
    assert sorted(train + heldout) == sorted(r["text"] for r in records if r["text"])


def test_one_document_is_too_few(write_jsonl, tokenizer, tmp_path: Path) -> None:
    path = write_jsonl([{"text": word(1)}, {"text": ""}])
    with pytest.raises(CorpusError, match=r"data\.corpus: only one document.*more text"):
        prepare(job(path), tokenizer, tmp_path / "prepared", tmp_path / "logs")
    assert list(tmp_path.glob("*prepared*")) == []


def test_no_rows_at_all(write_jsonl, tokenizer, tmp_path: Path) -> None:
    path = write_jsonl([{"text": ""}, {"text": ""}])
    with pytest.raises(CorpusError, match=r"data\.corpus: its 2 documents make no row"):
        prepare(job(path), tokenizer, tmp_path / "prepared", tmp_path / "logs")


def test_max_rows_caps_evaluation_but_gives_nothing_to_training(
    corpus_file: Path, tokenizer, tmp_path: Path
) -> None:
    wide = {"heldout_fraction": 0.5, "max_rows": 1000}
    narrow = {**wide, "max_rows": 3, "sets": {"more": {"source": str(corpus_file)}}}
    logs = tmp_path / "logs"
    all_stats = prepare(job(corpus_file, wide), tokenizer, tmp_path / "wide", logs)
    stats = prepare(job(corpus_file, narrow), tokenizer, tmp_path / "narrow", logs)
    for name in ("heldout", "more"):
        assert stats[name].rows == open_rows(tmp_path / "narrow" / name).num_rows == 3
    assert stats["train"].tokens == all_stats["train"].tokens
    assert documents_in(tmp_path / "narrow" / "train", tokenizer) == documents_in(
        tmp_path / "wide" / "train", tokenizer
    )
    assert stats["heldout"].tokens + stats["heldout"].tokens_unused == all_stats["heldout"].tokens


def test_a_set_reads_no_further_than_it_needs(write_jsonl, tokenizer, tmp_path: Path) -> None:
    good = [{"text": WORDS[:15]}] * 1000
    path = write_jsonl([*good, {"broken": 1}])
    config = CorpusConfig(source=str(path))
    data = DataConfig(corpus=config, sequence_length_tokens=16)
    stats = prepare_set(config, data, tokenizer, tmp_path / "rows", max_rows=5)
    assert stats.rows == open_rows(tmp_path / "rows").num_rows == 5


def test_long_documents_are_refused_with_their_place(
    write_jsonl, tokenizer, tmp_path: Path
) -> None:
    path = write_jsonl([{"text": "ab"}, {"text": "a" * 16}])
    the_job = job(path, long_documents="refuse")
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:2: 17 tokens"):
        prepare(the_job, tokenizer, tmp_path / "prepared", tmp_path / "logs")


def test_bad_records_of_every_corpus_go_into_one_file(
    write_jsonl, tokenizer, tmp_path: Path
) -> None:
    good = [{"text": word(i)} for i in range(3)]
    path = write_jsonl([*good, {"n": 1}])
    other = write_jsonl([*good, {"n": 2}, {"n": 3}], "other.jsonl")
    skip = {"on_bad_record": "skip"}
    evaluation = {"sets": {"other": {"source": str(other), **skip}}}
    the_job = job(path, evaluation, corpus=skip)  # three documents at 5 %: a second pass is sure
    assert not any(HeldoutSplit(0, 0.05).holds_out(i) for i in range(3))
    logs = tmp_path / "logs"
    stats = prepare(the_job, tokenizer, tmp_path / "prepared", logs)
    lines = [json.loads(line) for line in (logs / "bad_records.jsonl").read_text().splitlines()]
    assert [(line["corpus"], line["place"]) for line in lines] == [
        ("data.corpus", f"{path}:4"),
        ("evaluation.sets.other", f"{other}:4"),
        ("evaluation.sets.other", f"{other}:5"),
    ]
    assert (stats["train"].bad_records, stats["other"].bad_records) == (1, 2)


def test_bad_records_of_a_set_stop_with_its_name(write_jsonl, tokenizer, tmp_path: Path) -> None:
    path = write_jsonl([{"text": word(i)} for i in range(9)])
    evaluation = {"sets": {"other": {"source": str(write_jsonl([{"n": 2}], "other.jsonl"))}}}
    with pytest.raises(CorpusError, match=r"evaluation\.sets\.other\.on_bad_record"):
        prepare(job(path, evaluation), tokenizer, tmp_path / "prepared", tmp_path / "logs")


@pytest.mark.parametrize("name", ["train", "heldout", "a/b"])
def test_a_set_of_a_taken_or_unfit_name_is_refused(corpus_file: Path, name: str) -> None:
    with pytest.raises(ValidationError, match="set name"):
        job(corpus_file, {"sets": {name: {"source": str(corpus_file)}}})


# Again


def mark(directory: Path) -> int:
    return (directory / "prepared.json").stat().st_ino


def test_an_equal_job_reuses_the_rows(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    directory, logs = tmp_path / "prepared", tmp_path / "logs"
    stats = prepare(job(corpus_file), tokenizer, directory, logs)
    before = mark(directory)
    assert prepare(job(corpus_file, shuffle=False), letter_tokenizer(), directory, logs) == stats
    assert mark(directory) == before
    assert isinstance(stats["train"], PackingStats)


@pytest.mark.parametrize(
    "change",
    ["seed", "length", "fraction", "file", "eos", "tokenizer", "chat template", "new set"],
)
def test_anything_that_rows_depend_on_prepares_anew(
    corpus_file: Path, tokenizer, tmp_path: Path, change: str
) -> None:
    directory, logs = tmp_path / "prepared", tmp_path / "logs"
    prepare(job(corpus_file), tokenizer, directory, logs)
    before = mark(directory)
    again = {
        "seed": lambda: job(corpus_file, seed=1),
        "length": lambda: job(corpus_file, sequence_length_tokens=24),
        "fraction": lambda: job(corpus_file, {"heldout_fraction": 0.1}),
        "eos": lambda: job(corpus_file, append_eos=False),
        "new set": lambda: job(corpus_file, {"sets": {"a": {"source": str(corpus_file)}}}),
    }.get(change, lambda: job(corpus_file))()
    if change == "file":
        os.utime(corpus_file, (1, 1))
    if change == "tokenizer":
        tokenizer.add_tokens(["aa"])
    if change == "chat template":
        tokenizer.chat_template = "x"
    prepare(again, tokenizer, directory, logs)
    assert mark(directory) != before
    assert sorted(p.name for p in tmp_path.iterdir() if "prepared" in p.name) == ["prepared"]


def test_a_failure_leaves_what_was_there(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    directory, logs = tmp_path / "prepared", tmp_path / "logs"
    prepare(job(corpus_file), tokenizer, directory, logs)
    before = mark(directory)
    with corpus_file.open("a") as file:
        file.write("broken\n")
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:201: broken JSON"):
        prepare(job(corpus_file), tokenizer, directory, logs)
    assert mark(directory) == before
    assert open_rows(directory / "train").num_rows > 0
    assert [p.name for p in tmp_path.iterdir() if "prepared" in p.name] == ["prepared"]


def test_something_else_is_not_touched(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    directory = tmp_path / "prepared"
    directory.mkdir()
    (directory / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"holds something that is not prepared rows"):
        prepare(job(corpus_file), tokenizer, directory, tmp_path / "logs")
    assert (directory / "thesis.txt").read_text() == "years of work"


def test_storage_that_cannot_be_written(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("x")
    with pytest.raises(StorageError, match=r"cannot be"):
        prepare(job(corpus_file), tokenizer, blocked / "prepared", tmp_path / "logs")
    with pytest.raises(StorageError, match=r"bad_records\.jsonl: cannot be written"):
        prepare(job(corpus_file), tokenizer, tmp_path / "prepared", blocked / "logs")


def test_preparing_is_the_same_every_time(corpus_file: Path, tokenizer, tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        prepare(job(corpus_file), tokenizer, tmp_path / name, tmp_path / "logs")
        rows = open_rows(tmp_path / name / "train")
        tables.append(rows.take(np.arange(rows.num_rows)))
    assert tables[0].equals(tables[1])


def peak_bytes() -> int:
    """The process's peak of resident memory since the last reset."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_corpus(tokenizer, tmp_path: Path) -> None:
    """80 MB of rows are written; the peak must rise by far less."""
    config = CorpusConfig(source=str(tmp_path / "long.txt"), text_unit="line")
    data = DataConfig(corpus=config, sequence_length_tokens=512)
    line = WORDS * 40 + "\n"
    (tmp_path / "long.txt").write_text(line * 300)
    prepare_set(config, data, tokenizer, tmp_path / "warm")
    (tmp_path / "long.txt").write_text(line * 8_500)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_bytes()
    stats = prepare_set(config, data, tokenizer, tmp_path / "rows")
    assert stats.tokens * 9 > 75e6
    assert peak_bytes() - before < 40e6
