"""A teacher behind an endpoint, from prompts to a student: capped, killed, taken up again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.endpoint_server import Served, chat, prompt_of, serving
from tests.endpoint_writer import Writer

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos, *RAY_WARNINGS]

CANARY = "sk-canary-71c0ffee"
NUM_PROMPTS = 60
EACH_USD = 0.015
AT_ONCE = 4
REFUSED = ("river 3", "river 44")


@pytest.fixture(scope="module")
def ray_environment() -> dict[str, str]:
    """The key: in the environment before Ray starts, as it has to be."""
    return {"PARROT_KEY": CANARY}


def reply(body: dict[str, Any]) -> dict[str, Any]:
    prompt = prompt_of(body)
    if prompt in REFUSED:
        message = {"role": "assistant", "content": None, "refusal": "I would rather not."}
        return chat(None, message=message)
    return chat(f"the {prompt} moves over a stone and sees no wind")


def one_in_ten(prompt: str, before: int) -> str | None:
    draw = random.Random(f"{prompt} {before}")
    return draw.choice(("429", "500", "cut")) if draw.random() < 0.1 else None


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(reply=reply, fault=one_in_ten, delay_s=0.05) as server:
        yield server


@pytest.fixture
def job(make_job: Callable[..., Any], served: Served, tmp_path: Path) -> Callable[[float], Any]:
    """The job, with a cap of so many dollars."""
    corpus = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"river {i}"} for i in range(NUM_PROMPTS)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(cap_usd: float) -> Any:
        return make_job(
            {
                "method": "sequence",
                "loss": {},
                "data.corpus": {"source": str(corpus), "columns": {"prompt": "prompt"}},
                "generation": {"as_chat": True, "sampling": {"max_new_tokens": 20}},
                "teacher": {
                    "engine": "openai",
                    "model": "parrot",
                    "request_timeout_s": 30.0,
                    "endpoint": {
                        "base_url": served.url,
                        "api_key_env": "PARROT_KEY",
                        "max_concurrent_requests": AT_ONCE,
                        "price_per_million_tokens": {"input": 1000.0, "output": 1000.0},
                        "max_cost_usd": cap_usd,
                    },
                },
            }
        )

    return make


def kill_the_asking_task(served: Served, answers: int) -> threading.Thread:
    """Once so many prompts are answered, the process that asks is killed."""

    def watch() -> None:
        while sum(served.answered.values()) < answers:
            time.sleep(0.005)
        for child in psutil.Process().children(recursive=True):
            if child.name().startswith("ray::write") or "ray::write" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_capped_killed_and_taken_up_again(
    job: Callable[[float], Any], served: Served, distil: Distil, tmp_path: Path
) -> None:
    from raykd.endpoint.spend import SpendCapError
    from raykd.errors import RunError

    cap = 0.3
    with pytest.raises(SpendCapError, match=r"\d+ of 60 completions are left") as capped:
        distil(job(cap))
    first = sum(served.answered.values())
    assert 0 < first * EACH_USD <= cap
    assert "0.3 USD would be broken" in str(capped.value)

    killed = kill_the_asking_task(served, first + 12)
    with pytest.raises(RunError, match="worker process failed"):
        distil(job(10.0), resume=True)
    killed.join()
    time.sleep(0.2)
    second = sum(served.answered.values())
    assert second < NUM_PROMPTS

    ran = distil(job(10.0), resume=True)
    assert set(served.answered) == {f"river {i}" for i in range(NUM_PROMPTS)}
    twice = {prompt: n for prompt, n in served.answered.items() if n > 1}
    # Only what was on its way at the kill: its answers reached nobody.
    assert len(twice) <= AT_ONCE
    assert set(twice.values()) <= {2}

    table = pq.read_table(ran.root / "generated.parquet").to_pylist()
    assert sorted(row["prompt"] for row in table) == sorted(served.answered)
    dropped = {row["prompt"]: row["finish_reason"] for row in table if not row["kept"]}
    assert dropped == dict.fromkeys(REFUSED, "refused")
    assert all(row["teacher"].startswith(f"openai:parrot@{served.url}") for row in table)
    assert_each_step_once(ran.root, 4, 4)
    assert_text_only(ran.report)
    assert_the_key_is_nowhere(tmp_path, ran.printed + ran.report.model_dump_json())


def test_what_the_endpoint_tells_is_learned(
    make_job: Callable[..., Any], distil: Distil, tmp_path: Path, teacher_dir: Path
) -> None:
    corpus = tmp_path / "prompts.jsonl"
    prompts = [f"river {i}" for i in range(NUM_PROMPTS)]
    corpus.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "a stone", "completion": "gives light"}) + "\n")
    writer = Writer(teacher_dir, lambda prompt: f"The {prompt} moves, müde 😀.")
    with serving(reply=writer, fault=one_in_ten) as served:
        job = make_job(
            {
                "method": "logits",
                "data.corpus": {"source": str(corpus), "columns": {"prompt": "prompt"}},
                "generation": {"as_chat": True, "sampling": {"max_new_tokens": 60}},
                "evaluation": {
                    "heldout_fraction": 0.2,
                    "max_rows": 4,
                    "every_steps": 2,
                    "sets": {
                        "other": {
                            "source": str(other),
                            "columns": {"prompt": "prompt", "completion": "completion"},
                        }
                    },
                },
                "soft_targets": {"values": "fp32"},
                "teacher": {
                    "engine": "openai",
                    "model": "parrot",
                    "endpoint": {"base_url": served.url, "top_logprobs": 8},
                },
            }
        )
        ran = distil(job)
        assert served.answered == Counter(prompts)
        scores = ran.report.evaluation["heldout"].models
        assert 0 < scores["student"].kl_to_teacher < scores["untrained"].kl_to_teacher
        assert ran.report.evaluation["other"].models["student"].kl_to_teacher is None
        assert [point.step for point in ran.report.heldout_curve] == [0, 2, 4]
        assert_targets_are_the_models(ran.root, writer)

        # What is told is kept with the text: a store that is gone is filled again, unasked.
        shutil.rmtree(ran.root.parent / ".soft_targets")
        shutil.rmtree(ran.root / "checkpoints")
        (ran.root / "data" / "heldout.scored.arrow").unlink()
        distil(job, resume=True)
        assert served.answered == Counter(prompts)
        assert list((ran.root.parent / ".soft_targets").rglob("*.parquet"))


def assert_targets_are_the_models(root: Path, writer: Writer) -> None:
    """Of held-out rows, against the model's own softmax in float64."""
    import torch

    with pa.memory_map(str(root / "data" / "heldout.scored.arrow")) as source:
        rows = pa.ipc.open_file(source).read_all().to_pylist()
    end = writer.tokenizer.convert_tokens_to_ids("<|end|>")
    seen = 0
    for row in rows:
        ids, positions = row["input_ids"], row["position_ids"]
        starts = [i for i, position in enumerate(positions) if position == 0] + [len(ids)]
        logprobs: list[Any] = []
        for a, b in pairwise(starts):
            with torch.inference_mode():
                logits = writer.model(torch.tensor([ids[a:b]])).logits[0].double()
            logprobs += logits.log_softmax(-1)
        learned = [i for i, flag in enumerate(row["loss_mask"]) if flag]
        for n, i in enumerate(learned):
            if ids[i + 1] == end:
                assert row["target_ids"][8 * n] == end
                continue
            top = logprobs[i].topk(8)
            assert row["target_ids"][8 * n : 8 * n + 8] == top.indices.tolist()
            assert row["target_logprobs"][8 * n : 8 * n + 8] == pytest.approx(
                top.values.tolist(), abs=1e-4
            )
            tail = float(torch.log1p(-top.values.exp().sum()))
            assert row["target_log_tail"][n] == pytest.approx(tail, abs=1e-4)
            seen += 1
    assert seen > 50


def assert_text_only(report: Any) -> None:
    """Both students are measured by perplexity, and nobody by a teacher that cannot score."""
    assert "teacher" not in report.models
    scores = report.evaluation["heldout"]
    assert set(scores.models) == {"untrained", "student"}
    assert scores.models["student"].perplexity < scores.models["untrained"].perplexity
    assert all(one.kl_to_teacher is None for one in scores.models.values())
    assert scores.tokens > 0


def assert_the_key_is_nowhere(tmp_path: Path, told: str) -> None:
    import ray

    assert CANARY not in told
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    seen = 0
    for file in [*tmp_path.rglob("*"), *session.rglob("*")]:
        if file.is_file() and not file.is_symlink():
            seen += 1
            assert CANARY.encode() not in file.read_bytes(), file
    assert seen > 50
