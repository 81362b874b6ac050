"""Whole plans: what fits, what to change, the best split, hours and money."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from raykd.clusters.hardware import Hardware, NodeType
from raykd.planning.accelerators import read_accelerators
from raykd.planning.fitting import Surroundings, fit
from raykd.planning.plan_data import Plan
from raykd.planning.planner import Asked, make_plan
from raykd.planning.remedies import remedies
from raykd.planning.speed import Rates
from raykd.planning.split import best_split, changed, rank_counts

MakeJob = Callable[..., Any]
LABELS: dict[str, Any] = {
    "teacher.labels": {"raykd-role": "teacher"},
    "student.labels": {"raykd-role": "student"},
}
MEASURED = Rates(teacher_tokens_per_s=1000.0, student_tokens_per_s=400.0, source="a test")


def settings_of(texts: tuple[str, ...]) -> dict[str, Any]:
    pairs = (text.split("=", 1) for text in texts)
    return {key: yaml.safe_load(value) for key, value in pairs}


def small(around: Surroundings, memory_gib: int) -> Surroundings:
    """The same with less memory on each GPU."""
    gpu = replace(around.accelerators["H100"], memory_bytes=memory_gib * 2**30)
    return replace(around, accelerators={"H100": gpu})


@pytest.fixture
def plan_of(models: Any, hardware: Hardware) -> Callable[..., Plan]:
    def make(job: Any, rows: int | None = 10_240, **changes: Any) -> Plan:
        asked = Asked(models, hardware, read_accelerators(), MEASURED, rows=rows)
        return make_plan(job, replace(asked, **changes))

    return make


def test_a_job_that_fits(make_gpu_job: MakeJob, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(make_gpu_job(LABELS))
    assert plan.fits
    assert not plan.remedies
    on = {each.part: each.on for each in plan.demands if each.phase == "training"}
    assert on["teacher replicas"] == {"teacher": 4}
    assert on["student ranks"] == {"student": 8}
    nodes = {each.node_type: each for each in plan.nodes}
    assert (nodes["teacher"].needed, nodes["student"].needed, nodes["head"].needed) == (1, 1, 0)
    assert nodes["teacher"].idle_gpus == nodes["student"].idle_gpus == 0
    assert (plan.rows, plan.steps, plan.tokens) == (10_240, 40, 40 * 256 * 4096)


def test_rates_waits_and_hours(make_gpu_job: MakeJob, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(make_gpu_job(LABELS))
    assert plan.speed.teacher_tokens_per_s == 4000
    assert plan.speed.student_tokens_per_s == 3200
    assert plan.speed.tokens_per_s == 3200
    assert plan.speed.student_waits == 0
    assert plan.speed.teacher_waits == pytest.approx(0.2)
    assert plan.cost is not None
    hours = 40 * 256 * 4096 / 3200 / 3600
    assert plan.cost.hours == pytest.approx(hours)
    assert plan.cost.teacher_gpu_hours == pytest.approx(8 * hours)
    assert plan.cost.student_gpu_hours == pytest.approx(8 * hours)
    # A teacher node (spot), a student node, and the head, which is always there.
    assert plan.cost.on_demand == pytest.approx(100.2 * hours)
    assert plan.cost.as_planned == pytest.approx(70.2 * hours)
    assert plan.cost.missing == ()


def test_no_price_is_said(
    make_gpu_job: MakeJob, plan_of: Callable[..., Plan], hardware: Any
) -> None:
    unknown = replace(hardware, prices={"student": (50.0, None), "head": (0.2, None)})
    plan = plan_of(make_gpu_job(LABELS), hardware=unknown)
    assert plan.cost is not None
    assert plan.cost.on_demand is plan.cost.as_planned is None
    assert plan.cost.missing == ("p5.48xlarge on demand", "p5.48xlarge spot")


def test_filling_first(make_gpu_job: MakeJob, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(make_gpu_job({**LABELS, "soft_targets.store_mode": "fill", "train.epochs": 2}))
    tokens = 80 * 256 * 4096
    assert plan.cost is not None
    assert plan.cost.filling_hours == pytest.approx(tokens / 2 / 4000 / 3600)
    assert plan.cost.hours == pytest.approx((tokens / 2 / 4000 + tokens / 3200) / 3600)
    assert plan.split is None
    assert {each.phase for each in plan.demands} == {"before", "filling", "training"}


@pytest.mark.parametrize(("mode", "later"), [("use", 3200), ("off", 2000)])
def test_later_epochs_ask_nobody(
    mode: str, later: float, make_gpu_job: MakeJob, plan_of: Callable[..., Plan]
) -> None:
    changes = {"teacher.replicas": 2, "train.epochs": 3, "soft_targets.store_mode": mode}
    plan = plan_of(make_gpu_job({**LABELS, **changes}))
    epoch = 40 * 256 * 4096
    assert plan.cost is not None
    assert plan.cost.hours == pytest.approx((epoch / 2000 + 2 * epoch / later) / 3600)


@pytest.mark.parametrize("changes", [{"loss.alpha": 1.0}, {"soft_targets.store_mode": "only"}])
def test_without_a_teacher(
    changes: dict[str, Any], make_gpu_job: MakeJob, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(make_gpu_job({**LABELS, **changes}))
    assert plan.speed.tokens_per_s == 3200
    assert plan.speed.replicas == 0
    assert plan.cost is not None
    assert plan.cost.teacher_gpu_hours == 0


def test_ones_own_cluster(make_gpu_job: MakeJob, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(make_gpu_job(), rows=None, hardware=None, rates=Rates())
    assert plan.fits
    assert plan.nodes == ()
    assert plan.split is plan.cost is plan.speed.tokens_per_s is None
    assert all(each.on is None for each in plan.demands)
    assert any("money is left out" in note for note in plan.notes)
    named = plan_of(make_gpu_job(), hardware=None, rates=Rates(), accelerator="H100")
    assert named.speed.tokens_per_s is not None
    assert "assumed: 35%" in named.speed.teacher_source
    assert named.cost is not None
    assert named.cost.on_demand is None


def test_json_is_plain(make_gpu_job: MakeJob, plan_of: Callable[..., Plan]) -> None:
    tree = json.loads(json.dumps(plan_of(make_gpu_job(LABELS)).as_dict()))
    assert tree["fits"] is True
    assert tree["memory"][0]["fits"] is True
    assert tree["split"]["replicas"] >= 1


def test_an_elastic_teacher_grows_as_far_as_it_fits(
    make_gpu_job: MakeJob, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(make_gpu_job({**LABELS, "teacher.replicas": {"min": 1, "max": 20}}))
    assert plan.fits
    assert plan.speed.replicas == 8
    tight = plan_of(make_gpu_job({**LABELS, "teacher.replicas": {"min": 9, "max": 20}}))
    assert not tight.fits


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher.labels": {"pool": "x"}}, "no node type carries the labels {'pool': 'x'}"),
        ({"teacher.tensor_parallel": 16}, "can hold one of teacher replicas"),
        ({"teacher.replicas": 9}, "9 teacher replicas .* do not fit on 2 teacher"),
        ({"student.num_workers": 32}, "32 student ranks .* do not fit on 2 student"),
    ],
)
def test_why_it_has_no_place(
    changes: dict[str, Any], said: str, make_gpu_job: MakeJob, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(make_gpu_job({**LABELS, **changes}))
    assert not plan.fits
    assert plan.cost is None
    assert re.search(said, " ".join(plan.problems))


@pytest.mark.parametrize(
    ("changes", "memory_gib", "aspect", "key"),
    [
        ({"teacher.replicas": 9}, 79, "placement", "teacher.replicas"),
        ({"student.num_workers": 32}, 79, "placement", "student.num_workers"),
        ({"student.activation_checkpointing": False}, 28, "student memory", "train.micro_batch"),
        ({}, 10, "teacher memory", "teacher.tensor_parallel"),
        ({"student.zero_stage": 0}, 28, "student memory", "student.zero_stage"),
    ],
)
def test_remedies_really_help(
    changes: dict[str, Any],
    memory_gib: int,
    aspect: str,
    key: str,
    make_gpu_job: MakeJob,
    around: Surroundings,
) -> None:
    job, there = make_gpu_job({**LABELS, **changes}), small(around, memory_gib)
    problems = fit(job, there).problems
    assert aspect in problems
    found = remedies(job, there, problems)
    assert key in [name for one in found for name in settings_of(one.settings)]
    for one in found:
        left = set(fit(changed(job, settings_of(one.settings)), there).problems)
        assert left <= set(problems)
        if one.problem == "all together":
            assert not left
        else:
            assert one.problem not in left


def test_two_problems_at_once(make_gpu_job: MakeJob, around: Surroundings) -> None:
    """Memory is judged too where there is no place for all, or its remedies would be hidden."""
    changes = {"student.num_workers": 32, "student.activation_checkpointing": False}
    job, there = make_gpu_job({**LABELS, **changes}), small(around, 28)
    problems = fit(job, there).problems
    assert set(problems) == {"placement", "student memory"}
    found = {one.problem: settings_of(one.settings) for one in remedies(job, there, problems)}
    assert found["placement"]["student.num_workers"] == 16
    assert fit(changed(job, found["all together"]), there).fits


def test_nothing_helps_a_student_far_too_large(
    make_gpu_job: MakeJob, around: Surroundings, plan_of: Callable[..., Plan]
) -> None:
    tiny = small(around, 1)
    job = make_gpu_job({**LABELS, "loss.alpha": 1.0})
    assert not remedies(job, tiny, fit(job, tiny).problems)


def test_offloaded_state_counts_on_the_node(make_gpu_job: MakeJob, around: Surroundings) -> None:
    job = make_gpu_job({**LABELS, "student.offload": "optimizer"})
    assert around.hardware is not None
    types = [replace(t, memory_bytes=16 * 2**30) for t in around.hardware.node_types]
    poor = replace(around, hardware=replace(around.hardware, node_types=tuple(types)))
    assert fit(job, around).fits
    assert list(fit(job, poor).problems) == ["node memory"]


def test_the_best_split_against_all_splits(make_gpu_job: MakeJob, around: Surroundings) -> None:
    job = make_gpu_job(LABELS)
    found = best_split(job, around, fit(job, around), MEASURED)
    assert found is not None
    best = 0.0
    for ranks in rank_counts(job, 16):
        for replicas in range(1, 9):
            best = max(best, min(replicas * 1000.0, ranks * 400.0))
    assert found.tokens_per_s == pytest.approx(best, rel=0.01)
    assert found.replicas == 7
    assert found.ranks == 16
    assert found.better_by == pytest.approx(6400 / 3200 - 1)


def test_a_split_on_shared_nodes(make_gpu_job: MakeJob, models: Any) -> None:
    """24 GPUs for both: 2 GPUs a replica of 1000, 1 GPU a rank of 400."""
    node = NodeType("gpu", None, {}, 0, 3, 96, 8, accelerator="H100")
    there = Surroundings(models, Hardware("hand", (node,)), read_accelerators())
    job = make_gpu_job()
    found = best_split(job, there, fit(job, there), MEASURED)
    assert found is not None
    allowed = [
        (min(r * 1000.0, k * 400.0), -(2 * r + k))
        for k in rank_counts(job, 24)
        for r in range(1, 13)
        if 2 * r + k <= 24
    ]
    assert found.tokens_per_s == max(allowed)[0]
    assert 2 * found.replicas + found.ranks <= 24


def test_equal_rates_cost_less(make_gpu_job: MakeJob, around: Surroundings) -> None:
    """Where one replica is enough for every rank there may be, no second one is asked for."""
    rates = replace(MEASURED, teacher_tokens_per_s=100_000.0)
    found = best_split(make_gpu_job(LABELS), around, fit(make_gpu_job(LABELS), around), rates)
    assert found is not None
    assert (found.replicas, found.ranks) == (1, 16)


def test_large_clusters_are_planned_at_once(make_gpu_job: MakeJob, models: Any) -> None:
    node = NodeType("gpu", None, {}, 0, 128, 96, 8, accelerator="H100")
    changes = {"teacher.replicas": 256, "student.num_workers": 512, "train.global_batch": 4096}
    job = make_gpu_job({**changes, "teacher.tensor_parallel": 2})
    asked = Asked(models, Hardware("hand", (node,)), read_accelerators(), Rates(), rows=10**6)
    started = time.process_time()
    plan = make_plan(job, asked)
    assert time.process_time() - started < 2.0
    assert plan.fits
    too_many = make_plan(changed(job, {"teacher.replicas": 300}), asked)
    assert not too_many.fits
    # Among hundreds not every number is tried.
    assert 245 <= settings_of(too_many.remedies[0].settings)["teacher.replicas"] <= 256
