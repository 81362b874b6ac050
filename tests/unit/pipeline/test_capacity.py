"""What a cluster may grow to; no Ray is started."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import ResourceError
from raykd.pipeline import capacity, cluster, nodes, resources
from raykd.pipeline.capacity import Growth, NodeKind, Place
from raykd.pipeline.plan import phases

MakeJob = Callable[..., Any]
TEACHER, STUDENT = {"raykd-role": "teacher"}, {"raykd-role": "student"}
CONFIG = """
head_node_type: head
max_workers: 9
provider: {type: aws, secret_key: do-not-read}
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0, node_config: {InstanceType: m7i.large}}
  teacher:
    resources: {CPU: 96, GPU: 8}
    labels: {raykd-role: teacher}
    max_workers: 2
    node_config: {InstanceType: p4d.24xlarge}
  student: {resources: {CPU: 192, GPU: 8}, labels: {raykd-role: student}, max_workers: 1}
"""


def head(port: int, *options: str) -> list[str]:
    return [
        "/usr/bin/python",
        "/site-packages/ray/autoscaler/v2/monitor.py",
        f"--gcs-address=10.0.0.1:{port}",
        *options,
    ]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The processes of this machine, by their command lines."""

    class Process:
        def __init__(self, command: list[str]) -> None:
            self.info = {"cmdline": command}

    def make(*commands: list[str]) -> None:
        import psutil

        monkeypatch.setattr(psutil, "process_iter", lambda _: [Process(c) for c in commands])

    return make


def test_the_heads_autoscaler_says_what_it_may_start(
    tmp_path: Path, processes: Callable[..., None]
) -> None:
    file = tmp_path / "bootstrap.yaml"
    file.write_text(CONFIG)
    processes(["sleep", "5"], head(7000), head(6379, f"--autoscaling-config={file}"))
    found = capacity.autoscaler_here("10.0.0.1:6379")
    assert "do-not-read" not in str(found)
    assert not isinstance(found, str)
    assert capacity.from_config(found) == Growth(
        (
            NodeKind("teacher", {"CPU": 96, "GPU": 8}, TEACHER, 2),
            NodeKind("student", {"CPU": 192, "GPU": 8}, STUDENT, 1),
        ),
        9,
    )


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        ([head(6379)], "none"),
        ([head(7000, "--autoscaling-config=/other.yaml")], "elsewhere"),
        ([head(6379, "--autoscaling-config=/is/not/there.yaml")], "elsewhere"),
    ],
)
def test_heads_without_a_readable_autoscaler(
    commands: list[list[str]], said: str, processes: Callable[..., None]
) -> None:
    processes(*commands)
    assert capacity.autoscaler_here("10.0.0.1:6379") == said


