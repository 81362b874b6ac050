"""SIGTERM of one rank's process, and a node that Ray drains: one checkpoint, and on it goes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StepResult, Wish

from .runs import RAY_WARNINGS, Distil, assert_each_step_once, checkpoint_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, *RAY_WARNINGS]

LAST = 40


class TakenAway(ZeroStudent):
    """Its second rank gets SIGTERM in the second step; in the fourth Ray tells of its node."""

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        import torch.distributed as dist

        if step == 1 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == 3:
            _be_told_by_ray()
        time.sleep(0.2)
        result = super().train_step(rows, step, wait_s, wish)
        with (Path(self._job.storage_path) / f"wishes-{dist.get_rank()}").open("a") as out:
            out.write(f"{result.wish.name}\n")
        return result


def _be_told_by_ray() -> None:
    """As Train's own watcher does when a node of the group is being drained."""
    from ray.train import PreemptionInfo
    from ray.train.v2._internal.execution.context import get_train_context

    told = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a node": [1]})
    get_train_context().preemption_context.preemption_info = told


def test_each_notice_saves_once(make_job: Callable[..., Any], distil: Distil) -> None:
    from raykd.pipeline.teacher import Parts

    job = make_job(
        {
            "student.num_workers": 2,
            "train.max_steps": LAST,
            "train.epochs": 9,
            "train.micro_batch": 1,
            "checkpoint": {"every_steps": None, "keep": 9},
        }
    )
    ran = distil(job, parts=Parts(student_class=TakenAway))
    assert_each_step_once(ran.root, LAST, global_batch=4)
    wishes = [(Path(job.storage_path) / f"wishes-{rank}").read_text().split() for rank in range(2)]
    assert wishes[0] == wishes[1]
    by_signal = [step + 1 for step, wish in enumerate(wishes[0]) if wish == "SAVE_AT_NOTICE"]
    assert len(by_signal) == 1, "one checkpoint for one notice"
    assert wishes[0].count("LOOK") > 0
    first, by_ray, last = checkpoint_steps(ran.root)
    assert [first, last] == [*by_signal, LAST]
    assert wishes[0][by_ray - 1] == "LOOK"
    notes = (ran.root / "logs" / "notes.txt").read_text().splitlines()
    said = [f"saved after step {step};" for step in (first, by_ray)]
    assert [one in note for one, note in zip(said, notes, strict=True)] == [True, True]
