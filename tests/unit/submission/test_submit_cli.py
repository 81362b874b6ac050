"""The four commands, against a job API that answers over HTTP."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from raykd.cli import app
from raykd.submission import follow as following

ROOT = Path(__file__).parents[3]


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def api(job_api: Any) -> Any:
    job_api.metadata = {"rayVersion": ray.__version__, "pythonVersion": platform.python_version()}
    return job_api


@pytest.fixture
def job_file(write_job: Callable[..., Path], job_tree: dict[str, Any]) -> Path:
    return write_job(job_tree)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def prints(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | BaseException], None]:
    """What following a job does: print a text, or raise."""

    def make(what: str | BaseException) -> None:
        async def tail(_: Any, __: str, ___: int, write: Callable[[str], None]) -> int:
            if isinstance(what, BaseException):
                raise what
            write(what)
            return len(what)

        monkeypatch.setattr(following, "_tail", tail)

    return make


@pytest.mark.parametrize("command", ["submit", "status", "logs", "stop"])
def test_help_imports_no_ray(command: str) -> None:
    code = (
        "import sys\n"
        "from raykd.cli import app\n"
        f"try: app([{command!r}, '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'ray', 'pathspec', 'requests'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_submit_without_following(api: Any, job_file: Path, project: Path) -> None:
    done = invoke(
        "submit", job_file, "--address", api.url, "--working-dir", project, "--no-follow",
        "--submission-id", "mine",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert f"submitted mine to {api.url}\n" in done.stderr
    assert f"`raykd logs mine --address {api.url}` follows it" in done.stderr
    assert len(api.sent) == 1


@pytest.mark.parametrize(("ended", "code"), [("SUCCEEDED", 0), ("FAILED", 3), ("STOPPED", 130)])
def test_submit_ends_as_the_job_does(
    api: Any,
    job_file: Path,
    project: Path,
    prints: Callable[..., None],
    details: Callable[..., dict[str, Any]],
    ended: str,
    code: int,
) -> None:
    api.jobs = [details("mine", status=ended, driver_exit_code=3, metadata=None)]
    prints("[train] step 1\n")
    done = invoke(
        "submit", job_file, "--address", api.url, "--working-dir", project,
        "--submission-id", "mine",
    )  # fmt: skip
    assert done.exit_code == code, done.output
    assert done.stdout == "[train] step 1\n"
    assert done.stderr.splitlines()[-1].startswith(f"mine {ended.lower()}")


def test_ctrl_c_lets_go(
    api: Any, prints: Callable[..., None], details: Callable[..., dict[str, Any]]
) -> None:
    api.jobs = [details("tiny-1")]
    prints(KeyboardInterrupt())
    done = invoke("logs", "tiny", "--address", api.url)
    assert done.exit_code == 130
    assert "let go of tiny-1: it goes on" in done.stderr
    assert f"`raykd logs tiny-1 --address {api.url}` follows it" in done.stderr
    assert api.jobs[0]["status"] == "RUNNING"


def test_status(api: Any, details: Callable[..., dict[str, Any]]) -> None:
    assert invoke("status", "--address", api.url).stdout == f"{api.url}: no submissions\n"
    api.jobs = [
        details("tiny-1", start_time=60_000, end_time=122_000, status="SUCCEEDED"),
        details("tiny-2", start_time=200_000, status="PENDING", message="Waiting for a node."),
    ]
    lines = invoke("status", "--address", api.url).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["tiny-1", "succeeded"], ["tiny-2", "pending"]]
    assert lines[0].endswith(", 1m 02s") or "1" in lines[0].rsplit(",", 1)[1]
    said = invoke("status", "tiny", "--address", api.url).stdout
    assert "submission  tiny-2\n" in said
    assert "run         tiny\n" in said
    assert "waiting     Waiting for a node.\n" in said
    assert "command     python -m raykd run job.yaml --resume\n" in said


def test_stop(api: Any, details: Callable[..., dict[str, Any]]) -> None:
    api.jobs = [details("tiny-1")]
    done = invoke("stop", "tiny", "--address", api.url)
    assert done.exit_code == 0
    assert done.stdout == "tiny-1 stopped\n"
    assert done.stderr == "asked tiny-1 to stop\n"
    done = invoke("stop", "tiny", "--address", api.url)
    assert (done.stdout, done.stderr) == ("tiny-1 stopped\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "nope"], "error: nope: no submission and no run of that name at "),
        (["logs", "nope"], "error: nope: no submission"),
        (["stop", "nope"], "error: nope: no submission"),
        (["status", "--address", "ray://h:1"], "error: --address: 'ray://h:1' is not the URL"),
        (["submit", "none.yaml"], "error: none.yaml: no such job file\n"),
    ],
)
def test_bad_input_exits_with_2(api: Any, words: list[str], said: str) -> None:
    if "--address" not in words:
        words = [*words, "--address", api.url]
    done = invoke(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_stop_wait_that_help_names_is_the_one_that_is_sent(
    api: Any, job_file: Path, project: Path
) -> None:
    from raykd.submission.request import STOP_WAIT_S

    invoke("submit", job_file, "--address", api.url, "--working-dir", project, "--no-follow")
    assert api.sent[0]["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
