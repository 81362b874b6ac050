"""The driver dies with all that it started; the same command goes on with the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.runs import read_steps

from .harness import complaints, steps_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak]

STEPS, BATCH = 14, 4
REPOSITORY = Path(__file__).parents[2]
STARTS_WITHIN_S = 300


@pytest.fixture
def place() -> Iterator[Path]:
    """Where Ray's sockets lie; their paths may have no more than 107 characters."""
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def start(job: Path, place: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAY_TMPDIR": str(place), "PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    with log.open("ab") as out:
        command = [sys.executable, "-m", "tests.chaos.driver", str(job)]
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY
        )


def kill_after(step: int, driver: subprocess.Popen[bytes], metrics: Path, log: Path) -> None:
    """Wait for a step to be in the metrics, then end the driver; its Ray must end with it."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while steps_of(metrics) < step:
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    working = [process for process in started if not is_agent(process)]
    _, left = psutil.wait_procs(working, timeout=60)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not left


def is_agent(process: psutil.Process) -> bool:
    """Whether it only looks after a node; Ray leaves these behind, and they hold nothing."""
    try:
        return process.name() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::RuntimeEnv")
    except psutil.NoSuchProcess:
        return False


def test_the_same_command_goes_on(
    job_tree: dict[str, Any],
    write_job: Callable[..., Path],
    place: Path,
    tmp_path: Path,
) -> None:
    job_tree["train"]["max_steps"] = STEPS
    job_tree["checkpoint"] = {"every_steps": 3, "keep": 2}
    job_tree["stream"]["steps_per_block"] = 2
    log = tmp_path / "log.txt"
    roots = {}
    for name, kills in (("quiet", []), ("killed", [5, 10])):
        # Each run has a store of its own: what one kept would spare the other the teacher.
        tree = {**job_tree, "name": name}
        tree["soft_targets"] = {**job_tree["soft_targets"], "store": str(tmp_path / f"{name}.kept")}
        job = write_job(tree, f"{name}.yaml")
        roots[name] = Path(job_tree["storage_path"]) / name
        for step in kills:
            driver = start(job, place, log)
            kill_after(step, driver, roots[name] / "metrics.jsonl", log)
        assert start(job, place, log).wait(timeout=STARTS_WITHIN_S) == 0, log.read_text()
    losses = [step["loss"] for step in read_steps(roots["quiet"])]
    assert complaints(roots["quiet"], STEPS, BATCH) == []
    assert complaints(roots["killed"], STEPS, BATCH, losses) == []
