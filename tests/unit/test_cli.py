from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raykd import __version__
from raykd.cli import app
from raykd.errors import Interrupted, RunError, TeacherError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "transformers", "deepspeed", "datasets", "pyarrow", "numpy", "pandas")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def job_file(write_job: Callable[..., Path], job_tree: dict[str, Any]) -> Path:
    return write_job(job_tree)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes reading the job raise something."""

    def make(error: BaseException) -> None:
        def load(*_: Any) -> Any:
            raise error

        monkeypatch.setattr("raykd.config.load.load_job", load)

    return make


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from raykd.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_bad_job_is_refused_without_torch_or_ray(job_file: Path) -> None:
    code = (
        "import sys\n"
        "from raykd.cli import app\n"
        f"try: app(['run', {str(job_file)!r}, '--set', 'loss.alpha=2'])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert not {'torch', 'ray'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: --set loss.alpha=2: loss.alpha: ")
    assert "Traceback" not in done.stderr


def test_help_names_the_commands() -> None:
    said = invoke("--help").output
    for command in ("run", "check", "eval", "export"):
        assert command in said
    assert invoke("--version").output.strip() == f"raykd {__version__}"


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_bad_job_exits_with_2(command: str, job_file: Path) -> None:
    done = invoke(command, str(job_file), "--set", "train.global_bach=8")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: --set train.global_bach=8: train.global_bach: unknown key; did you mean "
        "'global_batch'?\n"
    )


def test_a_missing_job_file(tmp_path: Path) -> None:
    done = invoke("run", str(tmp_path / "none.yaml"))
    assert done.exit_code == 2
    assert done.stderr == f"error: {tmp_path / 'none.yaml'}: no such job file\n"


def test_debug_shows_the_traceback(job_file: Path) -> None:
    done = invoke("check", str(job_file), "--set", "loss.alpha=2", "--debug")
    assert done.exit_code == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert "error: --set loss.alpha=2: " in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunError("it broke"), 1, "error: it broke\n"),
        (TeacherError("rows 1 to 4"), 1, "error: rows 1 to 4\n"),
        (Interrupted("stopped after step 3"), 130, "error: stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (
            ZeroDivisionError("x"),
            1,
            "error: ZeroDivisionError: x (a defect of raykd; --debug shows where)\n",
        ),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    message: str,
    failing: Callable[[BaseException], None],
    job_file: Path,
) -> None:
    failing(error)
    done = invoke("run", str(job_file))
    assert done.exit_code == code
    assert done.stderr == message
    assert done.stdout == ""


def test_a_defect_shows_its_traceback_in_debug(
    failing: Callable[[BaseException], None], job_file: Path
) -> None:
    failing(ZeroDivisionError("x"))
    done = invoke("run", str(job_file), "--debug")
    assert done.exit_code == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_no_command_shows_help() -> None:
    assert "Usage" in invoke().output


@pytest.mark.parametrize("arguments", [["run"], ["no-such-command"], ["export"], ["eval", "x"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_eval_refuses_a_wrong_limit_before_anything_starts(tmp_path: Path) -> None:
    done = invoke("eval", str(tmp_path), "--data", "x.txt", "--fail-under", "kl=0.5")
    assert done.exit_code == 2
    assert "lower is better there; use --fail-over kl=0.5" in done.output
