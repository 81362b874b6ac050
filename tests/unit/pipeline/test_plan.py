from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.reservations import READ_CPUS, REPLICA_CPUS
from raykd.pipeline.plan import Demand, num_steps, phases, requests_in_flight

MakeJob = Callable[..., Any]


@pytest.mark.parametrize(
    ("rows", "epochs", "batch", "most", "steps"),
    [
        (100, 1, 10, None, 10),
        (101, 1, 10, None, 11),
        (99, 3, 10, None, 30),
        (101, 3, 10, None, 31),
        (1, 1, 32, None, 1),
        (100, 1, 10, 4, 4),
        (100, 1, 10, 40, 10),
    ],
)
def test_steps(
    rows: int, epochs: int, batch: int, most: int | None, steps: int, make_job: MakeJob
) -> None:
    changes = {
        "train.epochs": epochs,
        "train.global_batch": batch,
        "train.micro_batch": 1,
        "train.max_steps": most,
    }
    assert num_steps(make_job(changes), rows) == steps


@pytest.mark.parametrize(("given", "replicas", "count"), [(None, 1, 4), (None, 4, 10), (7, 4, 7)])
def test_requests_in_flight(
    given: int | None, replicas: int, count: int, make_job: MakeJob
) -> None:
    job = make_job({"stream.requests_in_flight": given, "teacher.replicas": replicas})
    assert requests_in_flight(job) == count


def test_what_a_gpu_job_holds(make_job: MakeJob) -> None:
    job = make_job(
        {
            "teacher.device": "gpu",
            "teacher.tensor_parallel": 2,
            "teacher.replicas": 3,
            "teacher.cpus_per_shard": 4.0,
            "student.device": "gpu",
            "student.num_workers": 4,
            "student.cpus_per_worker": 8.0,
            "train.global_batch": 8,
            "stream.num_loaders": 5,
            "stream.cpus_per_loader": 0.5,
        }
    )
    (held,) = phases(job).values()
    assert sum(d.gpus for d in held) == 3 * 2 + 4
    expected = 3 * (2 * 4.0 + REPLICA_CPUS) + 4 * 8.0 + 5 * 0.5 + READ_CPUS
    assert sum(d.cpus for d in held) == pytest.approx(expected)


def test_a_cpu_job_holds_no_gpu(make_job: MakeJob) -> None:
    for held in phases(make_job()).values():
        assert sum(d.gpus for d in held) == 0


def test_without_distillation_the_teacher_is_gone_before_training(make_job: MakeJob) -> None:
    by_phase = phases(make_job({"loss.alpha": 1.0}))
    parts = {name: [d.part for d in held] for name, held in by_phase.items()}
    assert parts["scoring"] == ["teacher replicas"]
    assert "teacher replicas" not in parts["training"]
    assert "student ranks" in parts["training"]


def test_a_demand_is_count_times_each() -> None:
    demand = Demand("x", 3, 0.5, 2.0)
    assert (demand.cpus, demand.gpus) == (1.5, 6.0)
