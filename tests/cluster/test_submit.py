"""Two Ray nodes that ask for a token: who gets in, how a job is sent, stopped and sent again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from tests.integration.runs import assert_each_step_once, checkpoint_steps, read_steps

from .nodes import BIN, Cluster, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

REPOSITORY = Path(__file__).parents[2]
STEPS, BATCH = 300, 4
TIMEOUT_S = 300
TOKEN = "canary-ray-token-d1c7a25f0b8e4963"
ON_CLUSTER = {
    "HF_TOKEN": "canary-cluster-hf-51f9e0c7",
    "WANDB_API_KEY": "canary-cluster-wandb-83aa2b1d",
    "AWS_SECRET_ACCESS_KEY": "canary-cluster-aws-6e0d94c2",
}
HERE = {
    "HF_TOKEN": "canary-here-hf-9a17c3d4",
    "WANDB_API_KEY": "canary-here-wandb-0b5f6e21",
    "AWS_SECRET_ACCESS_KEY": "canary-here-aws-77d2c8f3",
}
CANARIES = [TOKEN, *ON_CLUSTER.values(), *HERE.values()]

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def plain(place: Path) -> dict[str, str]:
    """A shell without anything of Ray's, and a home without a token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST"))}
    (place / "home").mkdir()
    return {
        **kept,
        "HOME": str(place / "home"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "120",
    }


@pytest.fixture(scope="module")
def cluster(place: Path, plain: dict[str, str]) -> Iterator[Cluster]:
    """A head and a second node; the token comes from a file, the secrets from the environment."""
    (place / "token").write_text(TOKEN)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(place / "token")}
    nodes = Cluster(place, plain | ON_CLUSTER | auth)
    try:
        nodes.start_head("--num-cpus=1")
        nodes.join("--num-cpus=2")
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def shell(plain: dict[str, str]) -> dict[str, str]:
    """Where jobs are submitted from: the right token, and secrets of one's own."""
    return {**plain, **HERE, "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def cli(shell: dict[str, str], project: Path) -> Cli:
    """Run `raykd` in the project's directory, with other variables where asked for."""

    def run(*words: object, **variables: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in (shell | variables).items() if v is not None}
        return subprocess.run(
            [sys.executable, "-m", "raykd", *map(str, words)],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    return run


@pytest.fixture
def project(place: Path, job_tree: dict[str, Any]) -> Path:
    """A working directory with a job of its own."""
    directory = place / "project"
    directory.mkdir(exist_ok=True)
    job_tree |= {"name": "tiny", "storage_path": str(place / "runs")}
    job_tree["student"]["init"] = {"start": "teacher", "layers": 2}
    job_tree["train"] |= {"epochs": 40, "max_steps": STEPS}
    job_tree["checkpoint"] = {"every_steps": 20, "keep": 2}
    (directory / "job.yaml").write_text(yaml.safe_dump(job_tree))
    (directory / "weights.safetensors").write_bytes(b"not to travel")
    return directory


def asked(cluster: Cluster, path: str) -> Any:
    """The job API's own answer."""
    answer = requests.get(
        cluster.url + path, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    answer.raise_for_status()
    return answer.json()


def listening(cluster: Cluster) -> dict[int, set[str]]:
    """Addresses by port on which the cluster's processes listen."""
    found: dict[int, set[str]] = {}
    for pid in [pid for node in cluster.nodes for pid in node.pids()]:
        for socket in psutil.Process(pid).net_connections("tcp"):
            if socket.status == psutil.CONN_LISTEN:
                found.setdefault(socket.laddr.port, set()).add(socket.laddr.ip)
    return found


def test_the_dashboard_is_for_this_machine_only(cluster: Cluster) -> None:
    assert listening(cluster)[cluster.dashboard_port] == {"127.0.0.1"}


def test_every_way_to_the_job_api_asks_for_the_token(cluster: Cluster) -> None:
    agents = json.dumps(asked(cluster, "/nodes?view=summary"))
    assert agents.count("ALIVE") >= 2
    ports = [port for port in listening(cluster) if port != cluster.dashboard_port]
    answers = []
    for port in ports:
        try:
            url = f"http://127.0.0.1:{port}/api/job_agent/jobs/"
            answers.append(requests.post(url, json={"entrypoint": "true"}, timeout=5).status_code)
        except requests.RequestException:
            continue  # not HTTP
    # One agent a node takes jobs on every interface; metrics' ports know no such path.
    assert answers.count(401) == 2, answers
    assert set(answers) <= {401, 404, 405}
    assert asked(cluster, "/api/jobs/") == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RAY_AUTH_TOKEN": "not-the-token-of-this-cluster"}, "refuses the token from RAY_AUTH_TO"),
        ({"RAY_AUTH_TOKEN": None}, "asks for a token, and none is here: set RAY_AUTH_TOKEN_PATH"),
        (
            {"RAY_AUTH_TOKEN": None, "RAY_AUTH_TOKEN_PATH": "/none", "RAY_AUTH_MODE": "token"},
            "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /none",
        ),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE keeps that of RAY_AUTH_TOKEN back"),
    ],
)
def test_without_the_token_nobody_gets_in(
    cli: Cli, cluster: Cluster, variables: dict[str, str | None], said: str
) -> None:
    done = cli("submit", "job.yaml", "--address", cluster.url, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {cluster.url}: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert asked(cluster, "/api/jobs/") == []


def test_what_is_not_there_is_named_and_the_jobs_exit_code_is_kept(
    cli: Cli, cluster: Cluster
) -> None:
    words = ("submit", "job.yaml", "--address", cluster.url, "--set", "name=lacks")
    done = cli(*words, "--env", "HF_TOKEN", "--env", "NOT_THERE")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: --require-env: the driver lacks NOT_THERE; node " in done.stdout
    assert "HF_TOKEN" not in done.stdout.split("error:")[1]
    assert "failed with exit code 2" in done.stderr


def submission(cluster: Cluster, identity: str) -> dict[str, Any]:
    """What Ray knows of a submission."""
    found: dict[str, Any] = asked(cluster, f"/api/jobs/{identity}")
    return found


def learned(root: Path) -> int:
    """Steps in the metrics."""
    return len(read_steps(root)) if (root / "metrics.jsonl").is_file() else 0


def test_sent_stopped_and_sent_again(
    cli: Cli, cluster: Cluster, shell: dict[str, str], project: Path, place: Path
) -> None:
    root = place / "runs" / "tiny"
    where = ("--address", cluster.url)

    # The plain way.
    command = [str(BIN / "ray"), "job", "submit", *where, "--no-wait", "--submission-id", "plain-1"]
    command += ["--working-dir", ".", "--", "python", "-m", "raykd", "run", "job.yaml"]
    shown = shell | {"RAY_AUTH_MODE": "token"}
    subprocess.run(command, cwd=project, env=shown, check=True, timeout=120, capture_output=True)
    wait_for(
        lambda: learned(root) > 20,
        "the first steps",
        within_s=TIMEOUT_S,
        why=lambda: asked(cluster, "/api/jobs/plain-1/logs")["logs"],
    )
    done = cli("stop", "plain-1", *where)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plain-1 stopped\n"
    first = learned(root)
    assert first < STEPS

    # raykd's, followed, let go of, refused a second time, stopped by the run's name.
    log = place / "followed.txt"
    command = [sys.executable, "-m", "raykd", "submit", "job.yaml", *where, "--env", "HF_TOKEN"]
    with log.open("wb") as out:
        follower = subprocess.Popen(
            command,
            cwd=project,
            env=shell,
            stdout=out,
            stderr=subprocess.STDOUT,
            # Where the tests run in the background of a shell, Ctrl-C is ignored by all.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    wait_for(lambda: "going on after step" in log.read_text(), "the second start", TIMEOUT_S)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(timeout=30) == 130
    said = log.read_text()
    identity = said.split("submitted ")[1].split()[0]
    assert identity.startswith("tiny-")
    assert f"let go of {identity}: it goes on" in said
    assert f"`raykd logs {identity} --address {cluster.url}`" in said
    assert "left out (weights): weights.safetensors" in said
    assert submission(cluster, identity)["status"] == "RUNNING"
    again = cli("submit", "job.yaml", *where)
    assert again.returncode == 2, again.stderr
    assert f"name: 'tiny' is being run by submission {identity} (RUNNING)" in again.stderr
    before = learned(root)
    wait_for(lambda: learned(root) > before, "a step", TIMEOUT_S)
    assert cli("stop", "tiny", *where).stdout == f"{identity} stopped\n"
    # A stop by raykd leaves time for a checkpoint of the very step.
    said = cli("logs", "tiny", "--no-follow", *where).stdout
    stopped_at = int(said.split("stopped after step ")[1].split()[0])
    assert stopped_at == learned(root)
    assert checkpoint_steps(root)[-1] == stopped_at
    resumed_at = int(said.split("going on after step ")[1].split(",")[0])
    assert 0 < resumed_at <= first
    assert resumed_at < stopped_at < STEPS

    # And to the end.
    done = cli("submit", "job.yaml", *where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"going on after step {stopped_at}," in done.stdout
    assert "[train] done in " in done.stdout
    assert_each_step_once(root, STEPS, BATCH)
    assert (root / "student" / "model.safetensors").is_file()
    told = cli("status", *where).stdout
    assert told.count("succeeded") == 1
    assert told.count("stopped") == 2
    assert "succeeded" in cli("status", "tiny", *where).stdout


def test_no_secret_is_kept_anywhere(cluster: Cluster, place: Path) -> None:
    """Runs last: everything that the tests above left behind is searched."""
    jobs = json.dumps(asked(cluster, "/api/jobs/"))
    assert "tiny-" in jobs
    assert [canary for canary in CANARIES if canary in jobs] == []
    files = [
        path
        for directory in (place / "runs", cluster.session)
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    assert any(path.name == "report.html" for path in files)
    assert any(path.name.startswith("job-driver-tiny-") for path in files)
    found = {
        (str(path), canary)
        for path in files
        for canary in CANARIES
        if canary.encode() in path.read_bytes()
    }
    assert found == set()
