"""Inner states and soft targets of rows: what is kept is read, the rest is asked for once."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd import schema
from raykd.errors import StoreError
from raykd.pipeline.kept import Kept, count_lacking
from raykd.pipeline.with_states import Teachers, WithStates
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import LEARNED, STATE_STAMP, documents_of, wire_schema
from raykd.store.scoring import close_all

FULL = CodecSpec("full", 3, values="fp32", fingerprint="t")
STATES = CodecSpec("states", 3, hidden_size=2, state_layers=(1,), fingerprint="t")
COLUMNS = pa.schema([*target_schema(FULL), *wire_schema(STATES), schema.TEACHER_S])


def targets_of(rows: pa.Table) -> dict[str, Any]:
    """Made of the ids of learned tokens, so that each row's own can be told."""
    learned = [
        [i for i, flag in zip(ids, mask, strict=True) if flag]
        for ids, mask in zip(
            rows.column("input_ids").to_pylist(), rows.column("loss_mask").to_pylist(), strict=True
        )
    ]
    return {
        STAMP: pa.array(np.full(rows.num_rows, FULL.stamp, np.uint32)),
        "label_logprobs": learned,
        "target_logprobs": [np.repeat(ids, 3) for ids in learned],
    }


def states_of(rows: pa.Table) -> dict[str, Any]:
    """Made of the ids of all tokens of documents."""
    mask, at, states = documents_of(rows).mask, 0, []
    for ids in rows.column("input_ids").to_pylist():
        kept = [i for i, flag in zip(ids, mask[at : at + len(ids)], strict=True) if flag]
        states.append(np.repeat(kept, 2))
        at += len(ids)
    return {
        STATE_STAMP: pa.array(np.full(rows.num_rows, STATES.stamp, np.uint32)),
        "state_hidden_1": states,
    }


@dataclass
class Teacher:
    """Answers one kind of question, and remembers how many rows it was asked for."""

    kinds: tuple[str, ...]
    asked: list[int] = field(default_factory=list)

    async def __call__(self, rows: pa.Table) -> pa.Table:
        assert LEARNED not in rows.column_names, "the teacher gets rows as they are"
        self.asked.append(rows.num_rows)
        columns = targets_of(rows) if "targets" in self.kinds else {}
        columns |= states_of(rows) if "states" in self.kinds else {}
        columns["teacher_s"] = np.full(rows.num_rows, 0.5, np.float32)
        return pa.table(columns, schema=pa.schema([COLUMNS.field(name) for name in columns]))


@dataclass
class Asked:
    both: Teacher = field(default_factory=lambda: Teacher(("targets", "states")))
    states: Teacher = field(default_factory=lambda: Teacher(("states",)))
    targets: Teacher = field(default_factory=lambda: Teacher(("targets",)))

    @property
    def rows(self) -> tuple[int, int, int]:
        return sum(self.both.asked), sum(self.states.asked), sum(self.targets.asked)

    @property
    def teachers(self) -> Teachers:
        return Teachers(self.both, self.states, self.targets)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def rows(packed_rows: Callable[..., pa.Table]) -> pa.Table:
    return packed_rows([[5, 7], [12], [3, 3, 9], [1, 1], [8]], seed=4, learned=0.4)


def scorer(location: Path | None, ask: Teachers, codec: CodecSpec | None = FULL) -> WithStates:
    if location is None:
        return WithStates(codec, STATES, ask)
    kept = Kept(str(location), "use", "t", "tokens")
    targets = kept.scorer(codec, ask.targets) if codec else None
    return WithStates(codec, STATES, ask, kept.scorer(STATES, ask.states), targets)


def answer_of(one: WithStates, rows: pa.Table) -> pa.Table:
    return asyncio.run(one(rows))


def assert_right(answer: pa.Table, rows: pa.Table, seconds: float) -> None:
    assert answer.schema.equals(COLUMNS)
    expected = {**targets_of(rows), **states_of(rows)}
    whole = pa.table({**expected, "teacher_s": np.full(rows.num_rows, seconds)}, schema=COLUMNS)
    for name in COLUMNS.names:
        assert answer.column(name).to_pylist() == whole.column(name).to_pylist(), name


def test_the_first_time_one_request_gives_both(tmp_path: Path, rows: pa.Table) -> None:
    asked = Asked()
    assert_right(answer_of(scorer(tmp_path, asked.teachers), rows), rows, 0.5)
    assert asked.rows == (5, 0, 0)
    close_all()
    again = Asked()
    assert_right(answer_of(scorer(tmp_path, again.teachers), rows), rows, 0.0)
    assert again.rows == (0, 0, 0)


