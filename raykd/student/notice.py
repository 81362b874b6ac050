"""Notices that a rank's machine will be taken away: each is answered by one checkpoint."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Hashable
from types import FrameType

LOOK_EVERY_S = 5.0
"""As often as Ray Train itself looks for nodes that are being drained."""
QUIET_S = 30.0
"""One notice reaches the ranks, and by more than one way, within this time."""


class Termination:
    """Whether this process was asked to end. The second SIGTERM has its usual effect again."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def listen(self) -> None:
        """Catch the next SIGTERM; only the main thread may call this."""
        before = signal.getsignal(signal.SIGTERM)

        def take(number: int, frame: FrameType | None) -> None:
            self._asked.set()
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, take)

    def is_asked(self) -> bool:
        """Whether SIGTERM came and was not answered yet."""
        return self._asked.is_set()

    def answer(self) -> None:
        """A checkpoint was saved for it."""
        self._asked.clear()


class Notices:
    """What a rank knows of notices.

    Args:
        termination: SIGTERM of this process.
        preempted: What Ray knows of nodes that will be taken away, None for nothing; every rank
            calls it together and gets the same answer.
    """

    def __init__(
        self,
        termination: Termination | None = None,
        preempted: Callable[[], Hashable | None] | None = None,
    ) -> None:
        self._termination = termination or Termination()
        self._preempted = preempted
        self._looked_at = time.monotonic()
        self._quiet_until = self._looked_at
        self._answered: Hashable | None = None

    def wants_save(self) -> bool:
        """Whether this process was asked to end, and that is news."""
        if self._termination.is_asked() and time.monotonic() < self._quiet_until:
            self._termination.answer()
        return self._termination.is_asked()

    def wants_look(self) -> bool:
        """Whether it is time to ask Ray; only the first rank's answer counts."""
        return self._preempted is not None and time.monotonic() - self._looked_at >= LOOK_EVERY_S

    def look(self) -> bool:
        """Ask Ray, with all ranks; whether there is a notice that is news."""
        self._looked_at = time.monotonic()
        found = None if self._preempted is None else self._preempted()
        if found is None or found == self._answered:
            return False
        self._answered = found
        return True

    def answered(self) -> None:
        """A checkpoint was saved for a notice, of this rank or another."""
        self._termination.answer()
        self._quiet_until = time.monotonic() + QUIET_S
