"""No more than so many a minute: requests, or tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

MINUTE_S = 60.0


class Pace:
    """Spaces what is taken evenly, so that every stretch of time keeps the limit."""

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Begin at once.

        Args:
            per_minute: The limit; None only holds when told to.
            clock: Seconds.
            sleep: Waits that long.
        """
        self._each_s = MINUTE_S / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._free_at = clock()
        self._held_until = clock()

    async def take(self, amount: float = 1.0) -> None:
        """Wait for the turn of this much."""
        mine = max(self._clock(), self._free_at)
        self._free_at = mine + amount * self._each_s
        # A hold that comes while this one waits is for this one too.
        while (wait := max(mine, self._held_until) - self._clock()) > 0:
            await self._sleep(wait)

    def correct(self, too_much: float) -> None:
        """Give back what was taken and not used; negative takes what was used on top."""
        self._free_at -= too_much * self._each_s

    def hold(self, seconds: float) -> None:
        """Let nothing through for a while: the endpoint asked for it."""
        self._held_until = max(self._held_until, self._clock() + seconds)
