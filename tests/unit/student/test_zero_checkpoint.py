"""A student that is saved and loaded goes on as if it had never stopped."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from zero_cases import CHANGES, Batch, make_batches, student_of

from raykd.student.protocol import Wish

pytestmark = pytest.mark.usefixtures("group_of_one")

MakeJob = Callable[..., Any]


@pytest.fixture
def batches(packed_rows: Callable[..., pa.Table]) -> list[Batch]:
    return make_batches(packed_rows)


@pytest.mark.parametrize("stage", [1, 3])
def test_saved_and_loaded_it_goes_on_as_before(
    stage: int, make_job: MakeJob, student_dir: Path, batches: list[Batch], tmp_path: Path
) -> None:
    job = make_job({**CHANGES, "student.zero_stage": stage})
    student = student_of(job, student_dir)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    student.save(tmp_path)
    expected = [student.train_step(batches[i][0], i, 0.0, Wish.GO_ON).loss for i in (1, 2)]
    del student
    gc.collect()
    again = student_of(job, student_dir)
    again.load(tmp_path)
    found = [again.train_step(batches[i][0], i, 0.0, Wish.GO_ON).loss for i in (1, 2)]
    assert found == pytest.approx(expected, rel=1e-6)
    # without AdamW's moments the second of these would be another
    fresh = student_of(job, student_dir)
    other = [fresh.train_step(batches[i][0], i, 0.0, Wish.GO_ON).loss for i in (1, 2)]
    assert other != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("changes", [{}, {"student.lora": {"r": 4, "dropout": 0.3}}])
def test_a_resume_is_exact_with_dropout(
    stage: int,
    changes: dict[str, Any],
    make_job: MakeJob,
    save_llama: Callable[..., Path],
    batches: list[Batch],
    tmp_path: Path,
) -> None:
    source = save_llama(tmp_path / "m", 2, attention_dropout=0.2)
    job = make_job({**CHANGES, **changes, "student.zero_stage": stage})
    student = student_of(job, source)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    student.save(tmp_path)
    expected = [student.train_step(batches[i][0], i, 0.0, Wish.GO_ON) for i in (1, 2)]
    del student
    gc.collect()
    again = student_of(job, source)
    again.load(tmp_path)
    found = [again.train_step(batches[i][0], i, 0.0, Wish.GO_ON) for i in (1, 2)]
    assert found == expected
    # with other masks it would be another
    (tmp_path / "rng-00000.json").unlink()
    again.load(tmp_path)
    assert again.train_step(batches[1][0], 1, 0.0, Wish.GO_ON).loss != expected[0].loss
    del again
    gc.collect()


def test_adapters_saved_and_loaded_go_on_as_before(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], tmp_path: Path
) -> None:
    job = make_job({**CHANGES, "student.lora": {"r": 4}})
    student = student_of(job, student_dir)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    student.save(tmp_path)
    expected = student.train_step(batches[1][0], 1, 0.0, Wish.GO_ON).loss
    again = student_of(job, student_dir)
    again.load(tmp_path)
    assert again.train_step(batches[1][0], 1, 0.0, Wish.GO_ON).loss == pytest.approx(expected)
