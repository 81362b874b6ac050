"""One rank's loop: rows in order, a step, a line of metrics, a checkpoint when it is due."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raykd.config.job import Job
from raykd.config.train import CheckpointConfig
from raykd.errors import DivergenceError, OrderError
from raykd.student import space
from raykd.student.checkpoint import CheckpointMark, aside, publish
from raykd.student.integrity import seal
from raykd.student.notice import Notices
from raykd.student.protocol import StepResult, Student, Wish
from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.metrics_file import MetricsWriter
from raykd.telemetry.trackers import Tracker, log_step


@dataclass(frozen=True)
class Rank:
    """Where this process stands in its group."""

    rank: int
    num_ranks: int
    barrier: Callable[[], None]
    notices: Notices = field(default_factory=Notices)


@dataclass(frozen=True)
class Stretch:
    """The steps of this loop and where their rows must be."""

    first_step: int
    num_steps: int
    """Of the whole run: the loop ends here."""
    rows_an_epoch: int
    rank_places: Callable[[int, int], np.ndarray[Any, Any]]
    """(rank, step) to the places of the rows that this rank learns from in this step."""


@dataclass
class Records:
    """Where rank 0 writes; None elsewhere."""

    metrics: MetricsWriter
    trackers: list[Tracker]
    note: Callable[[str], None]


class CheckpointClock:
    """When the next checkpoint is due, by steps done or by time passed."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        self._saved_at = time.monotonic()

    def minutes_are_up(self) -> bool:
        """Whether it is time by the clock; only rank 0's answer counts."""
        every = self._config.every_minutes
        return every is not None and time.monotonic() - self._saved_at >= every * 60

    def steps_are_up(self, steps_done: int) -> bool:
        """Whether it is time by steps; the same on every rank."""
        every = self._config.every_steps
        return every is not None and steps_done % every == 0

    def saved(self) -> None:
        """Start counting minutes anew."""
        self._saved_at = time.monotonic()


def run(
    job: Job,
    rank: Rank,
    student: Student,
    rows: Iterator[pa.Table],
    stretch: Stretch,
    checkpoints: Path,
    stop_file: Path,
    heldout: pa.Table | None,
    records: Records | None,
) -> int:
    """Train from `stretch.first_step` to the end.

    Returns:
        Steps done: fewer than `stretch.num_steps` where a stop was asked for.

    Raises:
        OrderError: The rows that came are not the ones this step consumes.
        DivergenceError: Loss or gradient is not a number; no checkpoint of it is made.
    """
    clock = CheckpointClock(job.checkpoint)
    done = saved = stretch.first_step
    for step in range(stretch.first_step, stretch.num_steps):
        started = time.perf_counter()
        mine = next(rows, None)
        wait_s = time.perf_counter() - started
        _check_places(mine, stretch.rank_places(rank.rank, step), rank.rank, step)
        assert mine is not None
        result = _train_step(job, student, mine, step, wait_s, _wish(rank, stop_file, clock))
        done = step + 1
        # Measuring is not training: the step's time ends before it.
        seconds = time.perf_counter() - started
        measured = _heldout_if_due(job, student, heldout, done, stretch.num_steps)
        if records is not None:
            line = _line(job, stretch, done, result, seconds, measured)
            with space.needed(checkpoints.parent, "metrics.jsonl"):
                records.metrics.write(line)
            records.trackers = log_step(records.trackers, line, records.note)
        noticed = _is_noticed(rank, result.wish)
        if noticed or result.wish >= Wish.SAVE or clock.steps_are_up(done):
            _save(job, rank, student, checkpoints, done, records)
            clock.saved()
            saved = done
        if noticed:
            _answer(rank, records, done)
        if result.wish == Wish.SAVE_AND_END:
            break
    if saved != done or done == stretch.first_step:
        _save(job, rank, student, checkpoints, done, records)
    return done


