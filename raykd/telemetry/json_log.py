"""What a log collector sees while it runs: stages, steps, notes and failures as JSON lines."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

from rich.console import Console

from raykd.telemetry.json_lines import JsonLines
from raykd.telemetry.progress import Progress
from raykd.telemetry.progress_view import Moment, plain_line
from raykd.telemetry.units import duration


class JsonLog(Progress):
    """Progress as JSON lines, as often as plain lines come.

    Args:
        lines: Where to; has the run's name.
        replicas: Teacher replicas, until `teacher` says how many run; 0 where no teacher runs.
        every_s: Lines of one stage are at least this far apart.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        lines: JsonLines,
        *,
        replicas: int = 0,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        nowhere = Console(file=io.StringIO(), force_terminal=False)
        super().__init__(nowhere, lines.run or "", replicas=replicas, every_s=every_s, clock=clock)

    def note(self, text: str) -> None:
        """Write what a person would be told."""
        self._lines.write("note", text)

    def rank_failed(self, rank: int, error: str, text: str, traceback: str) -> None:
        """Write why a rank failed; the run may go on."""
        self._lines.write("rank_failed", text, "error", rank=rank, error=error, traceback=traceback)

    def _tell_begin(self, name: str) -> None:
        self._lines.stage, self._lines.step = name, None
        self._lines.write("stage_begin", f"[{name}] begins")

    def _tell_moment(self, moment: Moment) -> None:
        if moment.unit == "step" and moment.done:
            self._lines.step = moment.done
        recent, heldout, teacher = moment.recent, moment.heldout, moment.teacher
        self._lines.write(
            "progress",
            plain_line(moment),
            done=moment.done,
            total=moment.total,
            unit=moment.unit,
            elapsed_s=round(moment.elapsed_s, 3),
            eta_s=moment.eta_s,
            loss=moment.loss,
            heldout_kl=heldout and heldout.kl,
            heldout_top1_agreement=heldout and heldout.top1_agreement,
            student_tokens_per_s=recent and recent.tokens_per_s,
            student_wait_share=recent and recent.wait_share,
            teacher_tokens_per_s=recent and recent.teacher_tokens_per_s,
            teacher_held_back_share=recent and recent.teacher_held_back_share,
            replicas_running=teacher and teacher.running,
            replicas_wanted=teacher and teacher.wanted,
            requests_waiting=teacher and teacher.queued,
        )

    def _tell_end(self, name: str, seconds: float, *, done: bool) -> None:
        took = duration(seconds)
        self._lines.write(
            "stage_end",
            f"[{name}] {'done in' if done else 'failed after'} {took}",
            "info" if done else "warning",
            seconds=round(seconds, 3),
            ok=done,
        )
        if done:  # else the error that follows is of this stage
            self._lines.stage = None
