"""What a person sees while it runs: a live panel on a terminal, plain lines in a job log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.progress_view import Moment, panel, plain_line
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import RECENT_STEPS, Summary, eta_s, summarize
from raykd.telemetry.units import duration

_DONE, _FAILED = ("✓", "green"), ("✗", "red")


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long a stage took."""

    name: str
    seconds: float


class Progress:
    """Shows stages, notes and steps; use it as a context, or end it with `close`.

    Args:
        console: Where to; a terminal gets the live panel, anything else plain lines.
        title: The run's name.
        replicas: Teacher replicas, until `teacher` says how many run; 0 where no teacher runs.
        every_s: Plain lines are at least this far apart.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        *,
        replicas: int = 0,
        every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._title = title
        self._replicas = replicas
        self._every_s = every_s
        self._clock = clock
        self._spinner = Spinner("dots", style="cyan")
        self._moment: Moment | None = None
        self._stage_began = self._last_line = clock()
        self._recent: deque[StepMetrics] = deque(maxlen=RECENT_STEPS + 1)
        self._heldout: HeldoutMetrics | None = None
        self._teacher: ReplicaSample | None = None
        self._told: ReplicaSample | None = None
        self._stages: list[StageTime] = []
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(self, console=console, transient=True, refresh_per_second=4)
            self._live.start()

    @property
    def stages(self) -> list[StageTime]:
        """The stages that ended, in order."""
        return list(self._stages)

    @property
    def recent(self) -> Summary | None:
        """Rates over the last steps of the stage; None before the first."""
        return None if self._moment is None else self._moment.recent

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "step") -> Iterator[None]:
        """Show a stage while the block runs, and how it ended.

        Args:
            name: Such as `train`.
            total: How many units it has, where known; see `count`.
            unit: What is counted.
        """
        assert self._moment is None, f"stage {self._moment} has not ended"
        self._stage_began = self._last_line = self._clock()
        self._moment = Moment(stage=name, elapsed_s=0.0, total=total, unit=unit)
        self._teacher = self._told = None
        self._tell_begin(name)
        try:
            yield
        except BaseException:
            self._end_stage(name, _FAILED)
            raise
        self._end_stage(name, _DONE)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        for line in text.splitlines() or [""]:
            self._print(line)

    def rank_failed(self, rank: int, error: str, text: str, traceback: str) -> None:
        """Take in that a rank failed; a person is told only if the run ends of it."""

    def count(self, done: int, total: int | None = None) -> None:
        """Say how far the stage is.

        Args:
            done: Units done.
            total: How many there are; what the stage began with where None.
        """
        if self._moment is None:
            return
        total = self._moment.total if total is None else total
        self._moment = replace(self._moment, done=done, total=total)
        self._line_if_due()

    def update(self, metrics: Sequence[StepMetrics]) -> None:
        """Take in the steps that are new; a resumed run may send a step anew."""
        for step in metrics:
            while self._recent and self._recent[-1].step >= step.step:
                self._recent.pop()
            self._recent.append(step)
            self._heldout = step.heldout or self._heldout
        if self._moment is None:
            return
        if metrics:
            self._moment = self._with_steps(self._moment)
        # A student that waits makes no steps; the teacher may be what it waits for.
        if metrics or _differ(self._teacher, self._told):
            self._line_if_due()

    def teacher(self, sample: ReplicaSample) -> None:
        """Take in how many replicas run; from any thread. The next stage begins without."""
        self._teacher, self._replicas = sample, sample.running

    def close(self) -> None:
        """Take the panel down; what was printed stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __rich__(self) -> RenderableType:
        """The panel as it is now; called by the live display from its own thread."""
        moment = self._moment
        if moment is None:
            return Text()
        return panel(self._now(moment), self._title, self._spinner)

    def _now(self, moment: Moment) -> Moment:
        elapsed = self._clock() - self._stage_began
        return replace(moment, elapsed_s=elapsed, teacher=self._teacher)

    def _with_steps(self, moment: Moment) -> Moment:
        steps = list(self._recent)
        return replace(
            moment,
            done=steps[-1].step,
            loss=steps[-1].loss,
            recent=summarize(steps[1:] or steps, self._replicas),
            heldout=self._heldout,
            eta_s=None if moment.total is None else eta_s(steps, moment.total),
        )

    def _line_if_due(self) -> None:
        now = self._clock()
        if self._live is not None or now - self._last_line < self._every_s:
            return
        assert self._moment is not None
        self._told = self._teacher
        self._tell_moment(self._now(self._moment))
        self._last_line = now

    def _end_stage(self, name: str, mark: tuple[str, str]) -> None:
        assert self._moment is not None
        seconds = self._clock() - self._stage_began
        self._stages.append(StageTime(name, seconds))
        last, self._moment = self._moment, None
        if last.loss is not None:
            self._tell_moment(replace(self._now(last), eta_s=None))
        self._tell_end(name, seconds, done=mark is _DONE)

    def _tell_begin(self, name: str) -> None:
        if self._live is None:
            self._print(f"[{name}] …")

    def _tell_moment(self, moment: Moment) -> None:
        self._print(plain_line(moment))

    def _tell_end(self, name: str, seconds: float, *, done: bool) -> None:
        took = duration(seconds)
        if self._live is not None:
            mark = _DONE if done else _FAILED
            self._console.print(Text.assemble(mark, f" {name} ", (took, "dim")))
        else:
            self._print(f"[{name}] {'done in' if done else 'failed after'} {took}")

    def _print(self, line: str) -> None:
        """On a pipe a line stays one line, however long; on a terminal it wraps."""
        self._console.print(Text(line), soft_wrap=self._live is None)


def _differ(one: ReplicaSample | None, other: ReplicaSample | None) -> bool:
    """Whether they look different to a person."""
    if one is None or other is None:
        return one is not other
    return replace(one, time=other.time) != other
