"""What a person sees, on a terminal and on a pipe."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.progress import Progress
from raykd.telemetry.replicas import ReplicaSample

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def step(number: int, **changed: Any) -> StepMetrics:
    metrics = StepMetrics(
        step=number,
        epoch=0.0,
        row_start=number,
        row_end=number + 1,
        tokens=1000,
        tokens_seen=1380,
        loss=1.834,
        divergence=None,
        cross_entropy=1.0,
        lr=1e-4,
        grad_norm=1.0,
        seconds=2.0,
        wait_s=0.24,
        teacher_s=1.38 / 0.72,
        time=0.0,
    )
    return replace(metrics, **changed)


def teacher(**changed: Any) -> ReplicaSample:
    return replace(ReplicaSample(time=0.0, running=2, wanted=2, most=4, queued=6), **changed)


def console(terminal: bool, width: int = 80) -> tuple[Console, StringIO]:
    out = StringIO()
    environment = {"TERM": "xterm-256color"}
    made = Console(file=out, width=width, height=24, force_terminal=terminal, _environ=environment)
    return made, out


def fail_after(seconds: float, clock: Clock) -> None:
    clock.now += seconds
    raise KeyError


class TestPlain:
    def test_a_run(self) -> None:
        clock = Clock()
        made, out = console(terminal=False, width=40)
        with Progress(made, "quickstart", replicas=1, clock=clock) as progress:
            with progress.stage("prepare"):
                clock.now += 4.25
            progress.note("[bold]83[/] documents\nbecame rows")
            with progress.stage("train", total=240):
                for number in range(1, 121):
                    clock.now += 2.0
                    progress.update([step(number)])
        lines = out.getvalue().splitlines()
        assert lines[:5] == [
            "[prepare] …",
            "[prepare] done in 4.2s",
            "[bold]83[/] documents",
            "became rows",
            "[train] …",
        ]
        assert lines[5] == (
            "[train] step 5/240 · loss 1.83 · student 690 tok/s · teacher 720 tok/s · "
            "student waits 12 % · teacher waits 4.2 % · 7m 50s left"
        )
        assert len(lines) == 5 + 120 * 2 // 10 + 2  # one each ten seconds, and the end
        assert lines[-2].startswith("[train] step 120/240 · loss 1.83")
        assert lines[-1] == "[train] done in 4m 00s"
        assert not ANSI.search(out.getvalue())

    def test_replicas_and_queue(self) -> None:
        made, out = console(terminal=False)
        with Progress(made, "r", every_s=0) as progress:
            with progress.stage("train", total=9):
                progress.teacher(teacher())
                progress.update([step(1)])
            with progress.stage("evaluate"):
                progress.count(1)
        said = out.getvalue()
        assert "teacher 1.44k tok/s · teacher 2/4 replicas · queue 6 · student waits 12 %" in said
        assert said.splitlines()[-2] == "[evaluate] step 1", "the next stage has no teacher"

    def test_a_student_that_waits_sees_the_teacher_come(self) -> None:
        made, out = console(terminal=False)
        with Progress(made, "r", every_s=0) as progress, progress.stage("train", total=9):
            progress.update([])
            progress.teacher(teacher(running=0, wanted=1, queued=4))
            progress.update([])
            progress.teacher(teacher(running=0, wanted=1, queued=4, time=9.0))
            progress.update([])
            progress.teacher(teacher(running=1, wanted=1, queued=3))
            progress.update([])
        assert out.getvalue().splitlines()[1:-1] == [
            "[train] step 0/9 · teacher 0/4 replicas (1 starting) · queue 4",
            "[train] step 0/9 · teacher 1/4 replicas · queue 3",
        ]

    def test_heldout_stays_known(self) -> None:
        clock = Clock()
        made, out = console(terminal=False)
        with Progress(made, "r", every_s=0, clock=clock) as progress, progress.stage("train"):
            heldout = HeldoutMetrics(kl=0.412, top1_agreement=0.6, perplexity=20.0)
            progress.update([step(1, heldout=heldout), step(2)])
        assert "step 2 · loss 1.83 · held-out KL 0.412 · student" in out.getvalue()

    def test_count(self) -> None:
        made, out = console(terminal=False)
        with Progress(made, "r", every_s=0) as progress:
            progress.count(3)  # between stages there is nothing to count
            with progress.stage("evaluate", unit="row"):
                progress.count(3)
                progress.count(4, 12)
        assert "[evaluate] row 3\n[evaluate] row 4/12\n" in out.getvalue()

    def test_stage_that_fails(self) -> None:
        clock = Clock()
        made, out = console(terminal=False)
        progress = Progress(made, "r", clock=clock)
        with pytest.raises(KeyError), progress.stage("train"):
            fail_after(70, clock)
        assert out.getvalue().endswith("[train] failed after 1m 10s\n")
        assert [(s.name, s.seconds) for s in progress.stages] == [("train", 70.0)]

    def test_resumed_steps_replace_those_they_repeat(self) -> None:
        made, out = console(terminal=False)
        with Progress(made, "r", every_s=0) as progress, progress.stage("train", total=10):
            progress.update([step(n) for n in range(1, 9)])
            progress.update([step(5, loss=9.0)])
        assert "step 5/10 · loss 9.00" in out.getvalue()
        assert "10s left" in out.getvalue()

    def test_dumb_terminal_gets_plain_lines(self) -> None:
        out = StringIO()
        made = Console(file=out, force_terminal=True, _environ={"TERM": "dumb"})
        with Progress(made, "r") as progress, progress.stage("train"):
            pass
        assert out.getvalue().startswith("[train] …\n")
        assert not ANSI.search(out.getvalue())


class TestTerminal:
    def test_panel_fits_80_columns(self) -> None:
        clock = Clock()
        made, out = console(terminal=True)
        progress = Progress(made, "quickstart", replicas=1, clock=clock)
        with progress, progress.stage("train", total=240):
            heldout = HeldoutMetrics(kl=0.412, top1_agreement=0.6, perplexity=20.0)
            progress.update([step(n, heldout=heldout) for n in range(1, 121)])
            progress.teacher(teacher(running=1))
            plain = StringIO()
            Console(file=plain, width=80).print(progress)
        shown = plain.getvalue()
        assert all(len(line) <= 80 for line in shown.splitlines())
        for text in (
            "quickstart",
            "train",
            "step 120/240",
            "50 % · 4m 00s left",
            "student 690 tok/s",
            "teacher 720 tok/s",
            "student waits 12 %",
            "teacher waits 4.2 %",
            "teacher 1/4 replicas (1 starting)",
            "queue 6",
            "loss 1.83",
            "held-out KL 0.412",
            "top-1 60 %",
        ):
            assert text in shown
        assert ANSI.search(out.getvalue())

    def test_what_stays(self) -> None:
        made, out = console(terminal=True)
        with Progress(made, "r") as progress:
            with progress.stage("prepare"):
                progress.note("83 documents")
            with pytest.raises(KeyError), progress.stage("train"):
                raise KeyError
        said = ANSI.sub("", out.getvalue())
        for text in ("83 documents", "✓ prepare 0.0s", "✗ train 0.0s"):
            assert text in said

    def test_close_twice(self) -> None:
        made, _ = console(terminal=True)
        progress = Progress(made, "r")
        progress.close()
        progress.close()
        assert progress._live is None
