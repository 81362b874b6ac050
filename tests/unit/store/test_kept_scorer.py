"""Rows come from the store where they are there, and from the teacher where not, in order."""

import asyncio
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_cases import (
    documents,
    entry_paths,
    filled,
    open_store,
    packed,
    rows_of,
    section_of,
    shuffled,
    teach,
)
from test_pieces import SILENT, A, B

from raykd import schema
from raykd.errors import StoreError
from raykd.soft_targets.codec import CodecSpec
from raykd.store import scoring
from raykd.store.scoring import KeptScorer, close_all, opened
from tests.codec_specs import SAMPLED, TOP_K


@dataclass
class Teacher:
    """Answers as the service does, and remembers what it was asked."""

    spec: CodecSpec = TOP_K
    asked: list[pa.Table] = field(default_factory=list)

    async def __call__(self, rows: pa.Table) -> pa.Table:
        self.asked.append(rows)
        seconds = pa.array(np.full(rows.num_rows, 0.5, np.float32))
        return teach(rows, self.spec).append_column(schema.TEACHER_S, seconds)


async def refuse(rows: pa.Table) -> pa.Table:
    raise AssertionError("the teacher was asked")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def numbered(rows: pa.Table, first: int = 40) -> pa.Table:
    numbers = pa.array(np.arange(first, first + rows.num_rows))
    sources = pa.array(np.arange(rows.num_rows) + 7)
    return rows.add_column(0, "row", numbers).add_column(1, "source_row", sources)


def scorer(location: Path, teacher: object, write: bool = True, spec: CodecSpec = TOP_K):
    return KeptScorer(str(location), section_of(spec), teacher, write)  # type: ignore[arg-type]


def score(kept: KeptScorer, rows: pa.Table) -> pa.Table:
    return asyncio.run(kept(rows))


def test_the_first_time_the_whole_table_is_asked_for_unchanged(tmp_path: Path) -> None:
    teacher, rows = Teacher(), numbered(packed(documents(10)))
    answer = score(scorer(tmp_path, teacher), rows)
    assert len(teacher.asked) == 1
    assert teacher.asked[0] is rows
    assert answer.drop_columns("teacher_s").equals(teach(rows, TOP_K))
    assert answer.column("teacher_s").to_pylist() == [0.5] * rows.num_rows


@pytest.mark.parametrize("spec", [TOP_K, SAMPLED])
def test_the_second_time_nobody_is_asked(spec: CodecSpec, tmp_path: Path) -> None:
    corpus = documents(20)
    kept = scorer(tmp_path, Teacher(spec), spec=spec)
    score(kept, numbered(packed(corpus)))
    close_all()
    rows = numbered(packed(shuffled(corpus, 3), "pad"))
    for ask in (refuse, None):
        answer = score(replace(kept, ask=ask, write=False), rows)
        assert answer.schema.equals(pa.schema([*teach(rows, spec).schema, schema.TEACHER_S]))
        assert answer.drop_columns("teacher_s").equals(teach(rows, spec))
        assert answer.column("teacher_s").to_pylist() == [0.0] * rows.num_rows


def test_only_what_is_not_there_is_asked_for_and_all_comes_in_order(tmp_path: Path) -> None:
    filled(tmp_path, TOP_K, rows_of([[A], [([1], [1])]]))
    rows = numbered(rows_of([[B], [A], [SILENT], [A, B], [([1], [1])]]))
    teacher = Teacher()
    kept = scorer(tmp_path, teacher)
    answer = score(kept, rows)
    assert [asked.column("row").to_pylist() for asked in teacher.asked] == [[40, 43]]
    assert answer.drop_columns("teacher_s").combine_chunks().equals(teach(rows, TOP_K))
    assert answer.column("teacher_s").to_pylist() == [0.5, 0.0, 0.0, 0.5, 0.0]
    tally = opened(kept).tally
    assert (tally.hit_rows, tally.hit_tokens) == (2, 2)
    assert (tally.missed_rows, tally.missed_tokens) == (2, 3 + 4)
    opened(kept).flush()
    assert opened(kept).holds(rows).all()


def test_fillers_need_nothing(tmp_path: Path) -> None:
    rows = rows_of([[SILENT], [SILENT, SILENT]], padding=2)
    answer = score(scorer(tmp_path, refuse), rows)
    assert answer.drop_columns("teacher_s").equals(teach(rows, TOP_K))


def test_without_a_teacher_what_is_missing_is_named(tmp_path: Path) -> None:
    filled(tmp_path, TOP_K, rows_of([[A]]))
    rows = numbered(rows_of([[A], *([[B]] * 9), [A]]))
    with pytest.raises(
        StoreError,
        match=r"9 of 11 rows .*: row 41 \(prepared row 8\), .*row 48 "
        r"\(prepared row 15\), \.\.\..*Other sections there: none.*store_mode: use",
    ):
        score(scorer(tmp_path, None, write=False), rows)
    with pytest.raises(StoreError, match=r"1 of 1 rows .*: a row without.*sections there: none"):
        score(scorer(tmp_path / "empty", None, write=False), rows_of([[A]]))


