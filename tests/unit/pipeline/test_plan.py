from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.reservations import READ_CPUS, REPLICA_CPUS
from raykd.pipeline.plan import (
    Demand,
    block_bytes,
    num_steps,
    object_store_bytes,
    ongoing_target,
    phases,
    replicas,
    requests_in_flight,
    token_bytes,
    with_choosing,
)
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec

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


@pytest.mark.parametrize(
    ("given", "copies", "count"),
    [(None, 1, 4), (None, 4, 10), (7, 4, 7), (None, {"min": 0, "max": 3}, 8)],
)
def test_requests_in_flight(given: int | None, copies: Any, count: int, make_job: MakeJob) -> None:
    job = make_job({"stream.requests_in_flight": given, "teacher.replicas": copies})
    assert requests_in_flight(job) == count


@pytest.mark.parametrize("most", [1, 2, 7])
@pytest.mark.parametrize("given", [None, 1, 3, 50])
def test_a_full_window_asks_for_all_replicas_and_one_request_for_one(
    given: int | None, most: int, make_job: MakeJob
) -> None:
    job = make_job({"stream.requests_in_flight": given, "teacher.replicas": {"max": most}})
    target = ongoing_target(job)
    assert requests_in_flight(job) / target > most
    if requests_in_flight(job) > most:
        assert target > 1.0, "one request at a time keeps one replica busy, not two"


def test_an_elastic_teacher_needs_room_for_its_first_replicas(make_job: MakeJob) -> None:
    job = make_job({"teacher.replicas": {"min": 0, "max": 5}})
    assert replicas(job).count == 1
    assert replicas(job, 5).cpus == pytest.approx(5 * replicas(job).cpus)
    assert replicas(make_job({"teacher.replicas": {"min": 2, "max": 5}})).count == 2


@pytest.mark.parametrize(
    ("mode", "with_teacher", "held"),
    [
        ("use", True, {"training": ["teacher replicas", "student ranks"]}),
        ("use", False, {"training": ["student ranks"]}),
        ("off", True, {"training": ["teacher replicas", "student ranks"]}),
        ("only", True, {"training": ["student ranks"]}),
        ("fill", True, {"filling": ["teacher replicas"], "training": ["student ranks"]}),
    ],
)
def test_who_holds_what_together(
    mode: str, with_teacher: bool, held: dict[str, list[str]], make_job: MakeJob
) -> None:
    found = phases(make_job({"soft_targets.store_mode": mode}), with_teacher=with_teacher)
    shown = {
        name: [d.part for d in demands if d.part not in ("loaders", "reader")]
        for name, demands in found.items()
    }
    assert shown == held
    assert all("loaders" in [d.part for d in demands] for demands in found.values())


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


def test_a_reward_model_takes_a_gpu_beside_the_teacher(make_job: MakeJob) -> None:
    generation = {
        "num_samples": 2,
        "sampling": {"temperature": 0.7},
        "keep_best": 1,
        "scorer": {"model": "x"},
    }
    job = make_job({"generation": generation, "teacher.device": "gpu"})
    held = with_choosing(job, phases(job))
    assert [demand.gpus for demand in held["choosing"]] == [replicas(job).gpus, 1.0]
    generation["scorer"]["device"] = "cpu"
    job = make_job({"generation": generation, "teacher.device": "gpu"})
    assert "choosing" not in with_choosing(job, phases(job))


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


SPECS = [
    CodecSpec("top_k", 500, (1.0, 2.0), top_k=16, values="fp32"),
    CodecSpec("sampled", 500, draws=20),
    CodecSpec("hidden", 500, hidden_size=64, hidden_values="fp32"),
    CodecSpec("full", 500, values="fp32"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.codec)
def test_no_token_has_more_bytes_than_is_reckoned(spec: CodecSpec) -> None:
    """Ids, positions, masks and `row` columns beside the widest values of every list column."""
    widest = {"top_k": spec.top_k, "sampled": spec.draws, "hidden": spec.hidden_size, "full": 500}
    lists = [f for f in target_schema(spec) if str(f.type).startswith("list")]
    assert lists
    assert token_bytes(spec) >= 9 + 4 * widest[spec.codec]


def test_a_block_is_one_ranks_rows_of_some_steps(make_job: MakeJob) -> None:
    job = make_job({"student.num_workers": 2, "stream.steps_per_block": 3})
    # 4 rows a step over two ranks, three steps, 64 tokens each.
    assert block_bytes(job, SPECS[0]) == 2 * 3 * 64 * token_bytes(SPECS[0])


def test_what_the_job_says_of_the_store_is_taken(make_job: MakeJob) -> None:
    job = make_job({"stream.object_store_bytes": 12345})
    assert object_store_bytes(job, SPECS[0], [1e9]) == 12345


def test_a_quarter_of_the_smallest_store(make_job: MakeJob) -> None:
    assert object_store_bytes(make_job(), SPECS[0], [4e9, 1e9, 2e9]) == 250_000_000


def test_a_few_blocks_fit_into_a_small_store(make_job: MakeJob) -> None:
    job = make_job()
    few = (requests_in_flight(job) + 2 * job.student.num_workers) * block_bytes(job, SPECS[0])
    assert object_store_bytes(job, SPECS[0], [3.0 * few]) == few
    assert object_store_bytes(job, SPECS[0], [1.0 * few]) == few // 2, "never more than half"
