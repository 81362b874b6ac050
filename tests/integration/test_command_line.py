"""`raykd` as a person types it: a run, a stopped run that goes on, and what is done with a run.

One run starts its own Ray; all others attach to a cluster that `ray start` began, as on a VM.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import free_ports

from .runs import assert_each_step_once, checkpoint_steps, read_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 40
TIMEOUT_S = 300
LOOK = """
import json, os
from pathlib import Path
if (Path.home() / ".ray" / "auth_token").is_file():
    os.environ["RAY_AUTH_MODE"] = "token"
import ray
from ray import serve
ray.init(address={address!r}, log_to_driver=False, logging_level="ERROR")
print(json.dumps({{
    "apps": sorted(serve.status().applications),
    "cpus": ray.available_resources().get("CPU", 0),
    "nodes": sum(node["Alive"] for node in ray.nodes()),
}}))
"""
"""What somebody else on the cluster sees of it."""

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short path: Ray's sockets lie in it."""
    directory = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """What a person's shell has: no RAY_ADDRESS, no RAY_AUTH_MODE, nothing of pytest."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_A", "PYTEST"))}
    # Nothing is left to drain when the node ends.
    quick = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    return {**kept, **quick, "RAY_TMPDIR": str(place), "COLUMNS": "120"}


@pytest.fixture(scope="module")
def cli(place: Path, environment: dict[str, str]) -> Cli:
    """Run `raykd` to its end; output is piped, as in a job log."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raykd", *map(str, arguments)],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            start_new_session=True,
        )

    return run


@pytest.fixture(scope="module")
def head(place: Path, environment: dict[str, str]) -> Iterator[str]:
    """A cluster of three logical CPUs that runs before raykd comes and after it has gone."""
    port, client_port = free_ports(2)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        f"--port={port}",
        f"--ray-client-server-port={client_port}",
        f"--temp-dir={place / 'head'}",
        "--num-cpus=3",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(lambda: "Ray runtime started" in (place / "head.log").read_text(), "ray start")
        yield f"127.0.0.1:{port}"
    finally:
        # `--block` ends what it started when it is asked to end.
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def long_job(
    job_tree: dict[str, Any], write_job: Callable[..., Path], place: Path
) -> Callable[[str], Path]:
    """A job file of forty steps, its run below the module's directory."""

    def write(name: str) -> Path:
        job_tree["name"] = name
        job_tree["storage_path"] = str(place / "runs")
        job_tree["data"]["corpus"]["max_documents"] = 60
        job_tree["student"]["init"] = {"start": "teacher", "layers": 2}
        job_tree["train"] |= {
            "epochs": 4,
            "max_steps": STEPS,
            "optimizer": {"lr": 3e-3, "warmup_steps": 5},
        }
        job_tree["checkpoint"] = {"every_steps": 15, "keep": 2}
        job_tree["evaluation"]["every_steps"] = 20
        return write_job(job_tree)

    return write


