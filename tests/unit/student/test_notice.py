from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from raykd.student import notice
from raykd.student.notice import LOOK_EVERY_S, QUIET_S, Notices, Termination


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(notice.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """What the handler of before gets."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


def test_the_first_sigterm_is_a_notice_the_second_is_not(taken: list[int]) -> None:
    termination = Termination()
    termination.listen()
    assert not termination.is_asked()
    os.kill(os.getpid(), signal.SIGTERM)
    assert termination.is_asked()
    assert taken == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert taken == [signal.SIGTERM]


def test_a_notice_is_answered_once(clock: Clock, taken: list[int]) -> None:
    termination = Termination()
    termination.listen()
    notices = Notices(termination)
    assert not notices.wants_save()
    os.kill(os.getpid(), signal.SIGTERM)
    assert notices.wants_save()
    assert notices.wants_save(), "until it is answered"
    notices.answered()
    assert not notices.wants_save()


def test_the_same_notice_that_comes_later_is_no_news(clock: Clock, taken: list[int]) -> None:
    termination = Termination()
    notices = Notices(termination)
    notices.answered()  # another rank had it first
    clock.now += QUIET_S - 1
    termination.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert not notices.wants_save()
    clock.now += 2
    assert not notices.wants_save()
    termination.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    assert notices.wants_save()


def test_ray_is_asked_from_time_to_time_and_each_notice_is_news_once(clock: Clock) -> None:
    told: list[tuple[str, ...] | None] = [None, ("a",), ("a",), ("a", "b"), ("a", "b")]
    asked = iter(told)
    notices = Notices(preempted=lambda: next(asked))
    assert not notices.wants_look()
    news = []
    for _ in told:
        clock.now += LOOK_EVERY_S
        assert notices.wants_look()
        news.append(notices.look())
        assert not notices.wants_look()
    assert news == [False, True, False, True, False]


def test_without_ray_nobody_is_asked(clock: Clock) -> None:
    notices = Notices()
    clock.now += 1000
    assert not notices.wants_look()
    assert not notices.look()
