"""Rows asked of the teacher of their slice: each gets its own, in place, from its own section."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd import schema
from raykd.data.of_slices import save_teachers
from raykd.data.order import RowOrder
from raykd.data.pack import PackedRow
from raykd.data.rows import RowWriter
from raykd.errors import SoftTargetError, StoreError
from raykd.models.load import ModelSource
from raykd.models.of_slices import OfSlices
from raykd.pipeline import by_slice, kept, stages
from raykd.pipeline.by_slice import BySlice, OfTeacher
from raykd.pipeline.kept import Kept
from raykd.pipeline.metered import Delivered
from raykd.pipeline.mixture import slices_identity
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import CodecSpec
from raykd.store.scoring import close_all

TEACHERS = [0, 1, 1, 2, 0, 2, 1]
IDENTITIES = ["first", "code", "law"]


@dataclass
class Model:
    """Says of each row its learned ids plus its own number, and remembers whom it was asked of."""

    number: int
    spec: CodecSpec
    asked: list[list[int]] = field(default_factory=list)

    async def __call__(self, rows: pa.Table) -> pa.Table:
        await asyncio.sleep(0.001 * (3 - self.number))
        self.asked.append(rows.column("source_row").to_pylist())
        return answer_of(rows, [self.number] * rows.num_rows, self.spec)


def answer_of(rows: pa.Table, numbers: list[int], spec: CodecSpec) -> pa.Table:
    learned = [
        [i for i, flag in zip(ids, mask, strict=True) if flag]
        for ids, mask in zip(
            rows.column("input_ids").to_pylist(), rows.column("loss_mask").to_pylist(), strict=True
        )
    ]
    said = [[float(i + 1000 * n) for i in ids] for ids, n in zip(learned, numbers, strict=True)]
    return pa.table(
        {
            STAMP: pa.array(np.full(rows.num_rows, spec.stamp, np.uint32)),
            "label_logprobs": pa.array(said, pa.list_(pa.float32())),
            "target_logprobs": pa.array(
                [np.repeat(one, 3) for one in said], pa.list_(pa.float32())
            ),
            "teacher_s": pa.array(np.full(rows.num_rows, 0.5, np.float32)),
        }
    )


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def run(make_job: Callable[..., Any]) -> tuple[Any, Any]:
    """A job and its models: a first teacher and two of slices."""
    others = tuple(OfSlices((name,), ModelSource(name), name) for name in IDENTITIES[1:])
    models = SimpleNamespace(
        teacher_identity="first", tokenizer_identity="tokens", of_slices=others
    )
    return make_job({"soft_targets.store_mode": "use"}), models


SPEC = CodecSpec("full", 3, values="fp32", fingerprint="of the run")


@pytest.fixture
def rows(packed_rows: Callable[..., pa.Table]) -> pa.Table:
    return packed_rows([[5, 7], [12], [3, 3, 6], [4, 8], [12], [2, 9], [10, 2]], seed=4)


@pytest.fixture
def prepared(rows: pa.Table, tmp_path: Path) -> Path:
    """The rows on disk, with who teaches each."""
    writer = RowWriter(tmp_path / "train", 0, by_teacher=True)
    for row, teacher in zip(rows.to_pylist(), TEACHERS, strict=True):
        ids = np.array(row["input_ids"], np.int32)
        places = np.array(row["position_ids"], np.int32)
        mask = np.array(row["loss_mask"], np.uint8)
        writer.add(PackedRow(ids, places, mask, len(ids)), teacher)
    writer.close()
    return tmp_path / "train"


def taken(rows: pa.Table, numbers: list[int]) -> pa.Table:
    chosen = rows.take(pa.array(numbers))
    return chosen.append_column("source_row", pa.array(numbers, pa.int64()))


def ask_of(models: dict[int, Model]) -> Callable[[CodecSpec, int], Any]:
    def ask(spec: CodecSpec, which: int) -> Model:
        return models.setdefault(which, Model(which, spec))

    return ask


@pytest.mark.parametrize(
    "numbers", [[0, 1, 2, 3, 4, 5, 6], [6, 3, 0, 5, 1], [1, 2, 6], [4], [2, 4]]
)
@pytest.mark.parametrize("stored", [False, True])
def test_each_row_has_its_own_teachers_answer_in_its_place(
    numbers: list[int], stored: bool, run: Any, rows: pa.Table, prepared: Path
) -> None:
    job, models = run
    asked: dict[int, Model] = {}
    store = Kept.of(job, models) if stored else None
    score = by_slice.scoring(job, models, store, SPEC, prepared, ask_of(asked))
    assert isinstance(score, BySlice)
    table = taken(rows, numbers)
    answer = asyncio.run(score(table))
    expected = answer_of(table, [TEACHERS[n] for n in numbers], SPEC)
    assert answer.combine_chunks().cast(expected.schema).equals(expected)
    for number, model in asked.items():
        assert model.asked in ([], [[n for n in numbers if TEACHERS[n] == number]])
        assert model.spec.fingerprint == f"{IDENTITIES[number]}:fp32"


def test_what_one_kept_its_own_run_reads_and_no_other(
    run: Any, rows: pa.Table, prepared: Path
) -> None:
    job, models = run
    store = Kept.of(job, models)
    assert store is not None
    score = by_slice.scoring(job, models, store, SPEC, prepared, ask_of({}))
    assert isinstance(score, BySlice)
    table = taken(rows, list(range(7)))
    first = asyncio.run(score(table))
    score.flush()
    close_all()
    # Nobody runs any more: all is read.
    again = by_slice.scoring(job, models, store, SPEC, prepared, lambda *_: None)
    assert isinstance(again, BySlice)
    read = asyncio.run(again(table))
    assert read.drop_columns("teacher_s").equals(first.drop_columns("teacher_s"))
    assert again.stores[1].section.teacher == "code:fp32"
    # A run with one of them alone.
    for number, identity in enumerate(IDENTITIES):
        alone = SimpleNamespace(
            teacher_identity=identity, tokenizer_identity="tokens", of_slices=()
        )
        spec = CodecSpec("full", 3, values="fp32", fingerprint=f"{identity}:fp32")
        its = Kept.of(job, alone)
        assert its is not None
        reader = by_slice.scoring(job, alone, its, spec, prepared, lambda *_: None)
        assert reader is not None
        own = [n for n in range(7) if TEACHERS[n] == number]
        told = asyncio.run(reader(taken(rows, own)))
        expected = answer_of(taken(rows, own), [number] * len(own), spec)
        assert told.column("label_logprobs").to_pylist() == (
            expected.column("label_logprobs").to_pylist()
        )
        for n in set(range(7)) - set(own):
            with pytest.raises(StoreError, match="1 of 1 rows have no soft targets"):
                asyncio.run(reader(taken(rows, [n])))


def test_what_is_lacking_is_looked_up_with_each_rows_teacher(
    run: Any, rows: pa.Table, prepared: Path
) -> None:
    job, models = run
    store = Kept.of(job, models)
    assert store is not None
    assert by_slice.count_lacking(job, models, store, SPEC, prepared) == kept.Lacking(7, 7)
    score = by_slice.scoring(job, models, store, SPEC, prepared, ask_of({}))
    assert isinstance(score, BySlice)
    asyncio.run(score(taken(rows, [1, 3, 4])))
    close_all()
    assert by_slice.count_lacking(job, models, store, SPEC, prepared) == kept.Lacking(4, 7)
    order = RowOrder(num_rows=7, epochs=1, seed=0, shuffle=False, global_batch=1)
    found = by_slice.count_lacking(job, models, store, SPEC, prepared, order, range(3, 5))
    assert found == kept.Lacking(0, 2)


def test_one_teacher_is_asked_as_before(run: Any, prepared: Path) -> None:
    job, models = run
    models.of_slices = ()
    asked: dict[int, Model] = {}
    assert by_slice.scoring(job, models, None, SPEC, prepared, ask_of(asked)) is asked[0]
    assert asked[0].spec is SPEC
    store = Kept.of(job, models)
    assert store is not None
    told = by_slice.scoring(job, models, store, SPEC, prepared, ask_of(asked))
    assert told == store.scorer(SPEC, asked[0])


def test_without_a_teacher_and_a_store_nobody_is_asked(run: Any, prepared: Path) -> None:
    job, models = run
    assert by_slice.scoring(job, models, None, SPEC, prepared, lambda *_: None) is None


def test_an_answer_of_another_teacher_is_refused(rows: pa.Table, prepared: Path) -> None:
    other = Model(0, CodecSpec("full", 3, values="fp32", fingerprint="other"))
    score = BySlice(prepared, (OfTeacher(other, SPEC.stamp),), SPEC.stamp)
    with pytest.raises(SoftTargetError, match="its stamp is"):
        asyncio.run(score(taken(rows, [0, 4])))


def test_a_failure_of_one_is_the_calls(rows: pa.Table, prepared: Path) -> None:
    async def fails(_: pa.Table) -> pa.Table:
        raise RuntimeError("no")

    good = Model(0, SPEC)
    teachers = (OfTeacher(good, SPEC.stamp), OfTeacher(fails, 0), OfTeacher(good, SPEC.stamp))
    with pytest.raises(RuntimeError, match="no"):
        asyncio.run(BySlice(prepared, teachers, SPEC.stamp)(taken(rows, [0, 1, 3])))


def test_a_filler_asks_no_other_teacher(rows: pa.Table, prepared: Path) -> None:
    code = Model(1, SPEC)
    nobody: Any = None
    score = BySlice(prepared, (OfTeacher(nobody, 0), OfTeacher(code, SPEC.stamp)), SPEC.stamp)
    table = taken(rows, [1, 2]).drop_columns("source_row")
    filled = table.append_column("source_row", pa.array([1, -1], pa.int64()))
    asyncio.run(score(filled))
    assert code.asked == [[1, -1]]


def test_it_travels_and_its_stores_are_counted_and_flushed(run: Any, prepared: Path) -> None:
    job, models = run
    store = Kept.of(job, models)
    score = by_slice.scoring(job, models, store, SPEC, prepared, lambda *_: None)
    assert pickle.loads(pickle.dumps(score)) == score
    assert score is not None
    delivered = Delivered("run", score)
    assert [one.section.teacher for one in delivered._stores] == [
        "first:fp32",
        "code:fp32",
        "law:fp32",
    ]
    delivered.flush()


def test_held_out_rows_are_asked_by_number(
    run: Any, rows: pa.Table, prepared: Path, tmp_path: Path
) -> None:
    job, models = run
    asked: dict[int, Model] = {}
    score = by_slice.scoring(job, models, None, SPEC, prepared, ask_of(asked))
    target = tmp_path / "scored.arrow"
    assert stages.score_set(score, prepared, target, chosen=[5, 2, 1, 0, 3]) == 5
    with pa.memory_map(str(target)) as file:
        scored = pa.ipc.open_file(file).read_all()
    assert scored.column_names[:3] == schema.PREPARED.names
    assert "source_row" not in scored.column_names
    expected = answer_of(rows.take(pa.array([5, 2, 1, 0, 3])), [2, 1, 1, 0, 2], SPEC)
    assert (
        scored.column("label_logprobs").to_pylist() == expected.column("label_logprobs").to_pylist()
    )


def test_the_run_has_an_identity_of_its_own() -> None:
    def one(*slices: str, identity: str = "x") -> OfSlices:
        return OfSlices(slices, ModelSource("m"), identity)

    told = {
        slices_identity("first", ()),
        slices_identity("first", (one("a"),)),
        slices_identity("other", (one("a"),)),
        slices_identity("first", (one("b"),)),
        slices_identity("first", (one("a", "b"),)),
        slices_identity("first", (one("a"), one("b"))),
        slices_identity("first", (one("a", identity="y"),)),
    }
    assert len(told) == 7
    assert slices_identity("first", ()) == "first"


def test_teachers_beside_rows_are_those_that_were_written(prepared: Path, tmp_path: Path) -> None:
    assert np.load(prepared / "teachers.npy").tolist() == TEACHERS
    save_teachers(tmp_path, [3])
    assert np.load(tmp_path / "teachers.npy").dtype == np.int16
