from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import SubmissionError
from raykd.submission.client import connect
from raykd.submission.find import find, require_idle, state, submissions


@pytest.fixture
def known(job_api: Any, details: Callable[..., dict[str, Any]]) -> Any:
    """Two submissions of one run, newest first as listed, one of another, and a plain driver."""
    job_api.jobs = [
        details("tiny-2", start_time=2000, status="RUNNING"),
        details("tiny-1", start_time=1000, status="STOPPED", end_time=1500),
        details("other-1", start_time=3000, status="SUCCEEDED", metadata={"raykd_run": "other"}),
        details("plain-1", start_time=1, status="FAILED", metadata=None, driver_exit_code=2),
        {**details("x"), "type": "DRIVER", "submission_id": None},
    ]
    return job_api


def test_the_oldest_first_and_no_drivers(known: Any) -> None:
    found = submissions(connect(known.url), known.url)
    assert [each.id for each in found] == ["plain-1", "tiny-1", "tiny-2", "other-1"]
    assert found[1].began_s == 1.0
    assert found[1].ended_s == 1.5
    assert found[0].exit_code == 2
    assert [each.is_live for each in found] == [False, False, True, False]


def test_by_id_or_by_run(known: Any) -> None:
    client = connect(known.url)
    assert find(client, known.url, "tiny-1").id == "tiny-1"
    assert find(client, known.url, "tiny").id == "tiny-2"
    assert find(client, known.url, "plain-1").run is None
    assert state(client, known.url, "other-1").status == "SUCCEEDED"


def test_an_id_goes_before_a_run_of_that_name(
    known: Any, details: Callable[..., dict[str, Any]]
) -> None:
    known.jobs.append(details("new", start_time=9000, metadata={"raykd_run": "tiny-1"}))
    assert find(connect(known.url), known.url, "tiny-1").id == "tiny-1"


def test_none_of_that_name(known: Any) -> None:
    with pytest.raises(SubmissionError, match=r"^nope: no submission .* there: plain-1, tiny-1"):
        find(connect(known.url), known.url, "nope")


def test_a_run_that_is_being_run_is_not_sent_again(known: Any) -> None:
    client = connect(known.url)
    require_idle(client, known.url, "other")
    with pytest.raises(SubmissionError, match=r"is being run by submission tiny-2 \(RUNNING\)"):
        require_idle(client, known.url, "tiny")
