"""Whole runs whose teacher is vLLM, kept by Ray Serve. An environment of its own: `make vllm`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ..integration.runs import Distil, assert_each_step_once

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def make_vllm_job(
    make_job: Callable[..., Any], tmp_path: Path, save_llama: Callable[..., Path]
) -> Callable[..., Any]:
    """The tiny job with a vLLM of heads of 32, the narrowest that its attention takes on a CPU."""
    teacher = save_llama(tmp_path / "teacher", 1, hidden_size=128, head_dim=32)

    def make(changes: dict[str, Any]) -> Any:
        return make_job(
            {
                "teacher.engine": "vllm",
                "teacher.model": str(teacher),
                "teacher.head_chunk_tokens": 1024,
                "teacher.cpus_per_shard": 0.4,
                "teacher.vllm": {"kv_cache_gib": 0.1},
                "train.max_steps": 4,
                **changes,
            }
        )

    return make


def test_a_student_learns_from_two_shards_of_vllm(
    make_vllm_job: Callable[..., Any], distil: Distil
) -> None:
    ran = distil(make_vllm_job({"teacher.tensor_parallel": 2}))
    assert_each_step_once(ran.root, 4, global_batch=4)
    assert ran.steps[0]["teacher_s"] > 0
    assert ran.report.hardware["teacher"] == "1 x 2 cpu"
    assert (ran.root / "report.html").is_file()


def test_the_store_serves_both_engines(make_vllm_job: Callable[..., Any], distil: Distil) -> None:
    """What vLLM scored is what the transformers engine would have: the same losses come of it."""
    of_vllm = distil(make_vllm_job({"name": "of-vllm"}))
    job = make_vllm_job({"name": "of-transformers", "soft_targets.store_mode": "off"})
    tree = job.model_dump(mode="json")
    tree["teacher"] |= {"engine": "transformers", "vllm": None}
    ran = distil(type(job).model_validate(tree))
    assert ran.losses == pytest.approx(of_vllm.losses, abs=1e-3)


def test_a_student_learns_from_what_vllm_writes(
    make_vllm_job: Callable[..., Any], distil: Distil, tmp_path: Path
) -> None:
    source = tmp_path / "prompts.jsonl"
    questions = [
        f"The {word} river" for word in ("old", "slow", "green", "small", "quick", "light")
    ]
    source.write_text("".join(json.dumps({"q": one}) + "\n" for one in questions))
    job = make_vllm_job(
        {
            "method": "sequence",
            "loss": {},
            "data.corpus": {"source": str(source), "columns": {"prompt": "q"}},
            "generation": {
                "sampling": {"max_new_tokens": 12, "temperature": 0.8},
                "num_samples": 3,
                "unfinished": "keep",
            },
            "train.max_steps": 2,
            "checkpoint": {"every_steps": None},
        }
    )
    ran = distil(job)
    generated = pq.read_table(ran.root / "generated.parquet")
    assert generated.num_rows == 18
    assert (ran.root / "report.html").is_file()
