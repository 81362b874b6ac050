"""Whether a job's parts find nodes: labels, the size of one node, the number of nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_cases import AWS, KUBERAY, written

from raykd.clusters.check import check_cluster
from raykd.clusters.finding import Finding
from raykd.config.load import load_job

MakeFit = Callable[..., list[Finding]]


QUICKSTART = Path(__file__).parents[3] / "jobs" / "quickstart.yaml"


@pytest.fixture
def fit(tmp_path: Path) -> MakeFit:
    """Check AWS's good file against the quickstart with `--set` overrides."""

    def look(*overrides: str, text: str = AWS) -> list[Finding]:
        job = load_job(QUICKSTART, list(overrides))
        found = check_cluster(written(tmp_path, text, "aws.yaml"), job)
        return [each for each in found if each.subject == "fit"]

    return look


PLACED = ("teacher.labels={raykd-role: teacher}", "student.labels={raykd-role: student}")


def test_a_job_that_fits(fit: MakeFit) -> None:
    [found] = fit(*PLACED)
    assert found.level == "ok"


def test_labels_that_no_node_type_carries(fit: MakeFit) -> None:
    [found] = fit("teacher.labels={raykd-role: techer}", PLACED[1])
    assert found.level == "fix this"
    assert found.text == (
        "teacher.labels: no node type carries raykd-role: techer; there is raykd-role: head, "
        "raykd-role: student, raykd-role: teacher"
    )


def test_a_replica_that_no_node_has_room_for(fit: MakeFit) -> None:
    [found] = fit(*PLACED, "teacher.tensor_parallel=4", "teacher.cpus_per_shard=32")
    assert found.level == "fix this"
    assert "needs 128 CPUs on one node" in found.text
    assert "teacher 96 and 8" in found.text


def test_more_replicas_than_all_nodes_have_room_for(fit: MakeFit) -> None:
    """Four nodes of 96 CPUs hold eight replicas of 48."""
    fits = ("teacher.cpus_per_shard=48", "teacher.replicas=8")
    assert [each.level for each in fit(*PLACED, *fits)] == ["ok"]
    [found] = fit(*PLACED, "teacher.cpus_per_shard=48", "teacher.replicas=9")
    assert found.level == "fix this"
    assert "9 x teacher replica" in found.text
    assert "at most 8" in found.text


def test_gpus_count_as_well(fit: MakeFit) -> None:
    """Four nodes of 8 GPUs hold 16 replicas of two."""
    gpus = ("teacher.device=gpu", "teacher.tensor_parallel=2")
    assert [each.level for each in fit(*PLACED, *gpus, "teacher.replicas=16")] == ["ok"]
    [found] = fit(*PLACED, *gpus, "teacher.replicas=17")
    assert "at most 16" in found.text


def test_manifests_without_a_cluster_hold_no_job(fit: MakeFit) -> None:
    [found] = fit(*PLACED, text=KUBERAY.partition("---\n")[0])
    assert (found.level, found.text) == ("fix this", "no Ray cluster is in the file")
