from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails

from raykd.errors import RunError
from raykd.submission import follow as following
from raykd.submission.find import Submission
from raykd.submission.follow import exit_code, follow, told

TEXT = "[check] …\n[train] step 1\n[train] step 2 of 9\n[train] done\n"


class Line:
    """A client whose connection is cut after given numbers of characters.

    Args:
        cuts: Where each connection ends; None is a good one.
        states: What `get_job_info` answers, the last one again and again.
    """

    def __init__(self, cuts: list[int | None], states: list[Any]) -> None:
        self.cuts, self.states, self.asked = cuts, states, 0

    def get_job_info(self, _: str) -> Any:
        now = self.states[min(self.asked, len(self.states) - 1)]
        self.asked += 1
        if isinstance(now, Exception):
            raise now
        return now

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        cut = self.cuts.pop(0) if len(self.cuts) > 1 else self.cuts[0]
        text = TEXT[:cut]
        for at in range(0, len(text), 7):
            yield text[at : at + 7]
        if cut is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.001)


@pytest.fixture
def job(details: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    return lambda **changes: JobDetails(**details("tiny-1", **changes))


def followed(client: Any, **options: Any) -> tuple[str, list[str], Submission]:
    out: list[str] = []
    notes: list[str] = []
    ended = follow(client, "http://h", "tiny-1", out.append, notes.append, **options)
    return "".join(out), notes, ended


def test_all_lines_and_the_end(job: Callable[..., Any]) -> None:
    out, notes, ended = followed(Line([None], [job(), job(status="SUCCEEDED")]))
    assert out == TEXT
    assert notes == []
    assert ended.status == "SUCCEEDED"


def test_no_line_is_lost_or_repeated_over_lost_connections(job: Callable[..., Any]) -> None:
    cuts = [0, 5, 3, 20, 20, 41, None]
    states = [job()] * 3 + [ConnectionError("refused")] + [job()] * 5 + [job(status="FAILED")]
    out, _, ended = followed(Line(cuts, states))
    assert out == TEXT
    assert ended.status == "FAILED"


def test_a_waiting_job_says_so_once(job: Callable[..., Any]) -> None:
    waiting = job(status="PENDING", message="Job has not started yet.")
    states = [waiting, waiting, job(status="PENDING", message="setting up"), job(status="STOPPED")]
    out, notes, _ = followed(Line([None], states))
    assert notes == ["waiting: Job has not started yet.", "waiting: setting up"]
    assert out == TEXT


def test_a_cluster_that_is_gone_is_given_up(job: Callable[..., Any]) -> None:
    states = [job(), ConnectionError("refused")]
    with pytest.raises(RunError, match=r"^tiny-1: http://h has not sent its lines .*`raykd status"):
        followed(Line([4], states), lost_after_s=0.05)
    with pytest.raises(RunError, match="closed unexpectedly"):
        followed(Line([4], [job()]), lost_after_s=0.05)


def test_a_job_that_ended_has_its_exit_code_though_its_lines_are_lost(
    job: Callable[..., Any],
) -> None:
    states = [job(status="FAILED", driver_exit_code=2)]
    out, notes, ended = followed(Line([4], states), lost_after_s=0.05)
    assert out == TEXT[:4]
    assert notes == ["its last lines cannot be read (WebSocket connection closed unexpectedly)"]
    assert exit_code(ended) == 2


def test_a_connection_that_held_begins_patience_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 100.0, 200.0, 200.0, 500.0, 501.0])
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    patience = following._Patience(120.0)
    patience.begin()  # 0
    assert not patience.is_at_its_end()  # 1: the first failure
    patience.begin()  # 10
    assert not patience.is_at_its_end()  # 100: it held for 90 s
    patience.begin()  # 200
    assert not patience.is_at_its_end()  # 200: failing for 100 s
    patience.begin()  # 500
    assert patience.is_at_its_end()  # 501


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 130),
    ],
)
def test_exit_codes(job: Callable[..., Any], status: str, driver: int | None, code: int) -> None:
    assert exit_code(Submission.of(job(status=status, driver_exit_code=driver))) == code


def test_how_it_ended(job: Callable[..., Any]) -> None:
    def say(**changes: Any) -> str:
        return told(Submission.of(job(**changes)))

    assert say(status="SUCCEEDED") == "tiny-1 succeeded"
    failed = {"status": "FAILED", "driver_exit_code": 2, "message": "Job entrypoint ...\nlines"}
    assert say(**failed, error_type="JOB_ENTRYPOINT_COMMAND_ERROR") == (
        "tiny-1 failed with exit code 2"
    )
    assert say(status="FAILED", message="runtime_env setup failed:\n\n  no space left\n") == (
        "tiny-1 failed: runtime_env setup failed: ... no space left"
    )
    assert say(status="FAILED", message="gone") == "tiny-1 failed: gone"
