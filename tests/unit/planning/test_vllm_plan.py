"""What `raykd plan` says of a teacher on vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.errors import JobError
from raykd.planning.accelerators import read_accelerators
from raykd.planning.fitting import Surroundings, fit
from raykd.planning.memory import teacher_memory
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates
from raykd.planning.writing_memory import CACHE, with_cache

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


def test_its_cache_fills_the_share_that_it_is_given(
    make_gpu_job: Callable[..., Any], models: Any
) -> None:
    gpu = read_accelerators()["H100"]
    around = Surroundings(models, None, read_accelerators(), "H100")
    small = {**VLLM, "teacher.micro_batch_tokens": 4096}
    job = make_gpu_job({**small, "teacher.vllm": {"gpu_memory_utilization": 0.7}})
    fitting = fit(job, around)
    line = next(one for one in fitting.memory if one.part == "teacher shard")
    held = line.parts["weights"] + line.parts["activations"] + line.parts[CACHE]
    assert held == int(0.7 * gpu.memory_bytes)
    assert line.need_bytes == held + line.parts["head chunk"]
    assert fitting.fits
    too_small = make_gpu_job({**small, "teacher.vllm": {"gpu_memory_utilization": 0.05}})
    (problem,) = fit(too_small, around).problems["teacher memory"]
    assert "gpu_memory_utilization: 0.05 of H100's memory" in problem


def test_its_cache_on_cpus(make_gpu_job: Callable[..., Any], models: Any) -> None:
    from raykd.teacher.vllm_arguments import CPU_CACHE_GIB, GIB

    job = make_gpu_job({**VLLM, "teacher.device": "cpu"})
    memory = teacher_memory(job, models.teacher, models.vocab_size)
    with_one = with_cache(job, models.teacher, memory)
    assert with_one.device - memory.device == with_one.kept[CACHE] == int(CPU_CACHE_GIB * GIB)
