"""The tally of requests, and the thread that looks at the teacher; no Ray is started."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from raykd.teacher import tally as tally_module
from raykd.teacher.tally import Tally
from raykd.teacher.watch import watched
from raykd.telemetry.replicas import ReplicaSample, read_samples


def sample(running: int = 1) -> ReplicaSample:
    return ReplicaSample(time=0.0, running=running, wanted=1, most=1, queued=0)


def test_the_tally_adds_up_the_latest_of_each_process() -> None:
    tally = Tally()
    assert tally.total() == 0
    tally.tell("a", 3)
    tally.tell("b", 2)
    tally.tell("a", 1)
    assert tally.total() == 3


def test_a_process_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tally_module.time, "monotonic", lambda: now[0])
    tally = Tally()
    tally.tell("a", 3)
    now[0] += tally_module.FORGOTTEN_S - 1
    tally.tell("b", 2)
    assert tally.total() == 5
    now[0] += 2
    assert tally.total() == 2


def test_samples_are_kept_and_shown(tmp_path: Path) -> None:
    shown: list[ReplicaSample] = []
    enough = threading.Event()

    def show(one: ReplicaSample) -> None:
        shown.append(one)
        if len(shown) == 3:
            enough.set()

    looks = iter([sample(1), None, sample(2), sample(3)])
    with watched(lambda: next(looks, None), tmp_path / "teacher.jsonl", show, every_s=0.001):
        assert enough.wait(10)
    assert shown == [sample(1), sample(2), sample(3)], "what Serve did not say is left out"
    assert read_samples(tmp_path / "teacher.jsonl") == shown
    time.sleep(0.02)
    assert len(shown) == 3


def test_the_end_does_not_wait_for_the_next_look(tmp_path: Path) -> None:
    started = time.monotonic()
    with watched(sample, tmp_path / "teacher.jsonl", lambda one: None, every_s=3600):
        pass
    assert time.monotonic() - started < 5


def test_a_look_that_ends_too_late_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.teacher.watch.LAST_LOOK_S", 0.05)
    hold, done = threading.Event(), threading.Event()

    def look() -> ReplicaSample:
        hold.wait(10)
        done.set()
        return sample()

    with watched(look, tmp_path / "teacher.jsonl", lambda one: None):
        pass
    hold.set()
    assert done.wait(10)
    time.sleep(0.05)
    assert read_samples(tmp_path / "teacher.jsonl") == []
