"""How many requests are on their way, over all processes that ask the teacher.

Serve counts only what has reached a replica, and knows nothing of a request that waits for one to
come up. Every process that asks tells one light actor of its own requests instead.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TELL_S = 2.0
"""A process tells its count this often while it is not zero."""
FORGOTTEN_S = 5 * TELL_S
"""A process that told nothing for so long is gone, or asks nothing."""


class Tally:
    """The actor: the latest count of each process."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, process: str, in_flight: int) -> None:
        """One process says how many requests it has on their way."""
        self._told[process] = (time.monotonic(), in_flight)

    def total(self) -> int:
        """Requests on their way."""
        now = time.monotonic()
        self._told = {p: (at, n) for p, (at, n) in self._told.items() if now - at < FORGOTTEN_S}
        return sum(count for _, count in self._told.values())


class InFlight:
    """The requests of this process; tells the tally of them."""

    def __init__(self) -> None:
        self._process = uuid.uuid4().hex
        self._count = 0
        self._telling: asyncio.Task[None] | None = None

    @contextmanager
    def one(self, tally: Any) -> Iterator[None]:
        """Count one request while the block runs; a loop of asyncio is running."""
        self._count += 1
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(tally))
        try:
            yield
        finally:
            self._count -= 1

    async def _tell(self, tally: Any) -> None:
        while True:
            count = self._count
            tally.tell.remote(self._process, count)
            if count == 0:
                return
            await asyncio.sleep(TELL_S)
