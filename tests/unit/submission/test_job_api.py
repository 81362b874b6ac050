"""Versions and refusals, against a small job API that answers over HTTP."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest
import ray

from raykd.errors import SubmissionError
from raykd.submission.client import connect, versions_of
from raykd.submission.versions import Versions, differences, require_same


def test_versions_of_a_cluster(job_api: Any) -> None:
    job_api.metadata = {"rayVersion": ray.__version__, "pythonVersion": "3.12.4"}
    client = connect(job_api.url)
    assert versions_of(client, job_api.url) == Versions(ray.__version__, "3.12.4")
    job_api.metadata = None
    assert versions_of(client, job_api.url) == Versions(ray.__version__, None)


def test_versions_here() -> None:
    assert Versions.here() == Versions(ray.__version__, platform.python_version())


def test_other_versions_are_named() -> None:
    here = Versions("2.60.0", "3.11.7")
    require_same(here, Versions("2.60.1", "3.11.2"), "http://h")
    require_same(here, Versions("2.60.0", None), "http://h")
    assert differences(here, Versions("2.59.0", "3.12.7")) == [
        "Ray 2.59.0 on the cluster, 2.60.0 here",
        "Python 3.12.7 on the cluster, 3.11.7 here",
    ]
    with pytest.raises(SubmissionError, match=r"^http://h: Ray 2\.6\.0 on the cluster, 2\.60\.0 h"):
        require_same(here, Versions("2.6.0", "3.11.7"), "http://h")


@pytest.mark.parametrize(
    ("answer", "environment", "said"),
    [
        (
            (403, "Forbidden: Invalid authentication token"),
            {"RAY_AUTH_TOKEN": "mine"},
            "the cluster refuses the token from RAY_AUTH_TOKEN: it is another cluster's",
        ),
        (
            (401, "Unauthorized: Missing authentication token"),
            {},
            "the cluster asks for a token, and none is here: set RAY_AUTH_TOKEN_PATH or",
        ),
        (
            (401, "Unauthorized: Missing authentication token"),
            {"RAY_AUTH_TOKEN": "mine"},
            "RAY_AUTH_MODE keeps that of RAY_AUTH_TOKEN back",
        ),
        ((404, "no"), {}, "Version check returned 404"),
        ((500, "broken"), {}, "no job API answers (500 Server Error"),
    ],
)
def test_refusals(
    job_api: Any,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, str],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    job_api.refuses = answer
    with pytest.raises(SubmissionError) as refused:
        connect(job_api.url)
    assert str(refused.value).startswith(f"{job_api.url}: ")
    assert said in str(refused.value)
    assert "mine" not in str(refused.value)


def test_something_else_answers(job_api: Any) -> None:
    job_api.page = "<html>hello</html>"
    with pytest.raises(SubmissionError, match="answers, but not as Ray's job API does"):
        connect(job_api.url)


def test_nothing_answers() -> None:
    with pytest.raises(SubmissionError, match=r"no job API answers .* is the cluster up"):
        connect("http://127.0.0.1:9")


def test_ray_goes_where_it_is_told_and_not_where_a_variable_points(
    job_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    assert connect(job_api.url).get_address() == job_api.url
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


def test_the_home_of_a_test_is_its_own(tmp_path: Path) -> None:
    assert Path.home() == tmp_path / "home"
