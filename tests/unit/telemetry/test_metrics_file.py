"""The metrics file: what is written is what is read, also while it grows and after a resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from step_cases import step

from raykd.errors import DivergenceError, RunError, StorageError
from raykd.telemetry.metrics import StepMetrics
from raykd.telemetry.metrics_file import MetricsTail, MetricsWriter, read_metrics


def write(path: Path, *steps: StepMetrics, resume_step: int = 0) -> None:
    with MetricsWriter(path, resume_step) as writer:
        for metrics in steps:
            writer.write(metrics)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


class TestReadMetrics:
    def test_torn_last_line_is_left_out(self, path: Path) -> None:
        write(path, step(1), step(2))
        for cut in (1, 20, len(step(2).to_json())):
            path.write_text(step(1).to_json() + "\n" + step(2).to_json()[:-cut])
            assert read_metrics(path) == [step(1)]

    def test_whole_last_line_without_its_end_counts(self, path: Path) -> None:
        path.write_text(step(1).to_json())
        assert read_metrics(path) == [step(1)]

    def test_malformed_line_is_named(self, path: Path) -> None:
        path.write_text(step(1).to_json() + "\n{broken\n" + step(3).to_json() + "\n")
        with pytest.raises(RunError, match=r"metrics\.jsonl:2: not a line of metrics"):
            read_metrics(path)

    def test_bytes_that_are_not_text(self, path: Path) -> None:
        path.write_bytes(b"\xff\x00\xfe\n")
        with pytest.raises(RunError, match=r"metrics\.jsonl:1"):
            read_metrics(path)

    def test_missing_file(self, path: Path) -> None:
        with pytest.raises(RunError, match="no such metrics file"):
            read_metrics(path)


class TestMetricsWriter:
    def test_each_line_is_visible_at_once(self, path: Path) -> None:
        with MetricsWriter(path, 0) as writer:
            writer.write(step(1))
            assert read_metrics(path) == [step(1)]

    def test_resume_drops_what_the_checkpoint_does_not_hold(self, path: Path) -> None:
        write(path, step(1), step(2), step(3))
        write(path, step(3, loss=9.0), resume_step=2)
        assert read_metrics(path) == [step(1), step(2), step(3, loss=9.0)]
        assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]

    def test_resume_drops_a_torn_last_line(self, path: Path) -> None:
        write(path, step(1), step(2))
        with path.open("a") as file:
            file.write(step(3).to_json()[:40])
        write(path, step(3), resume_step=2)
        assert read_metrics(path) == [step(1), step(2), step(3)]

    def test_a_run_killed_at_any_byte_writes_no_step_twice(self, path: Path) -> None:
        """Killed within the line of step 3, gone on after step 2, killed again, gone on."""
        line = step(3).to_json() + "\n"
        for cut in range(len(line) + 1):
            path.write_text(step(1).to_json() + "\n" + step(2).to_json() + "\n" + line[:cut])
            tail = MetricsTail(path)
            seen = tail.poll()
            with MetricsWriter(path, 2) as writer:
                writer.write(step(3))
                writer.write(step(4))
            with path.open("a") as file:
                file.write(step(5).to_json()[:cut])
            seen += tail.poll()
            write(path, step(3), step(4), step(5), resume_step=2)
            seen += tail.poll()
            assert read_metrics(path) == [step(n) for n in range(1, 6)]
            assert [metrics.step for metrics in seen] == [1, 2, 3, 4, 5]

    def test_a_torn_line_up_to_the_checkpoint_is_not_passed_over(self, path: Path) -> None:
        path.write_text(step(1).to_json() + "\n" + step(2).to_json()[:40] + "\n")
        with pytest.raises(RunError, match=r":2: not a line"):
            MetricsWriter(path, 2)

    def test_steps_can_be_brought_to_the_disk(self, path: Path) -> None:
        with MetricsWriter(path, 0) as writer:
            writer.write(step(1))
            writer.sync()
        assert read_metrics(path) == [step(1)]

    def test_resume_from_the_start_begins_anew(self, path: Path) -> None:
        write(path, step(1), step(2))
        write(path, resume_step=0)
        assert read_metrics(path) == []

    def test_resume_does_not_mind_what_it_drops(self, path: Path) -> None:
        path.write_text(f"{step(1).to_json()}\n{step(2).to_json()}\nbroken\n")
        write(path, resume_step=1)
        assert read_metrics(path) == [step(1)]

    def test_resume_minds_what_it_keeps(self, path: Path) -> None:
        path.write_text("broken\n")
        with pytest.raises(RunError, match=r":1: not a line"):
            MetricsWriter(path, 1)
        assert path.read_text() == "broken\n"

    def test_a_step_comes_once(self, path: Path) -> None:
        with MetricsWriter(path, 2) as writer, pytest.raises(AssertionError):
            writer.write(step(2))

    def test_not_finite_leaves_the_file_as_it_was(self, path: Path) -> None:
        with MetricsWriter(path, 0) as writer:
            writer.write(step(1))
            with pytest.raises(DivergenceError):
                writer.write(step(2, grad_norm=math.inf))
        assert read_metrics(path) == [step(1)]

    def test_directory_missing(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="cannot be written"):
            MetricsWriter(tmp_path / "nowhere" / "metrics.jsonl", 0)


class TestMetricsTail:
    def test_only_what_is_new(self, path: Path) -> None:
        tail = MetricsTail(path)
        assert tail.poll() == []
        with MetricsWriter(path, 0) as writer:
            assert tail.poll() == []
            writer.write(step(1))
            writer.write(step(2))
            assert tail.poll() == [step(1), step(2)]
            assert tail.poll() == []
            writer.write(step(3))
            assert tail.poll() == [step(3)]

    def test_torn_end_waits(self, path: Path) -> None:
        tail = MetricsTail(path)
        line = step(2).to_json() + "\n"
        for cut in range(len(line)):
            path.write_text(step(1).to_json() + "\n" + line[:cut])
            assert tail.poll() == ([step(1)] if cut == 0 else [])
        path.write_text(step(1).to_json() + "\n" + line)
        assert tail.poll() == [step(2)]

    def test_resume_returns_only_steps_learned_anew(self, path: Path) -> None:
        tail = MetricsTail(path)
        write(path, *(step(n) for n in range(1, 6)))
        assert len(tail.poll()) == 5
        write(path, step(4, loss=9.0), step(5, loss=9.0), step(6), resume_step=3)
        assert tail.poll() == [step(4, loss=9.0), step(5, loss=9.0), step(6)]
        assert tail.poll() == []

    def test_resume_seen_before_its_first_new_step(self, path: Path) -> None:
        tail = MetricsTail(path)
        write(path, step(1), step(2), step(3))
        tail.poll()
        write(path, resume_step=1)
        assert tail.poll() == []
        write(path, step(2, loss=9.0), resume_step=1)
        assert tail.poll() == [step(2, loss=9.0)]

    def test_truncated_in_place(self, path: Path) -> None:
        tail = MetricsTail(path)
        write(path, step(1), step(2))
        tail.poll()
        with path.open("r+") as file:
            file.truncate(0)
            file.write(step(1, loss=9.0).to_json() + "\n")
        assert tail.poll() == [step(1, loss=9.0)]

    def test_malformed_whole_line(self, path: Path) -> None:
        path.write_text(step(1).to_json() + "\nbroken\n")
        with pytest.raises(RunError, match=r":2: not a line"):
            MetricsTail(path).poll()


def test_a_tail_counts_how_often_a_writer_begins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    fresh = MetricsTail(path)
    fresh.poll()
    assert fresh.begun == 0
    MetricsWriter(path, 0).close()
    fresh.poll()
    fresh.poll()
    assert fresh.begun == 1
    resumed = MetricsTail(path)
    resumed.poll()
    assert resumed.begun == 0, "the file of the run before"
    for times in (1, 2):
        MetricsWriter(path, 0).close()
        resumed.poll()
        assert resumed.begun == times
