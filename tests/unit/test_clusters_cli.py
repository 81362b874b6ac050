"""`raykd check --cluster`: lines, exit codes, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raykd.cli import app

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "jobs" / "quickstart.yaml"

SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: x}
stringData:
  auth_token: VALUE
"""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(SECRET.replace("VALUE", "REPLACE_ME"))
    return path


def test_a_good_file(cluster_file: Path) -> None:
    done = invoke("--cluster", str(cluster_file))
    assert (done.exit_code, done.stderr) == (0, "")
    assert "ok        secrets: none is written in the file\n" in done.stdout
    assert all(line.startswith("ok        ") for line in done.stdout.splitlines())


def test_something_to_fix_is_shown_with_file_and_line(cluster_file: Path) -> None:
    cluster_file.write_text(SECRET.replace("VALUE", "d3Jvbmc5ODc2NTQz"))
    done = invoke("--cluster", str(cluster_file))
    assert (done.exit_code, done.stderr) == (2, "")
    assert f"fix this  {cluster_file}:5 secrets: auth_token: " in done.stdout


def test_a_job_beside_it_is_read_and_no_ray_is_started(cluster_file: Path) -> None:
    done = invoke(str(QUICKSTART), "--cluster", str(cluster_file))
    assert done.exit_code == 2
    assert done.stdout.startswith("ok        job: every field is valid\n")
    assert f"fix this  {cluster_file} fit: no Ray cluster is in the file\n" in done.stdout
    assert "resources" not in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--set", "seed=1"], ["--address", "auto"]])
def test_nothing_to_look_at(arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "give a JOB, a cluster file (--cluster FILE), or both" in done.stderr


def test_no_cluster_file(tmp_path: Path) -> None:
    done = invoke("--cluster", str(tmp_path / "none.yaml"))
    assert done.exit_code == 2
    assert done.stderr == f"error: {tmp_path / 'none.yaml'}: no such cluster file\n"


def test_overrides_need_a_job(cluster_file: Path) -> None:
    assert invoke("--cluster", str(cluster_file), "--set", "seed=1").exit_code == 2


def test_it_imports_neither_torch_nor_data(cluster_file: Path) -> None:
    code = (
        "import sys\nfrom raykd.cli import app\n"
        f"try: app(['check', {str(QUICKSTART)!r}, '--cluster', {str(cluster_file)!r}])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "found = {'torch', 'transformers', 'deepspeed', 'pyarrow', 'ray'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
