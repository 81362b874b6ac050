"""What a rank says when it fails, and rows fetched ahead. No cluster is started."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raykd.errors import DivergenceError, OrderError, RunError, TeacherError
from raykd.student import failures
from raykd.student.failures import own_cause
from raykd.student.trainer import Ahead, _group_timeout_s

OWN = OrderError("rank 1: rows out of place")


def raised_from(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise ValueError("outer") from error
    except ValueError as outer:
        return outer


def raised_while(inner: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception:
            raise ValueError("outer")  # noqa: B904 - the context is what is looked at
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    "error",
    [
        OWN,
        raised_from(OWN),
        raised_while(OWN),
        raised_from(raised_while(OWN)),
        ray.exceptions.RayTaskError("f", "traceback", OWN),
        ray.exceptions.RayTaskError("f", "traceback", OWN).as_instanceof_cause(),
        raised_from(ray.exceptions.RayTaskError("f", "traceback", raised_from(OWN))),
    ],
    ids=["itself", "cause", "context", "both", "task", "task as cause", "deep"],
)
def test_raykds_own_error_is_found_in_its_wrappers(error: Exception) -> None:
    found = own_cause(error)
    assert type(found) is OrderError
    assert str(found) == str(OWN)


def test_there_may_be_none() -> None:
    assert own_cause(None) is None
    assert own_cause(raised_from(KeyError("x"))) is None
    circle = ValueError("a")
    circle.__cause__ = raised_from(circle)
    assert own_cause(circle) is None


def test_what_a_rank_leaves(tmp_path: Path) -> None:
    failures.keep(tmp_path, 3, raised_from(OWN))
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    assert (record["type"], record["message"]) == ("OrderError", str(OWN))
    assert "ValueError: outer" in record["traceback"]
    assert abs(record["time"] - time.time()) < 60


@pytest.mark.parametrize("skew_s", [-3600.0, 0.0, 3600.0])
def test_the_earliest_failure_explains_the_others(
    skew_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the clock of rank 2's node is an hour off."""
    clock = iter([10.0 + skew_s, 20.0, 30.0])
    monkeypatch.setattr(failures.time, "time", lambda: next(clock))
    for rank, text in ((2, "first"), (0, "second"), (1, "third")):
        failures.keep(tmp_path, rank, DivergenceError(text))
    assert str(failures.told(tmp_path, RuntimeError("group failed"))) == "first"


def test_of_failures_that_know_nothing_of_each_other_the_clock_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([20.0, 10.0])
    monkeypatch.setattr(failures.time, "time", lambda: next(clock))
    for rank, text in enumerate(("second", "first")):
        (tmp_path / "seen" / str(rank)).mkdir(parents=True)
        failures.keep(tmp_path / "seen" / str(rank), rank, DivergenceError(text))
    for file in (tmp_path / "seen").glob("*/*"):
        file.rename(tmp_path / file.name)
    assert str(failures.told(tmp_path, RuntimeError("group failed"))) == "first"


def test_raykds_own_error_explains_more_than_an_earlier_one(tmp_path: Path) -> None:
    failures.keep(tmp_path, 0, RuntimeError("connection closed by peer"))
    failures.keep(tmp_path, 1, OWN)
    error = failures.told(tmp_path, RuntimeError("group failed"))
    assert type(error) is OrderError
    assert str(error) == str(OWN)


def test_the_driver_raises_what_the_rank_raised(tmp_path: Path) -> None:
    failures.keep(tmp_path, 0, TeacherError("the teacher failed 3 times\non rows 1 to 4"))
    error = failures.told(tmp_path, RuntimeError("group failed"))
    assert type(error) is TeacherError
    assert str(error) == "the teacher failed 3 times\non rows 1 to 4"


def test_another_error_names_where_its_traceback_is(tmp_path: Path) -> None:
    failures.keep(tmp_path, 0, ZeroDivisionError("many\nlines"))
    error = failures.told(tmp_path, RuntimeError("group failed"))
    (file,) = tmp_path.iterdir()
    assert type(error) is RunError
    assert str(error) == (
        f"a student rank failed: ZeroDivisionError: lines (its traceback is in {file})"
    )


def test_a_group_that_failed_without_a_rank(tmp_path: Path) -> None:
    error = failures.told(tmp_path, RuntimeError("first\n  no nodes left \n"))
    assert str(error) == "the student group failed: no nodes left"
    assert failures.told(tmp_path, raised_from(OWN)) is OWN
    assert "no message" in str(failures.told(tmp_path, RuntimeError("")))


def test_a_rank_that_lives_again_forgets_its_own_failure(tmp_path: Path) -> None:
    for rank in range(3):
        failures.keep(tmp_path, rank, ValueError(f"rank {rank}"))
    failures.forget(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2
    failures.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
    failures.forget(tmp_path, 1)


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (OWN, True),
        (DivergenceError("nan"), True),
        (raised_from(TeacherError("gone")), True),
        (RuntimeError("a node is gone"), False),
        (OSError("disk"), False),
    ],
)
def test_what_a_restart_does_not_mend(error: Exception, fatal: bool, tmp_path: Path) -> None:
    assert failures.fatal(tmp_path) is None
    failures.keep(tmp_path, 0, error)
    found = failures.fatal(tmp_path)
    assert (found is not None) is fatal
    if found is not None:
        assert type(found) is type(failures.own_cause(error))


def test_ahead_gives_every_item_in_order() -> None:
    items: Iterator[Any] = iter(["a", "b", "c"])
    ahead = Ahead(items)
    assert list(ahead) == ["a", "b", "c"]
    assert next(ahead, "end") == "end"
    assert next(ahead, "end") == "end"


def test_ahead_of_nothing() -> None:
    assert list(Ahead(iter([]))) == []


def test_the_next_item_is_fetched_while_this_one_is_worked_on() -> None:
    fetched = [threading.Event() for _ in range(3)]

    def items() -> Iterator[Any]:
        for event in fetched:
            event.set()
            yield event

    ahead = Ahead(items())
    assert fetched[0].wait(10)
    assert not fetched[1].is_set()
    next(ahead)
    assert fetched[1].wait(10)
    assert not fetched[2].wait(0.2), "one ahead, not more"


def test_an_error_while_fetching_comes_with_its_item() -> None:
    def items() -> Iterator[Any]:
        yield "a"
        raise TeacherError("no more")

    ahead = Ahead(items())
    assert next(ahead) == "a"
    with pytest.raises(TeacherError, match="no more"):
        next(ahead)


def test_the_group_waits_longer_than_the_teacher_may_take(make_job: Callable[..., Any]) -> None:
    """Timeouts nest: teacher request, all its retries, process group."""
    job = make_job({"teacher.request_timeout_s": 100.0, "teacher.max_retries": 4})
    pauses = sum(min(30.0, 0.5 * 2**i) * 1.5 for i in range(4))
    assert _group_timeout_s(job, 0.0) > 5 * 100 + pauses