def _wish(rank: Rank, stop_file: Path, clock: CheckpointClock) -> Wish:
    """Only the first rank looks at clocks and for a stop; the others learn of it in the step."""
    if rank.rank == 0 and stop_file.exists():
        return Wish.SAVE_AND_END
    if rank.notices.wants_save():
        return Wish.SAVE_AT_NOTICE
    if rank.rank == 0 and clock.minutes_are_up():
        return Wish.SAVE
    return Wish.LOOK if rank.rank == 0 and rank.notices.wants_look() else Wish.GO_ON


def _is_noticed(rank: Rank, wish: Wish) -> bool:
    """Whether to save for a notice; the same on every rank."""
    return wish == Wish.SAVE_AT_NOTICE or (wish == Wish.LOOK and rank.notices.look())


def _answer(rank: Rank, records: Records | None, done: int) -> None:
    rank.notices.answered()
    if records is not None:
        records.note(
            f"notice that a rank's machine or process will be taken away: saved after step {done}; "
            "the run goes on until that happens"
        )


def _train_step(
    job: Job, student: Student, rows: pa.Table, step: int, wait_s: float, wish: Wish
) -> StepResult:
    try:
        return student.train_step(rows, step, wait_s, wish)
    except DivergenceError as error:
        first = step * job.train.global_batch
        raise DivergenceError(
            f"{error} (rows {first} to {first + job.train.global_batch - 1}); nothing of it was "
            "saved and the last checkpoint is good. Lower train.optimizer.lr, raise warmup_steps, "
            "or look at those rows"
        ) from None


def _check_places(
    rows: pa.Table | None,
    expected: np.ndarray[Any, Any],
    rank: int,
    step: int,
) -> None:
    """An order fault must stop the run, not bend it."""
    if rows is None:
        raise OrderError(f"rank {rank}, step {step + 1}: the stream ended before the run did")
    got = rows.column("row").to_numpy()
    if len(got) != len(expected) or not np.array_equal(got, expected):
        raise OrderError(
            f"rank {rank}, step {step + 1}: expected rows {expected[:4]}... ({len(expected)}), "
            f"received {got[:4]}... ({len(got)})"
        )


def _heldout_if_due(
    job: Job, student: Student, heldout: pa.Table | None, done: int, num_steps: int
) -> HeldoutMetrics | None:
    every = job.evaluation.every_steps
    if heldout is None or every is None or (done % every and done != num_steps):
        return None
    sums = student.heldout(heldout)
    if not sums.tokens:
        return None
    return HeldoutMetrics(
        kl=sums.kl / sums.tokens,
        top1_agreement=sums.agreed / sums.tokens,
        perplexity=math.exp(min(50.0, sums.cross_entropy / sums.tokens)),
    )


def _line(
    job: Job,
    stretch: Stretch,
    done: int,
    result: StepResult,
    seconds: float,
    heldout: HeldoutMetrics | None,
) -> StepMetrics:
    batch = job.train.global_batch
    return StepMetrics(
        step=done,
        epoch=done * batch / stretch.rows_an_epoch,
        row_start=(done - 1) * batch,
        row_end=done * batch,
        tokens=result.tokens,
        tokens_seen=result.tokens_seen,
        loss=result.loss,
        divergence=result.divergence,
        cross_entropy=result.cross_entropy,
        lr=result.lr,
        grad_norm=result.grad_norm,
        seconds=seconds,
        wait_s=result.wait_s,
        teacher_s=result.teacher_s,
        time=time.time(),
        heldout=heldout,
        inner=result.inner,
    )


def _save(
    job: Job,
    rank: Rank,
    student: Student,
    checkpoints: Path,
    done: int,
    records: Records | None,
) -> None:
    """Every rank writes its part aside and sums it up; the first makes the whole visible."""
    directory = aside(checkpoints, done)
    if rank.rank == 0:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    rank.barrier()
    with space.needed(directory, "a checkpoint"):
        student.save(directory)
        seal(directory, rank.rank, rank.num_ranks)
    if records is not None:
        records.metrics.sync()
    rank.barrier()
    if rank.rank == 0:
        mark = CheckpointMark(
            done, done * job.train.global_batch, rank.num_ranks, job.student.zero_stage
        )
        with space.needed(checkpoints, "a checkpoint"):
            publish(checkpoints, mark, job.checkpoint.keep)
    rank.barrier()
