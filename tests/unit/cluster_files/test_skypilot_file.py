"""The SkyPilot task: its scripts run with stand-ins for what they call."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_folder import CLUSTER, IMAGE, ray_start_options

from raykd import __version__

TASK = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())

RAY = """#!/bin/sh
echo "ray $*" >> "$LOG"
# The second look at the head finds it gone.
if [ "$1" = status ]; then [ ! -e "$LOG.looked" ] && touch "$LOG.looked"; fi
"""


def run_on(rank: int, tmp_path: Path, **environment: str) -> list[str]:
    for name, text in {"ray": RAY, "raykd": '#!/bin/sh\necho "raykd $*" >> "$LOG"\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = TASK["run"].replace("/opt/raykd/venv/bin", str(tmp_path))
    assert script != TASK["run"]
    given = {key: str(value) for key, value in TASK["envs"].items()}
    log = tmp_path / "log"
    subprocess.run(
        ["bash", "-c", script],
        env={
            "PATH": os.environ["PATH"],
            "LOG": str(log),
            "SKYPILOT_NODE_RANK": str(rank),
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3",
            "SKYPILOT_NUM_GPUS_PER_NODE": "8",
            **given,
            **environment,
        },
        check=True,
        timeout=20,
    )
    return log.read_text().splitlines()


def started(lines: list[str]) -> dict[str, Any]:
    (line,) = (each for each in lines if each.startswith("ray start"))
    return ray_start_options(shlex.split(line)[2:])


def test_the_first_node_is_head_and_student_and_drives(tmp_path: Path) -> None:
    lines = run_on(0, tmp_path)
    options = started(lines)
    assert (options["head"], options["labels"]) == (True, "raykd-role=student")
    assert options["dashboard_host"] == "127.0.0.1"
    # SkyPilot's own Ray has 6380 and 8266.
    assert (options["port"], options["dashboard_port"]) == (6379, 8267)
    assert lines[-1].startswith(
        "raykd run jobs/gpu-8b-to-1.7b.yaml --address 10.0.0.1:6379 --resume"
    )


@pytest.mark.parametrize(("students", "role"), [("1", "teacher"), ("2", "student")])
def test_other_nodes_go_by_rank(tmp_path: Path, students: str, role: str) -> None:
    lines = run_on(1, tmp_path, NUM_STUDENT_NODES=students)
    options = started(lines)
    assert (options["address"], options["labels"]) == ("10.0.0.1:6379", f"raykd-role={role}")
    assert not options["head"]
    assert not [each for each in lines if each.startswith("raykd")]


def test_no_script_ends_rays_that_are_not_its_own() -> None:
    assert "ray stop" not in TASK["run"].replace("`ray stop`", "")


def test_environment_is_text_and_image_of_this_version() -> None:
    """SkyPilot refuses numbers there."""
    assert all(isinstance(each, str) for each in TASK["envs"].values())
    assert TASK["envs"]["RAY_AUTH_MODE"] == "token"
    assert TASK["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert TASK["resources"]["image_id"] == f"docker:{IMAGE}:{__version__}"


@pytest.mark.parametrize("key", ["setup", "run"])
def test_scripts_are_shell(key: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", TASK[key]], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
