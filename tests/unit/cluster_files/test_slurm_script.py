"""The Slurm script, with stand-ins for Slurm, Ray and raykd that write down what they were told."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_folder import CLUSTER, installed, ray_start_options

SCRIPT = CLUSTER / "slurm" / "raykd.sbatch"
ROLES = ("head", "student", "teacher", "data")

SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
RAY = """#!/usr/bin/env bash
[[ "$1" == start ]] || echo "ray $*" >> "$LOG"
case "$1" in
  start) echo "ray $*" >> "$LOG"; echo "$$" >> "$LOG.pids"; exec sleep 60 ;;
  status) exit "${RAY_STATUS:-0}" ;;
esac
"""
RAYKD = """#!/usr/bin/env bash
trap 'echo "raykd saved" >> "$LOG"; kill "$asleep"; exit 130' INT
echo "raykd $*" >> "$LOG"
for (( i = 0; i < 300; i++ )); do
  if (( $(wc -l < "$LOG.pids") == 4 )); then break; fi
  sleep 0.02
done
if [[ "$RAYKD_DOES" != wait ]]; then
  echo "raykd trains" >> "$LOG"
  exit "$RAYKD_DOES"
fi
sleep 15 > /dev/null 2>&1 &
asleep="$!"
echo "raykd trains" >> "$LOG"
wait "$asleep"
"""
PYTHON = """#!/usr/bin/env bash
echo "python asked ${@: -1}" >> "$LOG"
if (( $(grep -c "python asked" "$LOG") > ${ASKED_BEFORE_ALL:-0} )); then echo 4; else echo 3; fi
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$LOG"
if [[ "$1" == show ]]; then printf 'node1\\nnode2\\n'; fi
"""


@dataclass
class Slurm:
    """A directory with the stand-ins, and what they wrote down."""

    path: Path
    environment: dict[str, str]

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.path,
            start_new_session=True,
            # A shell cannot trap what was ignored when it began, and pytest's workers ignore this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        said, _ = process.communicate(timeout=20)
        return process.returncode, said

    @property
    def log(self) -> list[str]:
        path = self.path / "log"
        return path.read_text().splitlines() if path.exists() else []

    def nodes_alive(self) -> list[int]:
        """Ray nodes that run still."""
        pids = map(int, (self.path / "log.pids").read_text().split())
        return [pid for pid in pids if Path(f"/proc/{pid}").exists() and not _ended(pid)]


def _ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    commands = tmp_path / "venv" / "bin"
    commands.mkdir(parents=True)
    for name, text in {
        "srun": SRUN,
        "ray": RAY,
        "raykd": RAYKD,
        "scontrol": SCONTROL,
        "python": PYTHON,
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "RAYKD_VENV": str(tmp_path / "venv"),
        "RAYKD_DOES": "0",
        "SLURM_JOB_ID": "1234567",
        "SLURM_HET_SIZE": "4",
        "SLURM_JOB_NODELIST_HET_GROUP_0": "node[1-2]",
    }
    for group, cpus in enumerate((8, 96, 64, 32)):
        environment[f"SLURM_CPUS_PER_TASK_HET_GROUP_{group}"] = str(cpus)
    return Slurm(tmp_path, environment)


def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [installed("shellcheck"), "--severity=style", str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_components_are_as_many_as_roles() -> None:
    """And all of Slurm's lines come before the first command, where Slurm stops reading."""
    lines = SCRIPT.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    given = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(given) < first
    assert sum(lines[i] == "#SBATCH hetjob" for i in given) == len(ROLES) - 1


def test_each_component_starts_its_role(slurm: Slurm) -> None:
    code, said = slurm.run("job.yaml", "--set", "seed=1")
    assert code == 0, said
    started = {}
    for line in slurm.log:
        if line.startswith("ray start "):
            options = ray_start_options(shlex.split(line)[2:])
            started[options["labels"].removeprefix("raykd-role=")] = options
    assert set(started) == set(ROLES)
    head = started["head"]
    assert (head["head"], head["num_cpus"], head["num_gpus"]) == (True, 0, 0)
    assert head["dashboard_host"] == "127.0.0.1"
    address = f"node1:{head['port']}"
    for group, role in enumerate(ROLES):
        srun = next(each for each in slurm.log if each.startswith(f"srun --het-group={group} "))
        assert f"raykd-role={role}" in srun
        assert f"--cpus-per-task={(8, 96, 64, 32)[group]} " in srun
        assert started[role]["block"]
        assert started[role]["temp_dir"].endswith("1234567"), "another job's Ray is apart"
        if role != "head":
            assert started[role]["address"] == address
            assert started[role]["num_cpus"] == (8, 96, 64, 32)[group]
            assert started[role]["num_gpus"] is None, "Ray finds the GPUs that Slurm gave"
    assert f"raykd run job.yaml --address {address} --resume --set seed=1" in slurm.log


def test_raykd_starts_when_all_nodes_have_come(slurm: Slurm) -> None:
    code, said = slurm.run("job.yaml", ASKED_BEFORE_ALL="2")
    assert code == 0, said
    asked = [i for i, line in enumerate(slurm.log) if line.startswith("python asked node1:")]
    assert len(asked) == 3
    assert asked[-1] < next(i for i, line in enumerate(slurm.log) if line.startswith("raykd run "))


def test_nodes_that_do_not_come_end_the_job(slurm: Slurm) -> None:
    several = {"SLURM_JOB_NUM_NODES_HET_GROUP_2": "5"}
    code, said = slurm.run("job.yaml", START_TIMEOUT_S="0", **several)
    assert code == 1
    assert "4 of 8 nodes came within 0 s (START_TIMEOUT_S)" in said
    assert slurm.nodes_alive() == []
    assert not [each for each in slurm.log if each.startswith("raykd ")]


def test_all_nodes_end_with_the_run_and_nothing_else_does(slurm: Slurm) -> None:
    code, _ = slurm.run("job.yaml", RAYKD_DOES="3")
    assert code == 3, "the run's own exit code"
    assert slurm.nodes_alive() == []
    assert not [each for each in slurm.log if each.startswith(("ray stop", "scontrol requeue"))]


def test_a_signal_saves_and_queues_again(slurm: Slurm) -> None:
    process = slurm.start("job.yaml", RAYKD_DOES="wait")
    deadline = time.monotonic() + 15
    while "raykd trains" not in slurm.log:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGUSR1)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert slurm.log[-2:] == ["raykd saved", "scontrol requeue 1234567"]
    assert slurm.nodes_alive() == []


def test_a_head_that_does_not_start_ends_the_job(slurm: Slurm) -> None:
    code, said = slurm.run("job.yaml", RAY_STATUS="1", START_TIMEOUT_S="0")
    assert code == 1
    assert "Ray's head did not start at node1:" in said
    assert slurm.nodes_alive() == []
    assert not [each for each in slurm.log if each.startswith("raykd ")]


def test_a_component_too_few_is_refused(slurm: Slurm) -> None:
    code, said = slurm.run("job.yaml", SLURM_HET_SIZE="3")
    assert (code, slurm.log) == (2, [])
    assert "ROLES names 4 roles (head student teacher data); the job has 3 components" in said


def test_without_a_job_it_says_what_it_wants(slurm: Slurm) -> None:
    code, said = slurm.run()
    assert (code, slurm.log) == (2, [])
    assert said.startswith("usage: sbatch")
