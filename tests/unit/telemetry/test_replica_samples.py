"""The teacher's log: what is written is read, and averages go by time."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.errors import RunError
from raykd.telemetry.replicas import (
    ReplicaSample,
    append_sample,
    elapsed_s,
    mean_running,
    read_samples,
)


def sample(time: float, running: int = 1, queued: int = 0) -> ReplicaSample:
    return ReplicaSample(time=time, running=running, wanted=running, most=4, queued=queued)


def test_there_and_back(tmp_path: Path) -> None:
    samples = [sample(1.5, 2, 7), sample(6.5, 0)]
    for one in samples:
        append_sample(tmp_path / "teacher.jsonl", one)
    assert read_samples(tmp_path / "teacher.jsonl") == samples


def test_no_file_no_samples(tmp_path: Path) -> None:
    assert read_samples(tmp_path / "teacher.jsonl") == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "teacher.jsonl"
    append_sample(file, sample(1.0))
    with file.open("a") as log:
        log.write('{"time": 2.0, "run')
    assert read_samples(file) == [sample(1.0)]


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"time": 2.0}'])
def test_a_malformed_line_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "teacher.jsonl"
    append_sample(file, sample(1.0))
    with file.open("a") as log:
        log.write(line + "\n")
    with pytest.raises(RunError, match=r"teacher\.jsonl:2: "):
        read_samples(file)


def test_the_mean_goes_by_time() -> None:
    assert mean_running([]) is None
    assert mean_running([sample(0.0, 3)]) == 3.0
    assert mean_running([sample(0.0, 1), sample(1.0, 4), sample(4.0, 2)]) == pytest.approx(13 / 4)
    assert mean_running([sample(5.0, 1), sample(5.0, 2)]) == 2.0


def test_the_time_that_the_run_was_down_does_not_count() -> None:
    before = [sample(float(t), 1) for t in range(10)]
    after = [sample(1000.0 + t, 3) for t in range(10)]
    assert mean_running([*before, *after]) == pytest.approx((9 * 1 + 9 * 3) / 18)


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_a_run_that_goes_on_by_another_clock(skew_s: float) -> None:
    times = [100.0 + 5 * i for i in range(6)] + [130.0 + skew_s + 5 * i for i in range(6)]
    samples = [sample(time, 2 if at < 6 else 4) for at, time in enumerate(times)]
    seconds = elapsed_s(samples)
    assert seconds == sorted(seconds)
    assert seconds[0] == 0.0
    assert seconds[-1] == pytest.approx(50 + max(0.0, 5 + skew_s))
    assert mean_running(samples) == pytest.approx(3, abs=0.3)
    assert elapsed_s([]) == []
