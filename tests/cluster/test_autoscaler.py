"""Ray's own autoscaler brings up the nodes of a run, and takes them away."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..integration.runs import RAY_WARNINGS, assert_each_step_once
from .autoscaled import AutoscaledCluster, node_type
from .nodes import wait_for
from .providers import SAYS

pytestmark = [pytest.mark.cluster, pytest.mark.slow, *RAY_WARNINGS]

WriteJob = Callable[..., Path]


@pytest.fixture(scope="module")
def autoscaled() -> Iterator[AutoscaledCluster]:
    """Node types, some of which the provider runs out of."""
    types = {
        "teacher": node_type("teacher", 1, 2),
        "student": node_type("student", 2, 1),
        "rare-teacher": node_type("rare-teacher", 1, 2),
        "rare-student": node_type("rare-student", 2, 2),
        "no-teacher": node_type("no-teacher", 1, 2),
    }
    deliver = {"rare-teacher": 1, "rare-student": 1, "no-teacher": 0}
    cluster = AutoscaledCluster(types, deliver)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def placed(job_tree: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The tiny job, its parts placed by role."""

    def make(teacher: str, student: str = "student", **capacity: Any) -> dict[str, Any]:
        job_tree["teacher"] |= {"replicas": 2, "labels": {"raykd-role": teacher}}
        # One replica fills a node, so that two of them need two.
        job_tree["teacher"]["cpus_per_shard"] = 0.9
        job_tree["student"]["labels"] = {"raykd-role": student}
        job_tree["stream"]["labels"] = {"raykd-role": student}
        job_tree["capacity"] = capacity
        return job_tree

    return make


def test_nodes_come_for_a_run_and_go_after_it(
    autoscaled: AutoscaledCluster, placed: Any, write_job: WriteJob
) -> None:
    assert not autoscaled.nodes()
    tree = placed("teacher", wait_s=120)
    done, most = autoscaled.run(write_job(tree))
    assert done.returncode == 0, done.stdout + done.stderr
    assert most == {"teacher": 2, "student": 1}
    root = Path(tree["storage_path"]) / "tiny"
    assert_each_step_once(root, num_steps=4, global_batch=4)
    assert json.loads((root / "report.json").read_text())
    wait_for(lambda: not autoscaled.nodes()["teacher"], "idle teacher nodes to go", 60)


def test_nodes_that_never_come_end_the_run_with_the_reason(
    autoscaled: AutoscaledCluster, placed: Any, write_job: WriteJob
) -> None:
    done, most = autoscaled.run(write_job(placed("no-teacher", wait_s=20)))
    assert done.returncode == 1, done.stdout + done.stderr
    assert not most["no-teacher"]
    noted = [line for line in done.stdout.splitlines() if line.startswith("waiting ")]
    assert any(
        "2 teacher replicas (0.91 CPUs on one node with raykd-role=no-teacher)" in one
        for one in noted
    )
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith("error: waiting 2")
    assert "since " in said
    assert "a no-teacher could not be started" in said
    assert "no such machine free" in said
    assert SAYS in said
    assert said.endswith("the limit (capacity.wait_s: 20) is over")


def test_goes_on_with_the_nodes_that_came(
    autoscaled: AutoscaledCluster, placed: Any, write_job: WriteJob
) -> None:
    tree = placed("rare-teacher", "rare-student", wait_s=15, then="smaller")
    # One rank fills a node.
    tree["student"] |= {"num_workers": 2, "cpus_per_worker": 1.5}
    done, most = autoscaled.run(write_job(tree))
    assert done.returncode == 0, done.stdout + done.stderr
    assert most["rare-teacher"] == most["rare-student"] == 1
    assert "going on with 1 of 2 teacher replicas" in done.stdout
    assert "going on with 1 student ranks" in done.stdout
    assert_each_step_once(Path(tree["storage_path"]) / "tiny", num_steps=4, global_batch=4)
