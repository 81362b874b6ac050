"""`raykd run --log-format json`: how it ends, also before anything heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raykd.cli import app


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", *arguments, "--log-format", "json"])


def test_a_job_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", "TEXT")
    done = run("no-such.yaml")
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    record = json.loads(line)
    assert record["text"] == "no-such.yaml: no such job file"
    assert (record["level"], record["error"], record["exit_code"]) == ("error", "JobError", 2)
    assert "traceback" not in record


def test_a_defect_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
    write_job: Callable[..., Path],
    job_tree: dict[str, Any],
) -> None:
    monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", "TEXT")

    def broken(*_: Any) -> Any:
        raise KeyError("inside")

    monkeypatch.setattr("raykd.pipeline.cluster.connect", broken)
    done = run(str(write_job(job_tree)), "--debug")
    assert done.exit_code == 1
    record = json.loads(done.stderr)
    assert (record["run"], record["error"]) == ("tiny", "KeyError")
    assert "in broken" in record["traceback"]
