"""What a log collector sees."""

from __future__ import annotations

import json
import logging
import warnings
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from test_progress import Clock, fail_after, step

from raykd.errors import Interrupted, StoreError
from raykd.telemetry.json_lines import JsonLines
from raykd.telemetry.json_log import JsonLog
from raykd.telemetry.metrics import HeldoutMetrics
from raykd.telemetry.replicas import ReplicaSample

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


class Streams:
    """What was written, and where."""

    def __init__(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.lines = JsonLines(self.out, self.err, now=lambda: NOW)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.getvalue().splitlines()]


@pytest.fixture
def streams() -> Streams:
    made = Streams()
    made.lines.run = "tiny"
    return made


def test_a_run(streams: Streams) -> None:
    clock = Clock()
    with JsonLog(streams.lines, replicas=1, every_s=10.0, clock=clock) as log:
        with log.stage("prepare"):
            clock.now += 4.25
        log.note("train: 83 documents\nin 12 rows “so”")
        with log.stage("train", total=240):
            log.teacher(ReplicaSample(time=0.0, running=1, wanted=2, most=4, queued=6))
            for number in range(1, 9):
                clock.now += 2.0
                measured = HeldoutMetrics(kl=0.5, top1_agreement=0.25, perplexity=9.0)
                log.update([step(number, heldout=measured if number == 3 else None)])
            log.note("a note")
            log.rank_failed(1, "RuntimeError", "rank 1 failed: RuntimeError: boom", "Traceback")
    begin, end, note, begin_train, progress, second, failed, last, end_train = streams.records
    assert begin == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "info",
        "run": "tiny",
        "stage": "prepare",
        "event": "stage_begin",
        "text": "[prepare] begins",
    }
    assert (end["event"], end["seconds"], end["ok"]) == ("stage_end", 4.25, True)
    assert note["event"] == "note"
    assert note["text"] == "train: 83 documents\nin 12 rows “so”"
    assert "stage" not in note
    assert begin_train["stage"] == "train"
    assert progress["step"] == progress["done"] == 5, "ten seconds after the stage began"
    assert progress["loss"] == 1.834
    assert progress["student_tokens_per_s"] == pytest.approx(690)
    assert progress["student_wait_share"] == pytest.approx(0.12)
    assert progress["teacher_tokens_per_s"] == pytest.approx(720)
    assert progress["heldout_kl"] == 0.5
    assert (progress["replicas_running"], progress["replicas_wanted"]) == (1, 2)
    assert progress["requests_waiting"] == 6
    assert progress["text"].startswith("[train] step 5/240 · loss 1.83")
    assert (second["event"], second["step"], second["text"]) == ("note", 5, "a note")
    assert (failed["event"], failed["level"], failed["rank"]) == ("rank_failed", "error", 1)
    assert failed["traceback"] == "Traceback"
    assert (last["event"], last["step"]) == ("progress", 8)
    assert end_train["event"] == "stage_end"
    assert not streams.err.getvalue()


def test_a_stage_that_fails(streams: Streams) -> None:
    clock = Clock()
    with JsonLog(streams.lines, clock=clock) as log:
        with pytest.raises(KeyError), log.stage("models"):
            fail_after(3.0, clock)
        assert [stage.name for stage in log.stages] == ["models"]
    assert streams.lines.stage == "models", "the error that follows is of this stage"
    end = streams.records[-1]
    assert (end["event"], end["level"], end["ok"], end["seconds"]) == (
        "stage_end",
        "warning",
        False,
        3.0,
    )


def test_how_a_run_ends(streams: Streams) -> None:
    streams.lines.stage, streams.lines.step = "train", 7
    streams.lines.error(StoreError("the disk\nis full"), "the disk\nis full", 1, debug=False)
    streams.lines.error(Interrupted("stopped"), "stopped", 130, debug=True)
    failed, stopped = streams.errors
    assert failed == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "error",
        "run": "tiny",
        "stage": "train",
        "step": 7,
        "event": "error",
        "text": "the disk\nis full",
        "error": "StoreError",
        "exit_code": 1,
    }
    assert (stopped["level"], stopped["exit_code"]) == ("warning", 130)
    assert stopped["traceback"].endswith("Interrupted: stopped\n")
    assert not streams.out.getvalue()


def test_other_programs_records_become_lines(streams: Streams) -> None:
    foreign = logging.getLogger("ray.serve")
    theirs = logging.StreamHandler(StringIO())
    foreign.addHandler(theirs)
    before = foreign.handlers[:]
    try:
        with streams.lines.captured():
            foreign.warning("replica %s is slow", 3)
            try:
                raise ValueError("inside")
            except ValueError:
                logging.getLogger("some.library").exception("it broke")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("an old name", UserWarning, stacklevel=1)
    finally:
        after = foreign.handlers[:]
        foreign.removeHandler(theirs)
    slow, broke, warned = streams.errors
    assert (slow["event"], slow["level"], slow["logger"]) == ("log", "warning", "ray.serve")
    assert slow["text"] == "replica 3 is slow"
    assert broke["level"] == "error"
    assert "ValueError: inside" in broke["traceback"]
    assert "an old name" in warned["text"]
    assert after == before
    assert theirs.stream.getvalue() == ""


def test_every_line_is_json_whatever_is_in_it(streams: Streams) -> None:
    streams.lines.write("note", "a", loss=float("nan"), place=object, absent=None)
    (record,) = streams.records
    assert record["loss"] == "nan"
    assert "absent" not in record
    assert streams.out.getvalue().count("\n") == 1