@pytest.mark.parametrize(("version", "grows"), [(0, None), (7, Growth(()))])
def test_an_autoscaler_elsewhere_is_one_that_reports(
    version: int, grows: Growth | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    answer = GetClusterStatusReply()
    answer.autoscaling_state.autoscaler_state_version = version
    monkeypatch.setattr(capacity, "_told_to_ray", lambda: None)
    monkeypatch.setattr(cluster, "gcs_address", lambda: "10.0.0.1:6379")
    monkeypatch.setattr(nodes, "on_the_head", lambda *_: "elsewhere")
    monkeypatch.setattr(cluster, "status", lambda: answer)
    assert capacity.growth() == grows


def brute_force_room(
    kinds: list[tuple[float, float, int]], most: int, cpus: float, gpus: float
) -> int:
    """Parts on the best choice of nodes, by trying every choice."""
    best = 0
    for counts in itertools.product(*(range(n + 1) for *_, n in kinds)):
        if sum(counts) > most:
            continue
        placed = 0
        for (have_cpus, have_gpus, _), count in zip(kinds, counts, strict=True):
            each = 0
            while (each + 1) * cpus <= have_cpus and (each + 1) * gpus <= have_gpus:
                each += 1
            placed += each * count
        best = max(best, placed)
    return best


def test_room_is_that_of_the_best_choice_of_nodes() -> None:
    draw = random.Random(5)
    for _ in range(200):
        kinds = [(draw.randint(0, 8), draw.randint(0, 4), draw.randint(0, 3)) for _ in range(3)]
        most, cpus, gpus = draw.randint(0, 6), draw.randint(1, 4), draw.randint(0, 3)
        places = [
            Place(str(i), {"CPU": c, "GPU": g}, {}, n, may_come=True)
            for i, (c, g, n) in enumerate(kinds)
        ]
        grows = Growth((), most)
        room = capacity.room(grows, places, cpus, gpus, {})
        assert room == brute_force_room(kinds, most, cpus, gpus)


def test_who_does_not_say_what_it_has_is_not_held_to_lack_it() -> None:
    grows = Growth((NodeKind("any", {}, None, 3),))
    places = [Place("any", {}, None, 3, may_come=True)]
    assert capacity.room(grows, places, 64, 8, TEACHER) >= 3
    assert capacity.most(grows, places, "GPU") > 1e6


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A head alone, and node types that may come."""

    def make(*kinds: NodeKind, most: int | None = None, up: tuple[Any, ...] = ()) -> None:
        alive = [{"NodeID": "head", "Resources": {"CPU": 0.0}, "Labels": {}}, *up]
        monkeypatch.setattr(capacity, "growth", lambda: Growth(kinds, most))
        monkeypatch.setattr(nodes, "alive", lambda: alive)
        monkeypatch.setattr(cluster, "totals", lambda: {"CPU": 0.0})
        monkeypatch.setattr(
            cluster, "node_types", lambda: {n["NodeID"]: n["type"] for n in alive if "type" in n}
        )

    return make


ROLES = {
    "teacher.labels": TEACHER,
    "student.labels": STUDENT,
    "stream.labels": STUDENT,
    "teacher.replicas": 2,
    "teacher.cpus_per_shard": 0.9,
}


def test_what_may_come_counts(growing: Callable[..., None], make_job: MakeJob) -> None:
    growing(
        NodeKind("teacher", {"CPU": 1.0}, TEACHER, 2), NodeKind("student", {"CPU": 1.0}, STUDENT, 1)
    )
    job = make_job(ROLES)
    short, text = resources.shortage(job, phases(job))
    assert not short
    assert "may grow to 3 CPUs and 0 GPUs (nodes: 2 teacher, 1 student)" in text
    resources.require(job, phases(job))


def test_a_maximum_that_is_too_low_is_refused_with_the_sum(
    growing: Callable[..., None], make_job: MakeJob
) -> None:
    growing(
        NodeKind("teacher", {"CPU": 1.0}, TEACHER, 1), NodeKind("student", {"CPU": 8.0}, STUDENT, 1)
    )
    job = make_job(ROLES)
    with pytest.raises(ResourceError) as caught:
        resources.require(job, phases(job))
    said = str(caught.value)
    assert "2 teacher replicas need 0.9 CPUs and 0 GPUs each" in said
    assert "(1 teacher) have room for 1" in said


def test_too_little_in_all_shows_the_sum(growing: Callable[..., None], make_job: MakeJob) -> None:
    growing(NodeKind("any", {"CPU": 1.0}, {**TEACHER, **STUDENT}, 2), most=1)
    job = make_job({"teacher.replicas": 2, "teacher.cpus_per_shard": 0.9})
    with pytest.raises(ResourceError, match=r"may grow to 1 CPUs.*CPUs are 1\.17 short"):
        resources.require(job, phases(job))


def test_labels_that_no_type_carries(growing: Callable[..., None], make_job: MakeJob) -> None:
    growing(NodeKind("any", {"CPU": 64.0}, {}, 9))
    job = make_job({"stream.labels": {"raykd-role": "data"}})
    with pytest.raises(ResourceError, match=r"stream\.labels: no node carries.*max_workers above"):
        resources.require(job, phases(job))


def test_a_type_without_nodes_to_come_is_none(
    growing: Callable[..., None], make_job: MakeJob
) -> None:
    growing(NodeKind("any", {"CPU": 64.0}, {}, 9), NodeKind("data", {"CPU": 8.0}, STUDENT, 0))
    job = make_job({"stream.labels": STUDENT})
    with pytest.raises(ResourceError, match=r"stream\.labels: no node carries"):
        resources.require(job, phases(job))


def test_a_node_that_is_up_counts_once(growing: Callable[..., None], make_job: MakeJob) -> None:
    up = {"NodeID": "a", "type": "any", "Resources": {"CPU": 1.0}, "Labels": TEACHER}
    growing(NodeKind("any", {"CPU": 1.0}, {}, 1), up=(up,))
    assert sum(p.count for p in capacity.places(capacity.growth()) if p.name == "any") == 1
    # What it shows of itself counts beside what its configuration says.
    job = make_job({"teacher.labels": TEACHER})
    assert not resources.shortage(job, phases(job))[0]


def test_an_autoscaler_that_does_not_say_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, growing: Callable[..., None], make_job: MakeJob
) -> None:
    growing()
    job = make_job(ROLES)
    short, text = resources.shortage(job, phases(job))
    assert not short
    assert "scales itself, and does not say how far" in text
