"""The pace, by a clock that a test turns."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from raykd.endpoint.pace import Pace


class Clock:
    """Time goes on only while somebody sleeps; sleepers wake in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now = max(self.now, self.now + seconds)


def times(pace: Pace, clock: Clock, amounts: list[float]) -> list[float]:
    async def take_all() -> list[float]:
        taken = []
        for amount in amounts:
            await pace.take(amount)
            taken.append(clock.now)
        return taken

    return asyncio.run(take_all())


@given(
    amounts=st.lists(st.floats(0.1, 500), min_size=1, max_size=30),
    per_minute=st.floats(1, 10_000),
)
def test_no_stretch_of_time_has_more_than_the_limit(
    amounts: list[float], per_minute: float
) -> None:
    clock = Clock()
    taken = times(Pace(per_minute, clock, clock.sleep), clock, amounts)
    for first, last in itertools.combinations(range(len(taken)), 2):
        seconds = taken[last] - taken[first]
        used = sum(amounts[first:last])
        assert used <= per_minute * seconds / 60 * (1 + 1e-6) + 1e-6


def test_without_a_limit_nothing_waits() -> None:
    clock = Clock()
    assert times(Pace(None, clock, clock.sleep), clock, [1.0, 50.0, 1e6]) == [0, 0, 0]


def test_what_was_not_used_is_given_back() -> None:
    clock = Clock()
    pace = Pace(60, clock, clock.sleep)
    times(pace, clock, [10.0])
    pace.correct(8.0)
    assert times(pace, clock, [1.0]) == [2.0]
    pace.correct(-5.0)
    assert times(pace, clock, [1.0]) == [8.0]


def test_a_hold_is_for_all() -> None:
    clock = Clock()
    pace = Pace(None, clock, clock.sleep)
    pace.hold(5.0)
    assert times(pace, clock, [1.0]) == [5.0]