def test_what_others_hold_says_what_differs(tmp_path: Path) -> None:
    filled(tmp_path, TOP_K, rows_of([[A]]))
    wanted = section_of(TOP_K)
    for other, told in [
        (replace(wanted, teacher="b"), r"\(another teacher: a teacher, wanted b\)\. Set"),
        (replace(wanted, tokenizer="b"), r"\(another tokenizer: a tokenizer, wanted b\)\. Set"),
        (
            section_of(replace(TOP_K, top_k=2)),
            r"\(another codec: top_k, .*top_k 3.*, wanted top_k, .*top_k 2.*\)\. Set",
        ),
        (section_of(replace(TOP_K, fingerprint="b")), r"\(another version of the codec or of"),
    ]:
        kept = KeptScorer(str(tmp_path), other, None, write=False)
        with pytest.raises(StoreError, match=rf"sections there: {wanted.name} {told}"):
            score(kept, rows_of([[A]]))


def test_a_scorer_that_does_not_write_leaves_nothing(tmp_path: Path) -> None:
    score(scorer(tmp_path, Teacher(), write=False), rows_of([[A]]))
    close_all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("pause_s", "asked"), [(0.0, 0), (3600.0, 1)])
def test_what_other_processes_published_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause_s: float, asked: int
) -> None:
    monkeypatch.setattr(scoring, "REFRESH_SECONDS", pause_s)
    teacher = Teacher()
    kept = scorer(tmp_path, teacher)
    opened(kept)
    filled(tmp_path, TOP_K, rows_of([[A]]))
    score(kept, rows_of([[A]]))
    assert len(teacher.asked) == asked


def test_without_a_teacher_the_store_is_looked_at_once_more(tmp_path: Path) -> None:
    kept = scorer(tmp_path, None, write=False)
    opened(kept)
    filled(tmp_path, TOP_K, rows_of([[A]]))
    assert score(kept, rows_of([[A]])).num_rows == 1


def test_calls_at_once_each_get_their_own(tmp_path: Path) -> None:
    corpus = documents(40)
    tables = [packed(shuffled(corpus, seed)) for seed in range(6)]
    kept = replace(scorer(tmp_path, Teacher()), shard_bytes=3000)

    async def all_at_once() -> list[pa.Table]:
        return await asyncio.gather(*(kept(rows) for rows in tables))

    for _ in range(2):
        for rows, answer in zip(tables, asyncio.run(all_at_once()), strict=True):
            targets = answer.drop_columns("teacher_s").combine_chunks()
            assert targets.equals(teach(rows, TOP_K))
    close_all()
    stored = open_store(tmp_path, TOP_K, write=False)
    assert all(stored.holds(rows).all() for rows in tables)


def test_a_store_is_opened_once_a_process(tmp_path: Path) -> None:
    kept = scorer(tmp_path, None)
    assert opened(kept) is opened(pickle.loads(pickle.dumps(kept)))
    assert opened(kept) is opened(replace(kept, section=section_of(replace(TOP_K, seed=4))))
    assert opened(kept) is not opened(replace(kept, write=False))
    first = opened(kept)
    close_all()
    assert opened(kept) is not first


def test_closing_publishes_and_a_failure_does_not_keep_others_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = scorer(tmp_path / "good", Teacher()), scorer(tmp_path / "bad", Teacher())
    for kept in (bad, good):
        score(kept, rows_of([[A]]))

    def fail() -> None:
        raise StoreError("made to fail")

    monkeypatch.setattr(opened(bad), "close", fail)
    with pytest.raises(StoreError, match="made to fail"):
        close_all()
    assert scoring._stores == {}
    assert len(entry_paths(tmp_path / "good")) == 1


def test_an_epoch_that_comes_round_before_its_shard_was_due_asks_nobody(tmp_path: Path) -> None:
    found = documents(20)
    teacher = Teacher()
    scorer = KeptScorer(str(tmp_path), section_of(TOP_K), teacher, write=True)
    asyncio.run(scorer(packed(found)))
    assert entry_paths(tmp_path) == []
    rows = packed(shuffled(found, 3))
    again = asyncio.run(scorer(rows))
    assert len(teacher.asked) == 1
    assert len(entry_paths(tmp_path)) == 1
    assert again.drop_columns(schema.TEACHER_S.name).equals(teach(rows, TOP_K))


def test_new_rows_do_not_hurry_those_that_wait(tmp_path: Path) -> None:
    scorer = KeptScorer(str(tmp_path), section_of(TOP_K), Teacher(), write=True)
    asyncio.run(scorer(numbered(packed(documents(10)))))
    asyncio.run(scorer(numbered(packed(documents(10, seed=5)))))
    assert entry_paths(tmp_path) == []
    scorer.flush()
    assert len(entry_paths(tmp_path)) == 1
