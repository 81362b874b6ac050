"""A teacher whose nodes do not come: it waits, ends, or goes on smaller; no Ray is started."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.config.teacher import TeacherConfig
from raykd.errors import CapacityError, TeacherError
from raykd.teacher import service
from raykd.teacher.service import TeacherService, Window
from raykd.teacher.status import ReplicaCounts

CONFIG = TeacherConfig(model="m", replicas=3, start_timeout_s=10, request_timeout_s=5)


class FakeNodes:
    """Nodes that are overdue from the second look on."""

    limit_s = 100.0

    def __init__(self, waiting: int, smaller: bool) -> None:
        self._waiting = waiting
        self.go_on_smaller = smaller
        self.notes: list[str] = []
        self.looks = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def waiting(self) -> int:
        return self._waiting

    def overdue(self) -> str | None:
        self.looks += 1
        return "waiting for a node" if self.looks > 1 else None


class FakeThread:
    """Serve's wait for all replicas, which lasts for some looks."""

    def __init__(self, clock: list[float], lasts: int) -> None:
        self._clock, self._left = clock, lasts

    def is_alive(self) -> bool:
        return self._left > 0

    def join(self, timeout: float) -> None:
        self._clock[0] += 1
        self._left -= 1


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service whose replicas are being started."""

    def make(nodes: FakeNodes | None, running: list[int], lasts: int = 10**6) -> TeacherService:
        clock = [0.0]
        teacher: Any = TeacherService("app", CONFIG, None, Window(4, 1.0), nodes)  # type: ignore[arg-type]
        teacher._thread = FakeThread(clock, lasts)
        teacher._stop_on_failure = lambda: None
        teacher._why = lambda: "it did not start"

        def counts(_: str) -> ReplicaCounts:
            return ReplicaCounts(running.pop(0) if len(running) > 1 else running[0], 1)

        monkeypatch.setattr(service.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(service, "replica_counts", counts)
        monkeypatch.setattr(service, "TeacherClient", lambda app, patience, tally: patience)
        teacher.clock = clock
        return teacher  # type: ignore[no-any-return]

    return make


def test_nodes_that_do_not_come_end_the_start(starting: Any) -> None:
    with pytest.raises(CapacityError, match="waiting for a node"):
        starting(FakeNodes(1, smaller=False), [2]).wait()


def test_not_one_replica_has_a_node(starting: Any) -> None:
    with pytest.raises(CapacityError, match="waiting for a node"):
        starting(FakeNodes(3, smaller=True), [0]).wait()


def test_goes_on_with_what_is_there_once_it_runs(starting: Any) -> None:
    nodes = FakeNodes(1, smaller=True)
    # Two have their nodes; both load at first, then one is ready.
    starting(nodes, [0, 0, 1]).wait()
    (note,) = nodes.notes
    assert note.startswith("going on with 1 of 3 teacher replicas")
    assert "the others join when their nodes come" in note
    assert "waiting for a node" in note


def test_all_come_in_time(starting: Any) -> None:
    nodes = FakeNodes(1, smaller=True)
    nodes.overdue = lambda: None  # type: ignore[method-assign]
    starting(nodes, [3], lasts=50).wait()
    assert not nodes.notes


def test_time_outs_nest(starting: Any) -> None:
    nodes = FakeNodes(0, smaller=False)
    nodes.overdue = lambda: None  # type: ignore[method-assign]
    teacher = starting(nodes, [0])
    with pytest.raises(TeacherError, match="it did not start"):
        teacher.wait()
    assert teacher.clock[0] == pytest.approx(10 + 100, abs=1)
    teacher = starting(None, [0])
    with pytest.raises(TeacherError):
        teacher.wait()
    assert teacher.clock[0] == pytest.approx(10, abs=1)
    # A request waits as long for a replica that comes back on a new node.
    assert starting(nodes, [3], lasts=5).wait().start_timeout_s == 110
