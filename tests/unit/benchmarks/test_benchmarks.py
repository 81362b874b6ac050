"""The arithmetic of the benchmarks: shares, losses and CPU seconds from known courses."""

import importlib

import numpy as np
import pytest

from raykd.soft_targets.codec import decode, target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.telemetry.metrics import StepMetrics


@pytest.fixture
def pipeline():
    return importlib.import_module("pipeline")


@pytest.fixture
def overhead():
    return importlib.import_module("overhead")


def step(number, time, *, wait_s=0.0, slept=0.4):
    return StepMetrics(
        step=number,
        epoch=0.0,
        row_start=0,
        row_end=2,
        tokens=512,
        tokens_seen=512,
        loss=slept,
        divergence=0.0,
        cross_entropy=0.0,
        lr=0.0,
        grad_norm=0.0,
        seconds=slept + wait_s,
        wait_s=wait_s,
        teacher_s=0.4,
        time=time,
    )


def course(pipeline, each_step_s, each_request_s, num_steps=50, lead=1):
    ends = np.arange(lead, num_steps + lead) * each_request_s
    requests = np.stack([ends - 0.4, ends], axis=1) - lead * each_request_s
    steps = [step(n, n * each_step_s, wait_s=each_step_s - 0.4) for n in range(1, num_steps + 1)]
    return pipeline.Course(steps, requests)


def test_no_loss_is_a_share_of_one(pipeline):
    case = pipeline.Case(1, 0.4)
    measured = pipeline.measured(case, course(pipeline, 0.4, 0.4), fill=10)
    assert measured["share"] == pytest.approx(1.0)
    assert measured["student_wait_share"] == pytest.approx(0.0)
    assert measured["teacher_idle_share"] == pytest.approx(0.0, abs=1e-9)


def test_a_slow_teacher_shows_though_the_student_lives_on_its_store(pipeline):
    case = pipeline.Case(1, 0.4)
    measured = pipeline.measured(case, course(pipeline, 0.4, 0.5, lead=30), fill=10)
    assert measured["share"] == pytest.approx(0.8)
    assert measured["teacher_idle_share"] == pytest.approx(0.2)


def test_a_waiting_student_is_seen(pipeline):
    case = pipeline.Case(1, 0.4)
    measured = pipeline.measured(case, course(pipeline, 0.5, 0.4), fill=10)
    assert measured["share"] == pytest.approx(0.8)
    assert measured["student_wait_share"] == pytest.approx(0.2)


def test_jitter_costs_something_even_without_plumbing(pipeline):
    assert pipeline.reachable(pipeline.Case(1, 0.4), 200) == 1.0
    for replicas in (1, 4):
        share = pipeline.reachable(pipeline.Case(replicas, 0.4, 0.5), 200, runs=20)
        assert 0.85 < share < 1.0


def test_every_case_has_its_own_name(pipeline):
    assert len({case.name for case in pipeline.CASES}) == 6


def test_sleep_keeps_its_mean_and_spread():
    standins = importlib.import_module("standins")
    draws = standins.Sleep(0.4, 0.5).draws(1)
    naps = np.array([next(draws) for _ in range(20_000)])
    assert naps.mean() == pytest.approx(0.4, rel=0.02)
    assert naps.std() / naps.mean() == pytest.approx(0.5, rel=0.05)


def test_uniform_targets_are_what_a_student_accepts():
    import pyarrow as pa

    standins = importlib.import_module("standins")
    spec = CodecSpec("top_k", 100, (1.0, 2.0), top_k=8, values="fp32")
    table = pa.table(standins.uniform_targets([3, 0, 5], spec))
    assert table.schema.equals(target_schema(spec))
    targets = decode(table, spec, "cpu")
    assert targets.num_tokens == 8
    mass = targets.logprobs_TK.exp().sum(1) + targets.log_tail_TN[:, 0].exp()
    assert mass.tolist() == pytest.approx([1.0] * 8, abs=1e-5)


def test_work_counts_by_the_part_of_a_call_inside(overhead, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("0 10 4 8\n10 20 4 8\n20 30 4 8\n")
    assert overhead.work_between(log, 5.0, 20.0) == pytest.approx((6.0, 12.0))


def test_seconds_between_two_moments_by_role(overhead):
    series = overhead.CpuSeries(root=None)
    series.times = [0.0, 10.0, 20.0]
    series.by_role = [
        {"driver": 1.0},
        {"driver": 2.0, "raylet": 4.0},
        {"driver": 3.0, "raylet": 8.0},
    ]
    assert series.between(5.0, 20.0) == pytest.approx({"driver": 1.5, "raylet": 6.0})


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["ray::Shard.score"], "ray::Shard"),
        (["ray::MapWorker(MapBatches(BlockLoader)).submit"], "ray::MapWorker"),
        (["ray::ServeReplica:raykd-quickstart:teacher.handle"], "ray::ServeReplica"),
        (["/x/ray/core/src/ray/raylet/raylet", "--socket=a"], "raylet"),
        (["/x/python", "-u", "/x/ray/dashboard/dashboard.py"], "dashboard.py"),
        ([], "?"),
    ],
)
def test_roles_by_command_line(overhead, command, role):
    assert overhead.role_of(command) == role
