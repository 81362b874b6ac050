"""Rows of slices with teachers of their own: never two teachers in one row, each row's noted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letter_tokenizer import letter_tokenizer

from raykd.config.job import Job
from raykd.data.fingerprint import corpus_facts, job_facts
from raykd.data.heldout import HeldoutSplit
from raykd.data.of_slices import FILE, SliceTeachers, teachers_of
from raykd.data.prepare import open_rows, prepare
from raykd.errors import CorpusError, StorageError

KINDS = {"c": "code", "q": "sql", "l": "law", "r": "prose"}
"""The letter that a slice's documents are made of; none of them is in a special token."""
OF_SLICES = {"code": {"model": "of-code"}, "sql": {"model": "of-code"}, "law": {"model": "of-law"}}
NUMBERS = {"c": 1, "q": 1, "l": 2, "r": 0}
Write = Callable[..., Path]


def records(num: int = 160) -> list[dict[str, Any]]:
    letters = list(KINDS)
    return [
        {"text": letters[i * 7 % 4] * (3 + i % 5), "kind": KINDS[letters[i * 7 % 4]]}
        for i in range(num)
    ]


def job(source: Path, of_slices: dict[str, Any] | None = None, **changes: Any) -> Job:
    columns = {"text": "text"} | ({} if of_slices == {} else {"slice": "kind"})
    return Job.model_validate(
        {
            "name": "test",
            "storage_path": "runs",
            "data": {
                "corpus": {"source": str(source), "columns": columns, **changes.pop("corpus", {})},
                "sequence_length_tokens": 16,
                **changes.pop("data", {}),
            },
            "teacher": {
                "model": "first",
                "of_slices": OF_SLICES if of_slices is None else of_slices,
            },
            "student": {"init": {"start": "pretrained", "model": "student"}},
            "evaluation": {"heldout_fraction": 0.2, "max_rows": 1000, **changes},
        }
    )


def letters_of(directory: Path) -> list[set[str]]:
    """Of each row, the letters in it."""
    tokenizer, rows = letter_tokenizer(), open_rows(directory)
    table = rows.take(np.arange(rows.num_rows))
    return [
        set("".join(tokenizer.convert_ids_to_tokens(ids))) & set(KINDS)
        for ids in table.column("input_ids").to_pylist()
    ]


@pytest.fixture
def corpus(write_jsonl: Write) -> Path:
    return write_jsonl(records())


@pytest.mark.parametrize("packing", ["pack", "pad"])
def test_no_row_has_two_teachers_and_each_has_its_own(
    packing: str, corpus: Path, tokenizer: Any, tmp_path: Path
) -> None:
    at = tmp_path / "data"
    stats = prepare(job(corpus, data={"packing": packing}), tokenizer, at, tmp_path / "logs")
    shared = 0
    for name in ("train", "heldout"):
        found = letters_of(at / name)
        numbers = teachers_of(at / name, np.arange(len(found)))
        assert [{NUMBERS[letter] for letter in row} for row in found] == [{n} for n in numbers]
        counts = np.bincount(numbers, minlength=3).tolist()
        assert stats[name].rows_taught == {
            "others (first)": counts[0],
            "code + sql (of-code)": counts[1],
            "law (of-law)": counts[2],
        }
        assert "code + sql (of-code)" in stats[name].sentence()
        shared += sum(row == {"c", "q"} for row in found)
    assert bool(shared) == (packing == "pack"), "slices of one teacher share rows"


