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

from .runs import RAY_WARNINGS, Distil, Ran, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]

MakeJob = Callable[..., Any]
ALL_ROWS = {"evaluation.max_rows": 64, "train.max_steps": None}


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


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the teacher notes what it is asked."""
    return tmp_path_factory.mktemp("log") / "asked.txt"


@pytest.fixture
def parts(one_teacher: None, log: Path, once: dict[str, Any]) -> Any:
    """The teacher that counts; the first run that asks it starts it."""
    from raykd.pipeline.teacher import Parts

    if "parts" not in once:
        once["parts"] = Parts(engine_class=partial(CountingEngine, log=log))
    log.unlink(missing_ok=True)
    return once["parts"]


def asked(log: Path) -> tuple[int, int]:
    """Teachers started, rows asked for."""
    lines = log.read_text().split() if log.is_file() else []
    return lines.count("started"), sum(int(line) for line in lines if line != "started")


@pytest.mark.chaos
def test_offline_the_teacher_goes_before_the_student_comes(
    make_job: MakeJob, distil: Distil, parts: Any, log: Path
) -> None:
    from raykd.errors import StoreError

    with pytest.raises(StoreError, match=r"store_mode: only, but .* has 0 of \d+ rows of train"):
        distil(make_job({"soft_targets.store_mode": "only"}), parts=parts)
    assert asked(log) == (0, 0)

    # Two epochs, each row asked for once, before the first step.
    first = distil(
        make_job({**ALL_ROWS, "soft_targets.store_mode": "fill", "train.epochs": 2}), parts=parts
    )
    rows = {name: one["rows"] for name, one in first.report.data.items()}
    started, num_asked = asked(log)
    assert started == 1
    # The block in which an epoch ends has rows of the next, which may be on their way already.
    assert 0 <= num_asked - sum(rows.values()) < 4
    assert_each_step_once(first.root, -(-2 * rows["train"] // 4), global_batch=4)
    assert all(step["teacher_s"] == 0 for step in first.steps)
    stages = [stage.name for stage in first.report.stages]
    assert stages.index("fill") < stages.index("train")
    log.unlink()
    learned_by_another(make_job, distil, parts, log, first)


def learned_by_another(
    make_job: MakeJob, distil: Distil, parts: Any, log: Path, first: Ran
) -> None:
    """Another student: other order, micro-batch, number of ranks and packing of the rows."""
    other = make_job(
        {
            **ALL_ROWS,
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


@pytest.mark.soak
def test_scored_once_while_learning(
    make_job: MakeJob, distil: Distil, parts: Any, log: Path
) -> None:
    from raykd.pipeline import plan

    epochs = 3
    first = distil(make_job({**ALL_ROWS, "train.epochs": epochs}), parts=parts)
    rows = {name: one["rows"] for name, one in first.report.data.items()}
    # A row that opens an epoch may still be on its way from the one before.
    on_their_way = plan.requests_in_flight(make_job()) * 4
    assert 0 <= asked(log)[1] - sum(rows.values()) < on_their_way
    assert len(first.steps) == -(-epochs * rows["train"] // 4)