@pytest.fixture
def whole_run(
    long_job: Callable[[str], Path], cli: Cli, once: dict[str, Any], place: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run on a Ray of its own, from its first step to its last."""
    if "whole" not in once:
        once["whole"] = cli("run", long_job("whole"))
    return place / "runs" / "whole", once["whole"]


def test_run_leaves_a_whole_run_directory(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = whole_run
    assert done.returncode == 0, done.stderr
    assert_each_step_once(root, STEPS, global_batch=4)
    steps = read_steps(root)
    assert set(steps[0]) >= {
        *("step", "row_start", "row_end", "tokens", "loss", "divergence", "cross_entropy"),
        *("lr", "grad_norm", "seconds", "wait_s"),
    }
    # The second epoch asks no teacher: its soft targets are kept.
    assert steps[0]["teacher_s"] > 0
    assert steps[-1]["epoch"] > 1
    assert steps[-1]["teacher_s"] == 0
    assert checkpoint_steps(root) == [30, STEPS]
    assert {path.name for path in root.iterdir()} >= {
        *("job.yaml", "metrics.jsonl", "checkpoints", "student", "report.json", "report.html"),
        "logs",
    }
    assert not list(root.rglob("*.aside"))


def test_run_is_told_in_plain_lines(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = whole_run
    assert "\x1b" not in done.stdout + done.stderr
    assert "(raylet)" not in done.stdout + done.stderr
    assert f"step {STEPS}/{STEPS}" in done.stdout
    assert "heldout" in done.stdout
    assert "perplexity" in done.stdout
    assert str(root / "student") in done.stdout
    assert str(root / "report.html") in done.stdout
    assert "Traceback" not in done.stderr


def test_run_brings_the_student_closer(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, _ = whole_run
    report = json.loads((root / "report.json").read_text())
    scores = report["evaluation"]["heldout"]["models"]
    assert set(scores) == {"teacher", "untrained", "student"}
    assert scores["student"]["kl_to_teacher"] < 0.8 * scores["untrained"]["kl_to_teacher"]
    measured = [step["heldout"]["kl"] for step in read_steps(root) if step.get("heldout")]
    assert len(measured) == 2
    # The last measure while training and the one on the export are of the same weights.
    page = (root / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_export_is_a_plain_directory(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = whole_run[0] / "student"
    model = AutoModelForCausalLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    prompt = tokenizer("the river", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]
    card = (student / "README.md").read_text()
    assert "| heldout | student |" in card
    assert "<!-- measured -->" not in card
    assert "generation_config.json" in {path.name for path in student.iterdir()}


def test_a_stopped_run_goes_on_where_it_stopped(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]],
    long_job: Callable[[str], Path],
    cli: Cli,
    head: str,
    place: Path,
    environment: dict[str, str],
) -> None:
    job, root = long_job("stopped"), place / "runs" / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "raykd", "run", str(job), "--address", head],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for(lambda: _num_lines(root / "metrics.jsonl") > 0, "the first step", process)
        # As Ctrl-C does: to the whole group of the terminal.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    stopped_at = len(read_steps(root))
    assert process.returncode == 130, err
    assert 0 < stopped_at < STEPS, "it ended before it could be stopped"
    assert f"stopped after step {stopped_at} of {STEPS}; checkpoint saved" in err
    assert "Traceback" not in out + err
    assert checkpoint_steps(root)[-1] == stopped_at
    assert not (root / "student").exists()
    assert _look(head, environment) == {"apps": [], "cpus": 3.0, "nodes": 1}

    other = cli("run", job, "--resume", "--address", head, "--set", "loss.temperature=2")
    assert other.returncode == 2
    assert "loss.temperature: was 1.0, now 2" in other.stderr

    done = cli("run", job, "--resume", "--address", head)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {stopped_at}, row {stopped_at * 4}" in done.stdout
    assert_each_step_once(root, STEPS, global_batch=4)
    ours, theirs = ([s["loss"] for s in read_steps(r)] for r in (root, whole_run[0]))
    assert ours == pytest.approx(theirs, abs=1e-5)
    # Attached to somebody's cluster, a run leaves it as it was.
    assert _look(head, environment) == {"apps": [], "cpus": 3.0, "nodes": 1}


def test_eval_on_another_file(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]], cli: Cli, head: str, place: Path
) -> None:
    text = place / "other.jsonl"
    lines = [{"text": "The slow river gives light. " * n, "kind": "ab"[n % 2]} for n in (3, 4, 30)]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    limits = ("--max-rows", 9, "--fail-under", "agreement=0", "--fail-over", "perplexity=1")
    done = cli("eval", whole_run[0], "--data", text, "--slice", "kind", *limits, "--address", head)
    # A limit that no model keeps: the report is there all the same.
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "the student falls short: perplexity" in done.stderr
    assert "held     agreement at least 0" in done.stdout
    report = json.loads((whole_run[0] / "evaluations" / "other" / "report.json").read_text())
    assert set(report["evaluation"]["other"]["models"]) == {"teacher", "untrained", "student"}
    found = report["inspections"]["other"]
    assert "kind" in {table["by"] for table in found["slices"]}
    assert set(found["costs"]) == {"teacher", "untrained", "student"}
    assert found["drift"]["sample_pieces"] == report["data"]["other"]["rows"]
    assert found["worst"][0]["teacher_goes_on"]
    assert (
        "Looked into: other" in (whole_run[0] / "evaluations" / "other" / "report.html").read_text()
    )


def test_export_elsewhere(
    whole_run: tuple[Path, subprocess.CompletedProcess[str]], cli: Cli, head: str, place: Path
) -> None:
    from safetensors.torch import load_file

    root, target = whole_run[0], place / "exported"
    done = cli("export", root, "--output", target, "--address", head)
    assert done.returncode == 0, done.stderr
    assert f"{target} (after {STEPS} steps)" in done.stdout
    first, second = (load_file(d / "model.safetensors") for d in (root / "student", target))
    assert first.keys() == second.keys()
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_check_says_ok_or_what_to_fix(long_job: Callable[[str], Path], cli: Cli, head: str) -> None:
    job = long_job("checked")
    good = cli("check", job, "--address", head)
    assert good.returncode == 0, good.stdout + good.stderr
    assert all(line.startswith("ok") for line in good.stdout.splitlines())
    for subject in ("job:", "storage:", "resources:", "data.corpus:", "tokenizers:", "memory:"):
        assert subject in good.stdout
    bad = cli(
        *("check", job, "--address", head, "--set", "teacher.replicas=40"),
        *("--set", "data.corpus.source=/no/such/file.jsonl"),
    )
    assert bad.returncode == 2
    wrong = [line for line in bad.stdout.splitlines() if line.startswith("fix this")]
    assert len(wrong) == 2
    assert "40 teacher replicas" in bad.stdout
    assert "/no/such/file.jsonl" in bad.stdout


def _num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def _wait_for(
    happened: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None
) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not come within {TIMEOUT_S} s"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended before {what}: {process.communicate()[1]}")
        time.sleep(0.05)


def _look(address: str, environment: dict[str, str]) -> dict[str, Any]:
    """The cluster once it has settled: what is being taken down may still hold its share."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            [sys.executable, "-c", LOOK.format(address=address)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if (not seen["apps"] and seen["cpus"] >= 3) or time.monotonic() > deadline:
            return seen
        time.sleep(1)