def test_every_document_is_in_one_set_once(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    at = tmp_path / "data"
    prepare(job(corpus), tokenizer, at, tmp_path / "logs")
    found = ""
    for name in ("train", "heldout"):
        rows = open_rows(at / name)
        for ids in rows.take(np.arange(rows.num_rows)).column("input_ids").to_pylist():
            found += "".join(tokenizer.convert_ids_to_tokens(ids))
    texts = [one["text"] for one in records()]
    assert [found.count(letter) for letter in KINDS] == [
        sum(text.count(letter) for text in texts) for letter in KINDS
    ]


def digests(directory: Path) -> dict[str, str]:
    files = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.name != "prepared.json"]
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def test_the_same_rows_each_time(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    for name in "ab":
        prepare(job(corpus), tokenizer, tmp_path / name, tmp_path / "logs")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    other_order = dict(reversed(OF_SLICES.items()))
    prepare(job(corpus, other_order), tokenizer, tmp_path / "c", tmp_path / "logs")
    assert digests(tmp_path / "a") == digests(tmp_path / "c")


def test_who_is_held_out_does_not_depend_on_slices(
    corpus: Path, tokenizer: Any, tmp_path: Path
) -> None:
    stats = prepare(job(corpus), tokenizer, tmp_path / "a", tmp_path / "logs")
    split = HeldoutSplit(0, 0.2)
    assert stats["heldout"].documents == sum(split.holds_out(i) for i in range(len(records())))


def test_without_slices_nothing_is_other_than_before(
    corpus: Path, tokenizer: Any, tmp_path: Path
) -> None:
    plain = job(corpus, {})
    # What a job's fingerprint was made of before there were slices.
    facts = json.dumps([job_facts(plain), corpus_facts(plain.data.corpus, "field")])
    assert '"slice"' not in facts
    assert "of_slices" not in facts
    stats = prepare(plain, tokenizer, tmp_path / "a", tmp_path / "logs")
    assert not list((tmp_path / "a").rglob(FILE))
    assert "rows_taught" not in stats["train"].as_dict()
    assert "teacher" not in stats["train"].sentence()


def test_other_slices_are_other_rows(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    at, logs = tmp_path / "a", tmp_path / "logs"
    prepare(job(corpus), tokenizer, at, logs)
    before = digests(at)
    prepare(job(corpus, {"law": {"model": "of-law"}}), tokenizer, at, logs)
    assert digests(at) != before
    with pytest.raises(StorageError, match="has changed since this run began"):
        prepare(job(corpus), tokenizer, at, logs, must_exist=True)


def test_a_slice_that_no_document_is_of(corpus: Path, tokenizer: Any, tmp_path: Path) -> None:
    misspelt = job(corpus, {"cobe": {"model": "of-code"}})
    with pytest.raises(CorpusError, match=r"^teacher\.of_slices\.cobe: no document of") as caught:
        prepare(misspelt, tokenizer, tmp_path / "a", tmp_path / "logs")
    for name in KINDS.values():
        assert f"{name!r} (40)" in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_many_slices_are_not_all_named() -> None:
    from collections import Counter

    teachers = SliceTeachers({"no": 1}, ("others (a)", "no (b)"))
    found = Counter({f"s{i}": 100 - i for i in range(50)})
    with pytest.raises(CorpusError, match=r"'s0' \(100\).*'s19' \(81\) and 30 more") as caught:
        teachers.require_all(found, "data.corpus")
    assert "'s20'" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, ["code"]])
def test_a_slice_must_be_text(
    value: Any, write_jsonl: Write, tokenizer: Any, tmp_path: Path
) -> None:
    bad = write_jsonl([*records(20), {"text": "rrr", "kind": value}])
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:21: column 'kind' must be text"):
        prepare(job(bad), tokenizer, tmp_path / "a", tmp_path / "logs")
    skipped = job(bad, corpus={"on_bad_record": "skip"})
    stats = prepare(skipped, tokenizer, tmp_path / "a", tmp_path / "logs")
    assert stats["train"].bad_records == 1


def test_a_record_without_its_slice(write_jsonl: Write, tokenizer: Any, tmp_path: Path) -> None:
    bad = write_jsonl([*records(20), {"text": "rrr"}])
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:21: no column 'kind'"):
        prepare(job(bad), tokenizer, tmp_path / "a", tmp_path / "logs")


def test_plain_text_names_no_slices(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("rrr")
    with pytest.raises(CorpusError, match="has no column 'kind' to name slices"):
        prepare(job(tmp_path / "a.txt"), tokenizer, tmp_path / "a", tmp_path / "logs")


def test_a_set_that_names_no_slices_is_the_first_teachers(
    corpus: Path, tokenizer: Any, tmp_path: Path
) -> None:
    more = {"sets": {"more": {"source": str(corpus)}}}
    prepare(job(corpus, **more), tokenizer, tmp_path / "a", tmp_path / "logs")
    numbers = teachers_of(tmp_path / "a/more", np.arange(open_rows(tmp_path / "a/more").num_rows))
    assert len(numbers) > 0
    assert not numbers.any()


def test_a_limit_of_rows_leaves_each_teacher_some(
    write_jsonl: Write, tokenizer: Any, tmp_path: Path
) -> None:
    # Of a length that leaves every row open to the end.
    texts = [{"text": letter * 12, "kind": KINDS[letter]} for letter in "rrrrcccclll"]
    source, first = write_jsonl(texts), write_jsonl(records(), "first.jsonl")
    columns = {"text": "text", "slice": "kind"}
    limited = {"sets": {"few": {"source": str(source), "columns": columns}}, "max_rows": 4}
    prepare(job(first, **limited), tokenizer, tmp_path / "a", tmp_path / "logs")
    assert teachers_of(tmp_path / "a/few", np.arange(4)).tolist() == [0, 1, 2, 0]


def test_a_filler_goes_with_the_first_row(tmp_path: Path) -> None:
    np.save(tmp_path / FILE, np.array([2, 0, 1], np.int16))
    assert teachers_of(tmp_path, np.array([-1, 2, 0, -1])).tolist() == [1, 1, 2, 1]
    assert teachers_of(tmp_path, np.array([-1, -1])).tolist() == [0, 0]


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="who teaches its rows cannot be read"):
        teachers_of(tmp_path / "nowhere", np.array([0]))
