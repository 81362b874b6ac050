"""The training under a person's eyes: its steps shown, Ctrl-C turned into a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from raykd.errors import Interrupted, StorageError
from raykd.pipeline.run_dir import RunDirectory
from raykd.student.notes import NotesTail
from raykd.telemetry.metrics import MetricsTail
from raykd.telemetry.progress import Progress

POLL_S = 0.5


def watched(
    run: RunDirectory,
    progress: Progress,
    notes: NotesTail,
    work: Callable[[], int],
    first_step: int,
    lost: list[StorageError],
) -> int:
    """Run the training in a thread and show its steps; Ctrl-C asks the ranks to save and end."""
    outcome: list[int] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    tail = MetricsTail(run.metrics)
    with _interrupts_as_stop(run, progress):
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(timeout=POLL_S)
            progress.update([m for m in tail.poll() if m.step > first_step])
            for text in notes.poll():
                progress.note(text)
            if lost:
                raise lost[0]
    if failure:
        raise failure[0]
    return outcome[0]


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
