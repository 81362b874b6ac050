"""Waiting for nodes on a cluster that scales itself: what waits, since when, until when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raykd.config.job import Job
from raykd.errors import CapacityError, RaykdError
from raykd.pipeline import capacity, cluster
from raykd.pipeline.demands import LOADERS, RANKS, REPLICAS, TASK, Pending, pending
from raykd.pipeline.launches import launches
from raykd.telemetry.units import duration

LOOK_S = 2.0
"""A look is one call to the head."""
NOTE_AFTER_S = 10.0
NOTE_EVERY_S = 60.0

_active: list[NodeWaits] = []


class NodeWaits:
    """Looks at what is pending and says so.

    Args:
        job: The job; its `capacity` says how long, and what then.
        note: Tells the person; from any thread.
        look: The parts that wait now, and what is said of launches since a time.
        clock: Unix seconds.
    """

    def __init__(
        self,
        job: Job,
        note: Callable[[str], None],
        look: Callable[[Job], list[Pending]],
        launched: Callable[[float], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.note = note
        self._job = job
        self._look = look
        self._launched = launched
        self._clock = clock
        self._waits: dict[str, Pending] = {}
        self._since: dict[str, float] = {}
        self._noted: dict[str, float] = {}
        self._over: dict[str, str] = {}
        self._lock = threading.RLock()
        self._teacher_began = False
        self._last: dict[str, str] = {}

    @property
    def limit_s(self) -> float:
        """`capacity.wait_s`."""
        return self._job.capacity.wait_s

    @property
    def go_on_smaller(self) -> bool:
        """Whether the run goes on with what is there."""
        return self._job.capacity.then == "smaller"

    def follow(self, job: Job) -> None:
        """The job has changed: it has other parts now."""
        self._job = job

    def teacher_began(self) -> None:
        """From now on no replica is one that the run cannot go on without."""
        self._teacher_began = True

    def look(self) -> None:
        """Take in what waits now; say what has waited for long, or no longer waits."""
        with self._lock:
            self._take_in()

    def _take_in(self) -> None:
        now = self._clock()
        found: dict[str, Pending] = {}
        for each in self._look(self._job):
            found.setdefault(each.part, each)
        for part in [part for part in self._since if part not in found]:
            self._came(part, now)
        self._waits = found
        for part in found:
            self._since.setdefault(part, now)
            self._tell(part, now)

    def waiting(self, part: str = REPLICAS) -> int:
        """How many of a part wait."""
        return self._waits[part].count if part in self._waits else 0

    def overdue(self, part: str = REPLICAS) -> str | None:
        """What waits for longer than the job allows, in words; None where it does not."""
        with self._lock:
            since = self._since.get(part)
            if since is None or self._clock() - since < self.limit_s:
                return None
            if part not in self._over:
                self._over[part] = f"{self._sentence(part, self._clock())}; {self._limit} is over"
            return self._over[part]

    @property
    def _limit(self) -> str:
        return f"the limit (capacity.wait_s: {self.limit_s:g})"

    def last_words(self, part: str) -> str:
        """What was last said of a part that waited."""
        return self._last.get(part, "")

    def end_long_waits(self) -> None:
        """Called while a task is waited for: raise if it has had no node for too long.

        Replicas and ranks have limits where they are started. Another job's task of this size and
        these labels looks the same, so that this one must have been waited for as long.
        """
        if cluster.waited_s() >= self.limit_s and (reason := self.overdue(TASK)):
            raise CapacityError(reason)

    def _came(self, part: str, now: float) -> None:
        since = self._since.pop(part)
        self._over.pop(part, None)
        if self._noted.pop(part, None) is not None:
            self.note(f"{part}: no longer waiting for nodes, after {duration(now - since)}")

    def _tell(self, part: str, now: float) -> None:
        since, noted = self._since[part], self._noted.get(part)
        if now - since < NOTE_AFTER_S or (noted is not None and now - noted < NOTE_EVERY_S):
            return
        self._noted[part] = now
        text = self._sentence(part, now)
        if part != LOADERS and (part != REPLICAS or not self._teacher_began):
            text += f"; {self._then(since)}"
        self.note(text)

    def _then(self, since: float) -> str:
        what = "goes on smaller" if self.go_on_smaller else "ends"
        return f"{what} at {_time(since + self.limit_s)}, {self._limit}"

    def _sentence(self, part: str, now: float) -> str:
        since = self._since[part]
        text = f"waiting {duration(now - since)} for nodes, since {_time(since)}: "
        text += self._waits[part].told()
        launched = self._launched(since)
        text += f"; nodes: {launched}" if launched else "; no node is on its way"
        self._last[part] = text
        return text


def active() -> NodeWaits | None:
    """Of the run of this process; None where the cluster does not scale itself."""
    return _active[-1] if _active else None


@contextmanager
def watched(job: Job, note: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, tell which parts of the job wait for nodes, and end waits that last.

    Args:
        job: The job.
        note: Tells the person; from any thread.
    """
    if capacity.growth() is None:
        yield
        return
    waits = NodeWaits(job, note, _pending_now, _launched_since)
    ended = threading.Event()
    thread = threading.Thread(target=_body, args=(waits, ended), daemon=True)
    thread.start()
    _active.append(waits)
    try:
        with cluster.while_waiting(waits.end_long_waits):
            yield
    finally:
        _active.remove(waits)
        ended.set()
        thread.join(timeout=cluster.STATUS_S)


def _body(waits: NodeWaits, ended: threading.Event) -> None:
    while not ended.wait(LOOK_S):
        try:
            waits.look()
        except RaykdError:
            continue  # the head does not answer now; the next look may find it


def _pending_now(job: Job) -> list[Pending]:
    return pending(job, cluster.status())


def _launched_since(since: float) -> str:
    return launches(cluster.status().autoscaling_state, since).told()


def _time(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


__all__ = ["RANKS", "REPLICAS", "NodeWaits", "active", "watched"]
