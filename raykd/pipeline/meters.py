"""What the driver sees of a run, as metrics: steps, rates, replicas, checkpoints, failures.

It is fed with what the driver reads anyway; only the checkpoints are looked for as well.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raykd.errors import Interrupted
from raykd.pipeline.instruments import Instruments
from raykd.student.failure_tail import RankFailure
from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import Summary

EVERY_S = 5.0
"""Gauges are set no more often; Ray collects them every ten seconds."""
_CHECKPOINT = re.compile(r"step-(\d{8,})")


class Meters:
    """The driver's metrics of one run.

    Args:
        instruments: Where to.
        clock: Seconds that only go forward.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        instruments: Instruments,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._to = instruments
        self._clock = clock
        self._wall_clock = wall_clock
        self._last: StepMetrics | None = None
        self._heldout: HeldoutMetrics | None = None
        self._recent: Summary | None = None
        self._starts = 1
        self._global_batch = 0
        self._looked_s: float | None = None

    @contextmanager
    def failures_counted(self) -> Iterator[None]:
        """Count the block's end by an error; a stop that was asked for is none."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            self._to.add("run_failures", 1, error=type(error).__name__)
            raise

    def limits(self, *, num_requests: int, stream_bytes: int) -> None:
        """Say what bounds the stream.

        Args:
            num_requests: Requests that may be on their way to the teacher.
            stream_bytes: Most bytes of rows on their way.
        """
        self._to.set("teacher_requests_limit", num_requests)
        self._to.set("stream_limit_bytes", stream_bytes)

    @contextmanager
    def training(self, first_step: int, num_steps: int, global_batch: int) -> Iterator[None]:
        """While the block runs the student trains; at its end all gauges are up to date.

        Args:
            first_step: Steps done before.
            num_steps: Of the whole run.
            global_batch: Rows a step.
        """
        self._global_batch = global_batch
        self._to.set("step", first_step)
        self._to.set("steps_planned", num_steps)
        self._to.set("progress_timestamp_seconds", self._wall_clock())
        self._to.set("training", 1)
        try:
            yield
        finally:
            self._show()
            self._to.set("training", 0)

    def teacher(self, sample: ReplicaSample) -> None:
        """Take in how many replicas run; from any thread."""
        self._to.set("teacher_replicas_running", sample.running)
        self._to.set("teacher_replicas_wanted", sample.wanted)
        self._to.set("teacher_replicas_limit", sample.most)
        self._to.set("teacher_requests_waiting", sample.queued)

    def update(self, steps: Sequence[StepMetrics], recent: Summary | None) -> None:
        """Take in the steps that are new.

        Args:
            steps: In order; may be empty.
            recent: Rates over the last ones.
        """
        for step in steps:
            self._count(step)
            self._last, self._heldout = step, step.heldout or self._heldout
        self._recent = recent

    def is_due(self) -> bool:
        """Whether `EVERY_S` have passed since it was last so; the gauges are set then."""
        now = self._clock()
        if self._looked_s is not None and now - self._looked_s < EVERY_S:
            return False
        self._looked_s = now
        self._show()
        return True

    def student_began(self, times: int) -> None:
        """Say how often the group began to write steps; the first is no restart."""
        self._to.add("student_restarts", max(0, times - self._starts))
        self._starts = max(self._starts, times)

    def rank_failed(self, failure: RankFailure) -> None:
        """Count a rank's failure."""
        self._to.add("student_rank_failures", 1, rank=str(failure.rank))

    def checkpoint(self, checkpoints: Path) -> None:
        """Look which checkpoint is the newest, by its name alone."""
        step = newest_step(checkpoints)
        if step is not None:
            self._to.set("checkpoint_step", step)
            self._to.set("checkpoint_row", step * self._global_batch)

    def _count(self, step: StepMetrics) -> None:
        self._to.add("steps", 1)
        self._to.add("student_tokens", step.tokens_seen)
        self._to.add("student_seconds", step.seconds)
        self._to.add("student_wait_seconds", step.wait_s)
        self._to.add("teacher_busy_seconds", step.teacher_s)

    def _show(self) -> None:
        if self._last is not None:
            self._show_step(self._last)
        if self._heldout is not None:
            self._to.set("heldout_kl", self._heldout.kl)
            self._to.set("heldout_top1_agreement_ratio", self._heldout.top1_agreement)
            self._to.set("heldout_perplexity", self._heldout.perplexity)
        if self._recent is not None:
            self._to.set("student_tokens_per_second", self._recent.tokens_per_s)
            self._to.set("student_wait_ratio", self._recent.wait_share)
            self._to.set("teacher_tokens_per_second", self._recent.teacher_tokens_per_s)
            self._to.set("teacher_busy_ratio", self._recent.teacher_busy_share)
            self._to.set("teacher_held_back_ratio", self._recent.teacher_held_back_share)

    def _show_step(self, step: StepMetrics) -> None:
        self._to.set("step", step.step)
        self._to.set("progress_timestamp_seconds", step.time)
        self._to.set("loss", step.loss)
        self._to.set("divergence", step.divergence)
        self._to.set("cross_entropy", step.cross_entropy)
        self._to.set("learning_rate", step.lr)
        self._to.set("gradient_norm", step.grad_norm)
        self._to.set("step_seconds", step.seconds)


def newest_step(checkpoints: Path) -> int | None:
    """Steps of the newest published checkpoint; None where there is none."""
    if not checkpoints.is_dir():
        return None
    found = (_CHECKPOINT.fullmatch(entry.name) for entry in checkpoints.iterdir())
    return max((int(name.group(1)) for name in found if name), default=None)
