"""Ranks, shards, replicas, loaders and Serve's controller die; the losses stay the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import RAY_WARNINGS, Distil

from .harness import VICTIMS, Kill, Killer, NotingStudent, complaints

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos, *RAY_WARNINGS]

STEPS, BATCH = 20, 4
CHANGES = {
    "teacher.tensor_parallel": 2,
    "teacher.cpus_per_shard": 0.1,
    "teacher.max_retries": 10,
    "student.num_workers": 2,
    "student.zero_stage": 2,
    "student.dtype": "fp32",
    "train.max_steps": STEPS,
    "train.micro_batch": 1,
    "stream.steps_per_block": 2,
    "checkpoint": {"every_steps": 3, "keep": 2, "max_failures": 10},
}


def job_of(make_job: Callable[..., Any], name: str, tmp_path: Path) -> Any:
    # Each run has a store of its own: what one kept would spare the other the teacher.
    return make_job({**CHANGES, "name": name, "soft_targets.store": str(tmp_path / f"{name}.kept")})


def test_any_process_may_die(make_job: Callable[..., Any], distil: Distil, tmp_path: Path) -> None:
    from raykd.pipeline.teacher import Parts

    parts = Parts(student_class=NotingStudent)
    quiet = distil(job_of(make_job, "quiet", tmp_path), parts=parts)
    assert complaints(quiet.root, STEPS, BATCH) == []
    draw = random.Random(23)
    victims = list(VICTIMS)
    draw.shuffle(victims)
    kills = [Kill(victim, 2 + 3 * i + draw.randrange(3)) for i, victim in enumerate(victims)]
    job = job_of(make_job, "killed", tmp_path)
    with Killer(Path(job.storage_path) / "killed" / "metrics.jsonl", kills) as killer:
        killed = distil(job, parts=parts)
    assert [kill for kill, _ in killer.done] == kills
    assert complaints(killed.root, STEPS, BATCH, quiet.losses) == []
