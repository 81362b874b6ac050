"""Looks at the teacher every few seconds while a block of code runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.telemetry.replicas import ReplicaSample, append_sample

LOOK_S = 5.0
"""A look is two calls to light actors."""
LAST_LOOK_S = 10.0
"""A look that waits for Serve's controller to come back is left behind after this."""

Look = Callable[[], ReplicaSample | None]
"""The teacher now; None where nothing can be said."""


@contextmanager
def watched(
    look: Look, log: Path, show: Callable[[ReplicaSample], None], every_s: float = LOOK_S
) -> Iterator[None]:
    """Keep the teacher's samples in a file and show each of them, in a thread of its own.

    Args:
        look: Gives a sample; a look may take long, none waits for it.
        log: A line a sample is added here.
        show: Gets every sample.
        every_s: Seconds from one look to the next.
    """
    ended = threading.Event()

    def body() -> None:
        while True:
            sample = look()
            if ended.is_set():
                return
            if sample is not None:
                append_sample(log, sample)
                show(sample)
            if ended.wait(every_s):
                return

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=LAST_LOOK_S)
