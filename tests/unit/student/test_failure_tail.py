"""Failed ranks, seen while the group may still be restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.errors import DivergenceError
from raykd.student import failures
from raykd.student.failure_tail import FailuresTail


def fail(logs: Path, rank: int, error: Exception) -> None:
    try:
        raise error
    except type(error) as raised:
        failures.keep(logs, rank, raised)


def test_each_failure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 200))
    monkeypatch.setattr(failures.time, "time", lambda: float(next(clock)))
    fail(tmp_path, 1, ValueError("of a run before"))
    tail = FailuresTail(tmp_path)
    assert tail.poll() == []
    fail(tmp_path, 2, DivergenceError("loss is nan\nat step 3"))
    fail(tmp_path, 0, ValueError("later"))
    first, second = tail.poll()
    assert (first.rank, first.error) == (2, "DivergenceError")
    assert first.sentence == "rank 2 failed: DivergenceError: at step 3"
    assert "test_failure_tail.py" in first.traceback
    assert second.sentence == "rank 0 failed: ValueError: later"
    assert tail.poll() == []
    failures.forget(tmp_path, 0)
    assert tail.poll() == []
    fail(tmp_path, 0, ValueError("later"))
    assert [one.rank for one in tail.poll()] == [0], "a rank may fail twice in the same words"