def test_in_other_rows_too(tmp_path: Path, rows: pa.Table) -> None:
    answer_of(scorer(tmp_path, Asked().teachers), rows)
    close_all()
    others = rows.take([4, 2, 0])
    asked = Asked()
    assert_right(answer_of(scorer(tmp_path, asked.teachers), others), others, 0.0)
    assert asked.rows == (0, 0, 0)


def test_soft_targets_of_another_run_are_read(tmp_path: Path, rows: pa.Table) -> None:
    before = Kept(str(tmp_path), "use", "t", "tokens").scorer(FULL, Asked().targets)
    asyncio.run(before(rows))
    close_all()
    asked = Asked()
    assert_right(answer_of(scorer(tmp_path, asked.teachers), rows), rows, 0.5)
    assert asked.rows == (0, 5, 0), "states alone"


def test_states_of_another_run_are_read(tmp_path: Path, rows: pa.Table) -> None:
    answer_of(scorer(tmp_path, Asked().teachers, codec=None), rows)
    close_all()
    asked = Asked()
    assert_right(answer_of(scorer(tmp_path, asked.teachers), rows), rows, 0.5)
    assert asked.rows == (0, 0, 5), "soft targets alone"


def test_where_some_rows_are_kept(tmp_path: Path, rows: pa.Table) -> None:
    some = rows.take([1, 2])
    answer_of(scorer(tmp_path, Asked().teachers), some)
    close_all()
    asked = Asked()
    answer = answer_of(scorer(tmp_path, asked.teachers), rows)
    silent = [sum(mask) == 0 for mask in rows.column("loss_mask").to_pylist()]
    assert asked.rows == (3 - sum(silent), 0, 0), "in one request"
    assert answer.drop_columns("teacher_s").equals(
        answer_of(scorer(None, Asked().teachers), rows).drop_columns("teacher_s")
    )


def test_where_the_two_lack_different_rows(tmp_path: Path, rows: pa.Table) -> None:
    answer_of(scorer(tmp_path, Asked().teachers, codec=None), rows.take([0, 1]))
    close_all()
    asked = Asked()
    answer = answer_of(scorer(tmp_path, asked.teachers), rows)
    assert answer.drop_columns("teacher_s").equals(
        answer_of(scorer(None, Asked().teachers), rows).drop_columns("teacher_s")
    )
    both, states, targets = asked.rows
    assert 0 < both <= 3
    assert (states, targets) == (0, 5)


def test_states_alone(tmp_path: Path, rows: pa.Table) -> None:
    asked = Asked()
    answer = answer_of(scorer(tmp_path, asked.teachers, codec=None), rows)
    assert answer.schema.equals(pa.schema([*wire_schema(STATES), schema.TEACHER_S]))
    assert asked.rows == (0, 5, 0)


def test_without_a_store(rows: pa.Table) -> None:
    asked = Asked()
    assert_right(answer_of(scorer(None, asked.teachers), rows), rows, 0.5)
    assert asked.rows == (5, 0, 0)


def test_without_a_teacher(tmp_path: Path, rows: pa.Table) -> None:
    nobody = Teachers(None, None, None)
    with pytest.raises(StoreError, match="rows have no soft targets in section states-"):
        answer_of(scorer(tmp_path, nobody), rows)
    close_all()
    answer_of(scorer(tmp_path, Asked().teachers), rows)
    close_all()
    assert_right(answer_of(scorer(tmp_path, nobody), rows), rows, 0.0)


def test_it_travels(tmp_path: Path) -> None:
    one = scorer(tmp_path, Teachers(None, None, None))
    assert pickle.loads(pickle.dumps(one)) == one
    assert len(one.stores) == 2
    assert scorer(None, Teachers(None, None, None)).stores == ()


def test_rows_that_lack_states_are_counted(
    tmp_path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.pipeline import kept as kept_module

    @dataclass
    class Rows:
        table: pa.Table

        @property
        def num_rows(self) -> int:
            return self.table.num_rows

        def take(self, wanted: Any) -> pa.Table:
            return self.table.take(pa.array(wanted))

    monkeypatch.setattr(kept_module, "open_rows", lambda directory: Rows(rows))
    kept = Kept(str(tmp_path), "use", "t", "tokens")
    silent = sum(sum(mask) == 0 for mask in rows.column("loss_mask").to_pylist())
    assert count_lacking(kept, STATES, tmp_path).rows == 5 - silent
    answer_of(scorer(tmp_path, Asked().teachers), rows.slice(0, 3))
    close_all()
    lacking = count_lacking(kept, STATES, tmp_path).rows
    assert 0 < lacking <= 2
    other = replace(STATES, state_layers=(0,))
    assert count_lacking(kept, other, tmp_path).rows == 5 - silent
