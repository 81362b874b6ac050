from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import PurePath

import pytest

from raykd.errors import SubmissionError
from raykd.submission import request

HOSTILE = [
    "name=$(touch pwned)",
    "name=`touch pwned`",
    "name=x; touch pwned",
    "name=x && touch pwned",
    "name=x | tee pwned",
    "name=x > pwned",
    "name='x'\"y\"",
    "name=x\ntouch pwned",
    "name=*",
    "name=${HOME}",
]


def test_the_plain_command() -> None:
    assert (
        request.entry_point(PurePath("jobs/x.yaml"), ["seed=3"], ["HF_TOKEN"])
        == "python -m raykd run jobs/x.yaml --resume --set seed=3 --require-env HF_TOKEN"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_a_shell_reads_no_word_of_a_job(text: str, tmp_path) -> None:
    command = request.entry_point(PurePath(f"jobs/{text}.yaml"), [text], [])
    # As Ray runs it: by a shell. What stands in for python says what it was given.
    echo = f'{shlex.quote(sys.executable)} -c "import json,sys; print(json.dumps(sys.argv[1:]))"'
    shown = command.replace("python", echo, 1)
    done = subprocess.run(
        shown, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
    )
    assert json.loads(done.stdout) == [
        "-m", "raykd", "run", f"jobs/{text}.yaml", "--resume", "--set", text,
    ]  # fmt: skip
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["HF_TOKEN=hunter2", "A-B", "", "1A", "A B", "A\n"])
def test_only_names_of_variables(text: str) -> None:
    with pytest.raises(SubmissionError, match=r"takes the name of a variable") as refused:
        request.require_names(["GOOD_NAME", text])
    assert "hunter2" not in str(refused.value)


def test_names_of_variables() -> None:
    request.require_names(["HF_TOKEN", "_a1"])


def test_ids_carry_the_runs_name_and_the_time() -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert request.submission_id("a.b_c-d", None, moment) == "a.b_c-d-20260304-050607"
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", request.submission_id("tiny", None))
    assert request.submission_id("tiny", "mine-1") == "mine-1"


@pytest.mark.parametrize("given", ["../../etc/passwd", "a/b", "", "-x", "a b", "x" * 201, "a?b"])
def test_ids_are_plain(given: str) -> None:
    with pytest.raises(SubmissionError, match=r"^--submission-id: "):
        request.submission_id("tiny", given)


def test_what_ray_keeps_holds_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-this-test")
    kept = [
        request.runtime_env("/tmp/package", 300),
        request.metadata("tiny"),
        request.entry_point(PurePath("x.yaml"), [], ["HF_TOKEN"]),
    ]
    assert "canary" not in json.dumps(kept)
    assert request.runtime_env("/tmp/package", 60) == {
        "working_dir": "/tmp/package",
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
    }


def test_what_the_driver_reserves() -> None:
    assert request.EntryResources().arguments() == {}
    assert request.EntryResources(0.5, 1, 10**9).arguments() == {
        "entrypoint_num_cpus": 0.5,
        "entrypoint_num_gpus": 1,
        "entrypoint_memory": 10**9,
    }
