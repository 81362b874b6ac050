"""The training under a person's eyes: its steps shown, Ctrl-C turned into a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raykd.errors import Interrupted, StorageError
from raykd.pipeline.meters import Meters
from raykd.pipeline.run_dir import RunDirectory
from raykd.student.failure_tail import FailuresTail, RankFailure
from raykd.student.notes import NotesTail
from raykd.telemetry.metrics_file import MetricsTail
from raykd.telemetry.progress import Progress

POLL_S = 0.5


def watched(
    run: RunDirectory,
    progress: Progress,
    notes: NotesTail,
    work: Callable[[], int],
    first_step: int,
    lost: list[StorageError],
    meters: Meters,
) -> int:
    """Run the training in a thread and show its steps; Ctrl-C asks the ranks to save and end.

    Args:
        run: Where it runs.
        progress: Shows steps and notes.
        notes: What its processes noted.
        work: The training; returns the steps done.
        first_step: Steps done before.
        lost: Fills if the run directory is taken away.
        meters: Told of all that is seen here.

    Returns:
        What the work returned.
    """
    outcome: list[int] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    tail, failed = MetricsTail(run.metrics), FailuresTail(run.logs)
    with _interrupts_as_stop(run, progress):
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        ended = False
        while not ended:
            thread.join(timeout=POLL_S)
            # Before the files are read: what it wrote last is then seen.
            ended = not thread.is_alive()
            steps = [m for m in tail.poll() if m.step > first_step]
            progress.update(steps)
            meters.update(steps, progress.recent)
            meters.student_began(tail.begun)
            for text in notes.poll():
                progress.note(text)
            if meters.is_due() or ended:
                meters.checkpoint(run.checkpoints)
                _tell(failed.poll(), progress, meters)
            if lost:
                raise lost[0]
    if failure:
        raise failure[0]
    return outcome[0]


def _tell(failures: list[RankFailure], progress: Progress, meters: Meters) -> None:
    for one in failures:
        progress.rank_failed(one.rank, one.error, one.sentence, one.traceback)
        meters.rank_failed(one)


@contextmanager
def _interrupts_as_stop(run: RunDirectory, progress: Progress) -> Iterator[None]:
    """SIGINT and SIGTERM leave a stop file for rank 0; a second one ends at once."""

    def ask(number: int, _: Any) -> None:
        if run.stop_file.exists():
            raise Interrupted("stopped at once; go on from the last checkpoint with --resume")
        run.stop_file.touch()
        progress.note("stopping after this step, with a checkpoint; once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
