"""Two replicas of two shards teach two ranks; then a rank dies and the group goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StepResult, Wish

from .runs import RAY_WARNINGS, Distil, assert_each_step_once, checkpoint_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, *RAY_WARNINGS]

DIES_IN_STEP = 4


class DiesOnce(ZeroStudent):
    """Its second rank ends without a word in one step of its first life."""

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        import torch.distributed as dist

        lives = Path(self._job.storage_path) / "lives"
        if step + 1 == DIES_IN_STEP and dist.get_rank() == 1 and not lives.exists():
            lives.touch()
            os._exit(1)
        return super().train_step(rows, step, wait_s, wish)


def test_a_rank_dies_and_no_row_is_lost(make_job: Callable[..., Any], distil: Distil) -> None:
    from raykd.pipeline.teacher import Parts

    job = make_job(
        {
            "soft_targets": {"codec": "hidden"},
            "teacher.tensor_parallel": 2,
            "teacher.replicas": 2,
            "teacher.cpus_per_shard": 0.1,
            "student.num_workers": 2,
            "student.zero_stage": 2,
            "train.max_steps": 7,
            "train.micro_batch": 1,
            "stream.steps_per_block": 2,
            "checkpoint": {"every_steps": 3, "keep": 1, "max_failures": 1},
        }
    )
    ran = distil(job, parts=Parts(student_class=DiesOnce))
    assert (Path(job.storage_path) / "lives").exists(), "the rank never died"
    # The loop itself asserts which rows each rank gets; these are the rows it says it learned from.
    assert_each_step_once(ran.root, 7, global_batch=4)
    assert checkpoint_steps(ran.root) == [7]
    # Steps that were made again found their soft targets in the store.
    assert ran.steps[0]["teacher_s"] > 0
    assert ran.report.hardware["teacher"] == "2 x 2 cpu"
    assert (ran.root / "report.html").is_file()
