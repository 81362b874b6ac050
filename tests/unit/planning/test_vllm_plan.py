"""What `raykd plan` says of a teacher on vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import JobError
from raykd.planning.accelerators import read_accelerators
from raykd.planning.memory import teacher_memory
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates

VLLM = {"teacher.engine": "vllm", "teacher.head_chunk_tokens": 1024}


def test_its_shards_stand_in_one_bundle(make_gpu_job: Callable[..., Any], models: Any) -> None:
    asked = Asked(models, None, read_accelerators(), Rates(), rows=1000)
    [said] = {
        d.bundles for d in make_plan(make_gpu_job(VLLM), asked).demands if "replica" in d.part
    }
    assert said == "STRICT_PACK: 1 x 0.01 CPU, 1 x 4 CPU + 2 GPU"


def test_a_replica_over_several_nodes_is_not_laid_out(
    make_gpu_job: Callable[..., Any], models: Any
) -> None:
    job = make_gpu_job({**VLLM, "teacher.pipeline_parallel": 2})
    with pytest.raises(JobError, match="pipeline_parallel: 2"):
        make_plan(job, Asked(models, None, read_accelerators(), Rates()))


def test_all_logits_of_a_step_and_the_cache_take_memory(
    make_gpu_job: Callable[..., Any], models: Any
) -> None:
    job = make_gpu_job(
        {**VLLM, "teacher.micro_batch_tokens": 8192, "teacher.vllm": {"kv_cache_gib": 4}}
    )
    memory = teacher_memory(job, models.teacher, models.vocab_size)
    assert memory.passing["head chunk"] >= 12 * 8192 * models.vocab_size
    assert memory.kept["cache of keys and values"] == 4 * 2**30
    assert memory.device >= sum(memory.kept.values()) + memory.passing["head chunk"]
