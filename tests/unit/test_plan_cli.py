"""`raykd plan` on the command line: quick, and nothing heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from raykd.cli import app

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "transformers", "deepspeed", "datasets", "pyarrow")
GPU_JOB = ROOT / "jobs" / "gpu-8b-to-1.7b.yaml"
CLUSTER: dict[str, Any] = {
    "cluster_name": "raykd",
    "provider": {"type": "aws", "region": "us-east-1"},
    "max_workers": 4,
    "auth": {"ssh_user": "ubuntu"},
    "head_node_type": "head",
    "available_node_types": {
        "head": {
            "resources": {"CPU": 0},
            "labels": {"raykd-role": "head"},
            "node_config": {"InstanceType": "m7i.4xlarge"},
        },
        "student": {
            "resources": {"CPU": 96, "GPU": 8},
            "labels": {"raykd-role": "student"},
            "node_config": {"InstanceType": "p5.48xlarge"},
            "min_workers": 0,
            "max_workers": 1,
        },
        "teacher": {
            "resources": {"CPU": 96, "GPU": 8},
            "labels": {"raykd-role": "teacher"},
            "node_config": {
                "InstanceType": "p5.48xlarge",
                "InstanceMarketOptions": {"MarketType": "spot"},
            },
            "min_workers": 0,
            "max_workers": 1,
        },
    },
}


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


@pytest.fixture
def configs(tmp_path: Path) -> list[str]:
    """Qwen3-8B and Qwen3-1.7B, as their config.json have them."""
    common = {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "head_dim": 128,
        "num_key_value_heads": 8,
    }
    sizes = {
        "teacher": (4096, 12288, 36, 32, False),
        "student": (2048, 6144, 28, 16, True),
    }
    arguments = []
    for side, (hidden, inner, layers, heads, tied) in sizes.items():
        file = tmp_path / f"{side}.json"
        tree = {
            **common,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "tie_word_embeddings": tied,
        }
        file.write_text(json.dumps(tree))
        arguments += [f"--{side}-config", str(file)]
    return arguments


@pytest.fixture
def cluster_file(tmp_path: Path) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(CLUSTER, sort_keys=False))
    return file


@pytest.fixture
def job_file(write_job: Callable[..., Path], job_tree: dict[str, Any]) -> Path:
    return write_job(job_tree)


def test_nothing_heavy_is_imported(job_file: Path, cluster_file: Path) -> None:
    code = (
        "import sys\n"
        "from raykd.cli import app\n"
        f"try: app(['plan', {str(job_file)!r}, '--cluster', {str(cluster_file)!r}])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
        "import resource\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert used.ru_utime + used.ru_stime < 2.0, used\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "fits"


def test_the_gpu_job(configs: list[str], cluster_file: Path) -> None:
    done = invoke(
        str(GPU_JOB), "--cluster", str(cluster_file), "--rows", "98000", "--json", *configs
    )
    assert done.exit_code == 0, done.output
    tree = json.loads(done.output)
    assert tree["fits"] is True
    assert [model["parameters"] for model in tree["models"]] == [8_190_735_360, 1_720_574_976]
    assert (tree["rows"], tree["steps"]) == (98_000, 383)
    placed = {d["part"]: sum(d["on"].values()) for d in tree["demands"]}
    assert placed["teacher replicas"] == 4
    assert placed["student ranks"] == 8
    assert tree["cost"]["hours"] > 0
    assert tree["split"]["tokens_per_s"] >= tree["speed"]["tokens_per_s"] * 0.99


def test_what_does_not_fit_ends_with_2(configs: list[str], cluster_file: Path) -> None:
    done = invoke(
        str(GPU_JOB),
        "--cluster",
        str(cluster_file),
        "--set",
        "teacher.replicas=9",
        "--set",
        "teacher.labels={raykd-role: teacher}",
        *configs,
    )
    assert done.exit_code == 2
    assert "fix this  training: 9 teacher replicas" in done.output
    assert "--set teacher.replicas=4" in done.output
    assert done.output.splitlines()[-1] == "does not fit"


def test_rates_by_hand(job_file: Path) -> None:
    done = invoke(str(job_file), "--teacher-rate", "1000", "--student-rate", "500", "--rows", "100")
    assert done.exit_code == 0, done.output
    assert "student waits 0%, teacher waits 50%" in done.output
    assert "measured: the command line" in done.output


def test_writing_by_hand(write_job: Callable[..., Path], job_tree: dict[str, Any]) -> None:
    """900 prompts, completions of up to 20 tokens, 10 tokens a second: half an hour."""
    generation = {"sampling": {"max_new_tokens": 20}}
    job = write_job({**job_tree, "method": "sequence", "loss": {}, "generation": generation})
    rates = ("--student-rate", "1000", "--rows", "10", "--write-rate", "10")
    done = invoke(str(job), "--prompts", "900", *rates)
    assert done.exit_code == 0, done.output
    lines = " ".join(done.output.split())
    assert "writing 900 completions (--prompts) of at most 20 tokens: 18k at most" in lines
    assert "10 tokens/s by 1 replicas (the command line); hours at that length 0.50" in lines
    assert ", 0.5 of them writing (start," in lines
    unknown = invoke(str(job), *rates)
    assert "(unknown: give --prompts N) of at most 20 tokens" in " ".join(unknown.output.split())
    assert "(writing, start, held-out rows" in " ".join(unknown.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--accelerator", "H9"], "--accelerator H9: not in the table, which has"),
        (["--probe", "none.json"], "--probe none.json: cannot be read"),
        (["--cluster", "none.yaml"], "none.yaml"),
        (["--teacher-config", "none.json"], "--teacher-config: no file none.json"),
        (["--set", "teacher.tensor_parallel=0"], "teacher.tensor_parallel"),
        (["--prompts", "5"], "--prompts: the job has no `generation`"),
        (["--write-rate", "5"], "--write-rate: the job has no `generation`"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, job_file: Path) -> None:
    done = invoke(str(job_file), *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
