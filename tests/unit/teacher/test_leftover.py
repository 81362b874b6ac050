from __future__ import annotations

from types import SimpleNamespace

import pytest

from raykd.teacher import leftover


@pytest.mark.parametrize(
    ("apps", "removed"),
    [([], []), (["another"], []), (["raykd-a-1", "another"], ["raykd-a-1"])],
)
def test_only_the_runs_own_teacher_is_taken_down(
    apps: list[str], removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[str] = []
    status = SimpleNamespace(applications=dict.fromkeys(apps))
    monkeypatch.setattr(leftover.serve, "status", lambda: status)
    monkeypatch.setattr(leftover.serve, "delete", gone.append)
    assert leftover.remove("raykd-a-1") is bool(removed)
    assert gone == removed
