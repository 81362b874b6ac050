"""Soft targets are kept: later epochs, another student and offline training ask no teacher."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos, *RAY_WARNINGS]

MakeJob = Callable[..., Any]


class CountingEngine(TransformersEngine):
    """Notes how many rows it was asked for, and with which codec's seed."""

    def __init__(self, spec: EngineSpec, place: ShardPlace, *, log: Path) -> None:
        super().__init__(spec, place)
        self._log = log
        with log.open("a") as out:
            out.write("started\n")

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        with self._log.open("a") as out:
            out.write(f"{rows.num_rows}\n")
        return super().score(rows, spec)


def asked(log: Path) -> tuple[int, int]:
    """Teachers started, rows asked for."""
    lines = log.read_text().split() if log.is_file() else []
    return lines.count("started"), sum(int(line) for line in lines if line != "started")


def test_scored_once_learned_from_often(make_job: MakeJob, distil: Distil, tmp_path: Path) -> None:
    from raykd.errors import StoreError
    from raykd.pipeline import plan
    from raykd.pipeline.teacher import Parts

    log = tmp_path / "asked.txt"
    parts = Parts(engine_class=partial(CountingEngine, log=log))
    with pytest.raises(StoreError, match=r"store_mode: only, but .* has 0 of \d+ rows of train"):
        distil(make_job({"soft_targets.store_mode": "only"}), parts=parts)
    assert asked(log) == (0, 0)

    # Three epochs, each row asked for once.
    epochs = 3
    all_rows = {"evaluation.max_rows": 64}
    first = distil(
        make_job({**all_rows, "train.epochs": epochs, "train.max_steps": None}), parts=parts
    )
    rows = {name: one["rows"] for name, one in first.report.data.items()}
    # A row that opens an epoch may still be on its way from the one before.
    on_their_way = plan.requests_in_flight(make_job()) * 4
    started, num_asked = asked(log)
    assert started == 1
    assert 0 <= num_asked - sum(rows.values()) < on_their_way
    assert len(first.steps) == -(-epochs * rows["train"] // 4)
    log.unlink()

    # Another student: other order, micro-batch, number of ranks and packing of the rows.
    other = make_job(
        {
            **all_rows,
            "name": "other",
            "data.shuffle": False,
            "data.packing": "pad",
            "train.max_steps": 6,
            "train.micro_batch": 1,
            "student.num_workers": 2,
            "student.zero_stage": 2,
        }
    )
    ran = distil(other, parts=parts)
    assert asked(log) == (0, 0), ran.printed
    assert_each_step_once(ran.root, 6, global_batch=4)
    assert all(step["teacher_s"] == 0 for step in ran.steps)
    assert "no teacher" in ran.printed
    assert ran.report.models["teacher"].parameters == first.report.models["teacher"].parameters


def test_offline_the_teacher_goes_before_the_student_comes(
    make_job: MakeJob, distil: Distil, tmp_path: Path
) -> None:
    from raykd.pipeline.teacher import Parts

    log = tmp_path / "asked.txt"
    job = make_job({"soft_targets.store_mode": "fill", "train.max_steps": 5})
    ran = distil(job, parts=Parts(engine_class=partial(CountingEngine, log=log)))
    # Five steps of four rows, and the held-out ones; nothing is asked twice.
    assert asked(log) == (1, 5 * 4 + ran.report.data["heldout"]["rows"])
    assert_each_step_once(ran.root, 5, global_batch=4)
    assert all(step["teacher_s"] == 0 for step in ran.steps)
    assert [stage.name for stage in ran.report.stages].index("fill") < [
        stage.name for stage in ran.report.stages
    ].index("train")
