"""What is told of nodes that do not come, and how the wait ends; no Ray is started."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import CapacityError
from raykd.pipeline import cluster, launches, nodes, waiting
from raykd.pipeline.demands import LOADERS, RANKS, REPLICAS, TASK, Pending, pending
from raykd.pipeline.launches import Launches, failures, plain_words
from raykd.pipeline.waiting import NodeWaits

MakeJob = Callable[..., Any]
NOON = time.mktime((2026, 5, 4, 12, 0, 0, 0, 0, -1))
MONITOR_LOG = """\
2026-05-04 11:00:00,100\tINFO node_provider.py:492 -- Failed to launch 1 nodes of type old: no
2026-05-04 12:00:05,484\tINFO node_provider.py:485 -- Launching 2 nodes of type teacher.
2026-05-04 12:00:06,484\tINFO node_provider.py:492 -- Failed to launch 2 nodes of type teacher: 1st
2026-05-04 12:00:09,484\tINFO node_provider.py:492 -- Failed to launch 2 nodes of type teacher: An \
error occurred (InsufficientInstanceCapacity) when calling RunInstances
"""


class Told:
    """A person, a clock and a cluster."""

    def __init__(self, job: Any) -> None:
        self.now = NOON
        self.pending: list[Pending] = []
        self.notes: list[str] = []
        self.waits = NodeWaits(
            job,
            self.notes.append,
            lambda _: self.pending,
            lambda _: "1 teacher asked for",
            lambda: self.now,
        )

    def look_after(self, seconds: float) -> None:
        self.now += seconds
        self.waits.look()


TWO_REPLICAS = Pending(REPLICAS, 2, "8 CPUs on one node with raykd-role=teacher")


def test_a_short_wait_is_not_told(make_job: MakeJob) -> None:
    told = Told(make_job())
    told.pending = [TWO_REPLICAS]
    told.look_after(0)
    told.look_after(9)
    told.pending = []
    told.look_after(5)
    assert not told.notes


def test_who_waits_for_what_since_when_and_until_when(make_job: MakeJob) -> None:
    told = Told(make_job({"teacher.replicas": 2, "capacity.wait_s": 90}))
    told.pending = [TWO_REPLICAS]
    told.look_after(0)
    told.look_after(10)
    assert told.notes == [
        "waiting 10s for nodes, since 12:00:00: 2 teacher replicas (8 CPUs on one node with "
        "raykd-role=teacher); nodes: 1 teacher asked for; ends at 12:01:30, the limit "
        "(capacity.wait_s: 90)"
    ]
    for _ in range(29):
        told.look_after(2)
    assert len(told.notes) == 1
    told.look_after(2)
    assert len(told.notes) == 2
    told.pending = []
    told.look_after(4)
    assert told.notes[-1] == "teacher replicas: no longer waiting for nodes, after 1m 14s"
    assert told.waits.overdue() is None


def test_more_replicas_of_a_teacher_that_runs_end_nothing(make_job: MakeJob) -> None:
    told = Told(make_job({"teacher.replicas": {"min": 2, "max": 4}, "capacity.wait_s": 90}))
    told.waits.teacher_began()
    told.pending = [Pending(REPLICAS, 1, "8 CPUs")]
    told.look_after(0)
    told.look_after(10)
    assert "1 teacher replica (8 CPUs)" in told.notes[0]
    assert "ends at" not in told.notes[0]


def test_a_wait_is_overdue_after_the_limit_and_begins_anew(make_job: MakeJob) -> None:
    told = Told(make_job({"capacity.wait_s": 30}))
    told.pending = [TWO_REPLICAS]
    told.look_after(0)
    told.look_after(29)
    assert told.waits.overdue() is None
    told.look_after(1)
    said = told.waits.overdue()
    assert said is not None
    assert said.startswith("waiting 30s for nodes, since 12:00:00")
    assert said.endswith("the limit (capacity.wait_s: 30) is over")
    told.pending = []
    told.look_after(1)
    told.pending = [TWO_REPLICAS]
    told.look_after(1)
    assert told.waits.overdue() is None
    told.look_after(40)
    assert str(told.waits.overdue()).startswith("waiting 40s for nodes, since 12:00:32")


@pytest.mark.parametrize(("waited_s", "ends"), [(31.0, True), (29.0, False), (0.0, False)])
def test_a_task_without_a_node_is_given_up(
    waited_s: float, ends: bool, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(make_job({"capacity.wait_s": 30}))
    told.pending = [Pending(TASK, 1, "1 CPU")]
    told.look_after(0)
    told.look_after(31)
    monkeypatch.setattr(cluster, "waited_s", lambda: waited_s)
    if ends:
        with pytest.raises(CapacityError, match=r"a task \(1 CPU\)"):
            told.waits.end_long_waits()
    else:  # what has no node is another job's: this one has not been waited for as long
        told.waits.end_long_waits()


@pytest.mark.parametrize("part", [RANKS, LOADERS])
def test_others_do_not_end_the_wait_for_a_task(
    part: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(make_job({"capacity.wait_s": 30}))
    told.pending = [Pending(part, 1, "1 CPU")]
    told.look_after(0)
    told.look_after(31)
    monkeypatch.setattr(cluster, "waited_s", lambda: 31.0)
    told.waits.end_long_waits()
    assert "1 CPU" in told.notes[0]


def test_a_cluster_of_fixed_size_is_not_watched(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting.capacity, "growth", lambda: None)
    with waiting.watched(make_job(), print):
        assert waiting.active() is None


def test_a_cluster_that_grows_is_watched(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting.capacity, "growth", lambda: waiting.capacity.Growth(()))
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)
    monkeypatch.setattr(waiting, "NOTE_AFTER_S", 0.05)
    monkeypatch.setattr(waiting, "_pending_now", lambda _: [Pending(LOADERS, 1, "1 CPU")])
    monkeypatch.setattr(waiting, "_launched_since", lambda _: "")
    notes: list[str] = []
    with waiting.watched(make_job(), notes.append):
        assert waiting.active() is not None
        assert len(cluster._looks) == 1
        deadline = time.monotonic() + 5
        while not notes and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "no node is on its way" in notes[0]
    assert waiting.active() is None
    assert not cluster._looks


def status_of(**parts: list[Any]) -> Any:
    """What a cluster says, from bundles: gangs and single requests, pending or infeasible."""
    from ray.core.generated import autoscaler_pb2 as said

    reply = said.GetClusterStatusReply()
    state, scaler = reply.cluster_resource_state, reply.autoscaling_state
    for key, to in (
        ("gangs", state.pending_gang_resource_requests),
        ("hopeless_gangs", scaler.infeasible_gang_resource_requests),
    ):
        for bundles in parts.get(key, []):
            to.add(requests=[said.ResourceRequest(resources_bundle=b) for b in bundles])
    for bundles in parts.get("newer_gangs", []):
        requests = [said.ResourceRequest(resources_bundle=b) for b in bundles]
        gang = state.pending_gang_resource_requests.add()
        gang.bundle_selectors.add(resource_requests=requests)
    for bundle, count in parts.get("singles", []):
        request = said.ResourceRequest(resources_bundle=bundle)
        state.pending_resource_requests.add(request=request, count=count)
    for bundle, role, count in parts.get("labelled", []):
        request = said.ResourceRequest(resources_bundle=bundle)
        request.label_selectors.add().label_constraints.add(label_key="role", label_values=[role])
        state.pending_resource_requests.add(request=request, count=count)
    for bundle in parts.get("hopeless", []):
        scaler.infeasible_resource_requests.add(resources_bundle=bundle)
    return reply


def test_parts_are_known_by_what_they_hold(make_job: MakeJob) -> None:
    replica = [{"CPU": 0.01}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    job = make_job(
        {
            "teacher.device": "gpu",
            "teacher.tensor_parallel": 2,
            "teacher.cpus_per_shard": 4.0,
            "teacher.labels": {"raykd-role": "teacher"},
            "student.num_workers": 2,
            "student.cpus_per_worker": 6.0,
        }
    )
    # Of two ranks one has its node; of two replicas neither.
    found = pending(
        job,
        status_of(
            gangs=[replica, [{"CPU": 6.0}], [{"CPU": 99.0}]],
            newer_gangs=[replica],
            hopeless_gangs=[replica],
            singles=[({"CPU": 0.1}, 1), ({"CPU": 1.0}, 1), ({"CPU": 77.0}, 5)],
            hopeless=[{"CPU": 1.0}],
            labelled=[({"CPU": 1.0}, "other", 3)],
        ),
    )
    assert [(each.part, each.count, each.hopeless) for each in found] == [
        (REPLICAS, 2, True),
        (RANKS, 1, False),
        (LOADERS, 1, False),
        (TASK, 1, True),
    ]
    told = found[0].told()
    assert told.startswith(
        "2 teacher replicas (8.01 CPUs and 2 GPUs on one node with raykd-role=teacher)"
    )
    assert "no node that the autoscaler may start now has room" in told


def test_nothing_pends(make_job: MakeJob) -> None:
    assert pending(make_job(), status_of()) == []


def test_the_newest_failure_of_each_type_is_read_from_the_log() -> None:
    found = failures(MONITOR_LOG, NOON)
    assert found == {
        "teacher": (
            NOON + 9,
            "An error occurred (InsufficientInstanceCapacity) when calling RunInstances",
        )
    }


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("An error occurred (InsufficientInstanceCapacity) when", "no such machine free"),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS: a3", "no such machine free"),
        ("(SkuNotAvailable) The requested VM size", "no such machine free"),
        ("An error occurred (VcpuLimitExceeded)", "quota is used up"),
        ("Quota 'NVIDIA_H100_GPUS' exceeded. QUOTA_EXCEEDED", "quota is used up"),
        ("An error occurred (UnauthorizedOperation)", "no right to start it"),
        ("botocore.exceptions.ParamValidationError: Parameter", "refuses the node's config"),
    ],
)
def test_providers_failures_in_plain_words(said: str, meaning: str) -> None:
    words = plain_words(f"{said}\nmore of it")
    assert meaning in words
    assert f"({said})" in words


def test_an_unknown_failure_is_passed_on() -> None:
    assert plain_words("The moon is full\n  at x.py") == "The moon is full"
    assert plain_words("") == "no reason given"


def test_launches_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    state = status_of().autoscaling_state
    state.pending_instance_requests.add(ray_node_type_name="teacher", count=2)
    state.pending_instances.add(ray_node_type_name="student")
    state.failed_instance_requests.add(ray_node_type_name="rare", failed_ts=int(NOON) - 1)
    monkeypatch.setattr(nodes, "on_the_head", lambda *_: {"teacher": (NOON + 9, "The moon")})
    found = launches.launches(state, NOON)
    assert found == Launches({"teacher": 2}, {"student": 1}, {"teacher": (NOON + 9, "The moon")})
    assert found.told(NOON + 29) == (
        "2 teacher asked for, 1 student starting, a teacher could not be started 20s ago: The moon"
    )
