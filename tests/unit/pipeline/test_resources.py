"""The sum against a cluster that is only told of; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import ResourceError
from raykd.pipeline import capacity, cluster, nodes, resources
from raykd.pipeline.plan import phases

MakeJob = Callable[..., Any]


@pytest.fixture
def cluster_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A cluster of nodes with these resources; `free` is what nobody holds."""

    def make(*given: dict[str, Any], free: dict[str, float] | None = None) -> None:
        have: dict[str, float] = {}
        for node in given:
            for name, amount in node.items():
                if name != "labels":
                    have[name] = have.get(name, 0.0) + amount
        told = [
            {
                "Resources": {k: v for k, v in node.items() if k != "labels"},
                "Labels": node.get("labels", {}),
            }
            for node in given
        ]
        monkeypatch.setattr(capacity, "growth", lambda: None)
        monkeypatch.setattr(cluster, "totals", lambda: have)
        monkeypatch.setattr(nodes, "alive", lambda: told)
        monkeypatch.setattr(cluster, "free", lambda: have if free is None else free)

    return make


def test_enough(cluster_of: Callable[..., None], make_job: MakeJob) -> None:
    cluster_of({"CPU": 2.0})
    job = make_job()
    short, text = resources.shortage(job, phases(job))
    assert not short
    assert "the cluster has 2 CPUs and 0 GPUs" in text
    resources.require(job, phases(job))


def test_too_few_cpus_show_the_sum(cluster_of: Callable[..., None], make_job: MakeJob) -> None:
    cluster_of({"CPU": 2.0})
    job = make_job({"student.cpus_per_worker": 4.0})
    with pytest.raises(ResourceError) as caught:
        resources.require(job, phases(job))
    message = str(caught.value)
    assert "1 student ranks x 4" in message
    assert "the cluster has 2 CPUs and 0 GPUs" in message
    # 4 + 0.2 + 0.01 + 0.1 + 0.05 - 2
    assert "CPUs are 2.36 short" in message
    assert "lower teacher.replicas" in message


def test_too_few_gpus(cluster_of: Callable[..., None], make_job: MakeJob) -> None:
    cluster_of({"CPU": 64.0, "GPU": 2.0})
    job = make_job({"teacher.device": "gpu", "student.device": "gpu", "teacher.replicas": 2})
    short, text = resources.shortage(job, phases(job))
    assert short
    assert "GPUs are 1 short" in text
    assert "CPUs are" not in text


def test_the_shards_of_a_replica_share_a_node(
    cluster_of: Callable[..., None], make_job: MakeJob
) -> None:
    node = {"CPU": 8.0, "GPU": 2.0}
    cluster_of(node, node, node)
    changes = {"teacher.device": "gpu", "teacher.tensor_parallel": 2}
    job = make_job(changes)
    assert not resources.shortage(job, phases(job))[0]
    job = make_job({**changes, "teacher.tensor_parallel": 4})
    short, text = resources.shortage(job, phases(job))
    assert short
    assert "no single node has the 0.8 CPUs and 4 GPUs of a teacher replica" in text


def test_labels_that_no_node_carries(cluster_of: Callable[..., None], make_job: MakeJob) -> None:
    cluster_of({"CPU": 8.0, "labels": {"role": "teacher"}}, {"CPU": 8.0})
    job = make_job({"teacher.labels": {"role": "teacher"}})
    assert not resources.shortage(job, phases(job))[0]
    job = make_job({"student.labels": {"role": "student"}})
    short, text = resources.shortage(job, phases(job))
    assert short
    assert text.startswith("student.labels: no node carries {'role': 'student'}")


def test_what_others_hold_is_waited_for_and_then_refused(
    cluster_of: Callable[..., None], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(resources.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(resources.time, "sleep", lambda seconds: None)
    cluster_of({"CPU": 2.0}, free={"CPU": 0.1})
    job = make_job()
    with pytest.raises(ResourceError, match=r"but others hold them: CPUs are .* short"):
        resources.require(job, phases(job))


@pytest.mark.parametrize(
    ("cpus", "said"),
    [
        (1.0, "all 4 teacher replicas hold 0.84 CPUs and 0 GPUs: 3 fit now, others would wait"),
        (4.0, "all 4 teacher replicas hold 0.84 CPUs and 0 GPUs, which fit"),
    ],
)
def test_how_far_an_elastic_teacher_can_grow(
    cpus: float, said: str, cluster_of: Callable[..., None], make_job: MakeJob
) -> None:
    # 0.21 a replica; 0.2 + 0.1 + 0.05 for the students, the loader and the reader.
    cluster_of({"CPU": cpus})
    job = make_job({"teacher.replicas": {"min": 0, "max": 4}})
    short, text = resources.shortage(job, phases(job))
    assert not short
    assert "1 teacher replicas x 0.21" in text
    assert said in text


def test_an_elastic_teacher_that_cannot_even_begin(
    cluster_of: Callable[..., None], make_job: MakeJob
) -> None:
    cluster_of({"CPU": 0.5})
    job = make_job({"teacher.replicas": {"min": 0, "max": 4}})
    with pytest.raises(ResourceError, match=r"1 teacher replicas x 0\.21"):
        resources.require(job, phases(job))


def test_a_fixed_teacher_says_nothing_of_growing(
    cluster_of: Callable[..., None], make_job: MakeJob
) -> None:
    cluster_of({"CPU": 4.0})
    job = make_job()
    assert "teacher replicas hold" not in resources.shortage(job, phases(job))[1]
