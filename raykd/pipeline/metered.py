"""Soft targets counted as they come, in the process that asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raykd.data.stream import HoldsBack, Score
from raykd.pipeline.by_slice import BySlice
from raykd.pipeline.instruments import Instruments, instruments_of
from raykd.pipeline.with_states import WithStates
from raykd.store.scoring import KeptScorer, opened
from raykd.store.tally import Tally
from raykd.teacher.client import failed_tries


@dataclass(frozen=True)
class FromTeacher:
    """The teacher asked, and its answers and failures counted."""

    run: str
    score: Score

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets of rows."""
        to = instruments_of(self.run)
        try:
            answer = await self.score(rows)
        finally:
            _count_failures(to)
        to.add("teacher_requests", 1)
        to.add("teacher_rows", answer.num_rows)
        to.add("teacher_bytes", answer.nbytes)
        return answer


@dataclass(frozen=True)
class Delivered:
    """Whoever answers, store or teacher: what comes to the stream is counted."""

    run: str
    score: Score

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets of rows."""
        answer = await self.score(rows)
        to = instruments_of(self.run)
        to.add("soft_target_rows", answer.num_rows)
        to.add("soft_target_bytes", answer.nbytes)
        for scorer in self._stores:
            _count_hits(to, scorer)
        return answer

    def flush(self) -> None:
        """Publish what a store holds back."""
        held: object = self.score
        if isinstance(held, HoldsBack):
            held.flush()

    @property
    def _stores(self) -> tuple[KeptScorer, ...]:
        if isinstance(self.score, BySlice | WithStates):
            return self.score.stores
        return (self.score,) if isinstance(self.score, KeptScorer) else ()


class _Seen:
    """How much of this process's sums was added to the counters."""

    def __init__(self) -> None:
        self.lost = self.refused = 0
        self.tallies: dict[str, tuple[Tally, int, int]] = {}


_seen = _Seen()


def _count_failures(to: Instruments) -> None:
    lost, refused = failed_tries.lost, failed_tries.refused
    to.add("teacher_requests_lost", lost - _seen.lost)
    to.add("teacher_requests_refused", refused - _seen.refused)
    _seen.lost, _seen.refused = lost, refused


def _count_hits(to: Instruments, scorer: KeptScorer) -> None:
    name, tally = scorer.section.name, opened(scorer).tally
    hits, misses = tally.hit_rows, tally.missed_rows
    before: tuple[Any, int, int] = _seen.tallies.get(name, (None, 0, 0))
    # A store that was closed and opened anew begins at zero.
    was_hits, was_misses = before[1:] if before[0] is tally else (0, 0)
    to.add("store_hit_rows", hits - was_hits)
    to.add("store_missed_rows", misses - was_misses)
    _seen.tallies[name] = (tally, hits, misses)
