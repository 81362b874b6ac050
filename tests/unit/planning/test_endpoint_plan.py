"""A teacher behind an endpoint holds nothing, and a plan promises nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.clusters.hardware import Hardware
from raykd.clusters.job_fit import fit_findings
from raykd.pipeline.plan import phases
from raykd.planning.accelerators import read_accelerators
from raykd.planning.model_files import read_models
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates

RATES = Rates(teacher_tokens_per_s=1000.0, student_tokens_per_s=400.0, source="a test")


@pytest.fixture
def job(make_job: Callable[..., Any]) -> Any:
    return make_job(
        {
            "method": "sequence",
            "loss": {},
            "generation": {},
            "data.corpus.columns": {"text": "text"},
            "teacher": {
                "engine": "openai",
                "model": "somewhere/else",
                "endpoint": {"base_url": "http://vllm:8000/v1"},
            },
            "student.device": "gpu",
        }
    )


def test_no_phase_holds_a_teacher(job: Any) -> None:
    assert list(phases(job)) == ["training"]
    assert {demand.part for demand in phases(job)["training"]} == {
        "student ranks",
        "loaders",
        "reader",
    }


@pytest.mark.parametrize("placed", [True, False])
def test_the_plan_is_the_students(job: Any, hardware: Hardware, placed: bool) -> None:
    hardware_or_none = hardware if placed else None
    models = read_models(job)
    plan = make_plan(job, Asked(models, hardware_or_none, read_accelerators(), RATES, rows=1000))
    assert plan.fits
    assert [line.side for line in plan.models] == ["student"]
    assert {each.part for each in plan.demands if "teacher" in each.part} == set()
    assert not [line for line in plan.memory if "teacher" in line.part or "shard" in line.part]
    assert plan.speed.teacher_tokens_per_s is None
    assert plan.speed.tokens_per_s == plan.speed.student_tokens_per_s
    assert plan.cost is not None
    assert not plan.cost.teacher_gpu_hours
    (said,) = [note for note in plan.notes if "teacher" in note and "not planned" in note]
    assert "somewhere/else at http://vllm:8000/v1" in said
    assert not [note for note in plan.notes if "requests to the teacher in flight" in note]


def test_a_cluster_without_teacher_nodes_is_enough(job: Any, hardware: Hardware) -> None:
    assert not list(fit_findings(job, hardware))
