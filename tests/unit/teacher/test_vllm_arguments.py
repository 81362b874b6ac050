"""What vLLM is started with, and what its replicas hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.job import Job
from raykd.config.reservations import REPLICA_CPUS
from raykd.models.load import ModelSource
from raykd.pipeline import teacher as pipeline_teacher
from raykd.pipeline.plan import replicas
from raykd.teacher.engine import EngineSpec
from raykd.teacher.replica import Hosting, ReplicaSpec
from raykd.teacher.vllm_arguments import VllmOptions, engine_arguments, environment

MakeJob = Callable[..., Job]
GPU = {"teacher.device": "gpu", "teacher.head_chunk_tokens": 1024}


def spec_of(use_gpu: bool, micro_batch_tokens: int = 8192) -> EngineSpec:
    source = ModelSource("/models/teacher", "f" * 40, True)
    return EngineSpec(source, "bf16", use_gpu, 3, micro_batch_tokens, 1024)


def test_the_traps_of_scoring_are_closed() -> None:
    arguments = engine_arguments(spec_of(True), VllmOptions())
    assert arguments["max_logprobs"] == -1
    assert arguments["enable_prefix_caching"] is False
    assert arguments["logprobs_mode"] == "raw_logprobs"
    assert arguments["max_num_batched_tokens"] == 8192


def test_the_model_is_the_jobs() -> None:
    arguments = engine_arguments(spec_of(True), VllmOptions())
    assert arguments["model"] == "/models/teacher"
    assert arguments["revision"] == arguments["tokenizer_revision"] == "f" * 40
    assert arguments["trust_remote_code"] is True
    assert arguments["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("tensor", "pipeline", "executor"), [(1, 1, "uni"), (4, 1, "mp"), (1, 2, "ray"), (8, 2, "ray")]
)
def test_who_starts_its_processes(tensor: int, pipeline: int, executor: str) -> None:
    arguments = engine_arguments(spec_of(True), VllmOptions(tensor, pipeline))
    assert arguments["tensor_parallel_size"] == tensor
    assert arguments["pipeline_parallel_size"] == pipeline
    assert arguments["distributed_executor_backend"] == executor


def test_memory_is_shared_out_as_the_job_says() -> None:
    gpu = engine_arguments(
        spec_of(True), VllmOptions(max_model_len=4096, gpu_memory_utilization=0.6)
    )
    assert gpu["gpu_memory_utilization"] == 0.6
    assert gpu["max_model_len"] == 4096
    assert "kv_cache_memory_bytes" not in gpu
    assert (
        engine_arguments(spec_of(True), VllmOptions(kv_cache_gib=1.5))["kv_cache_memory_bytes"]
        == 1_610_612_736
    )
    cpu = engine_arguments(spec_of(False), VllmOptions())
    assert cpu["kv_cache_memory_bytes"] == 2**30
    assert cpu["enforce_eager"] is True
    assert "gpu_memory_utilization" not in cpu
    assert "max_model_len" not in cpu


def test_no_more_texts_at_once_than_tokens_in_a_step() -> None:
    assert engine_arguments(spec_of(True, 64), VllmOptions())["max_num_seqs"] == 64
    assert engine_arguments(spec_of(True), VllmOptions())["max_num_seqs"] == 256


def test_the_core_is_no_process_of_its_own_and_nothing_is_reported() -> None:
    assert environment(spec_of(True)) == {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    cpu = environment(spec_of(False))
    assert cpu["OMP_NUM_THREADS"] == "3"
    assert cpu["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize(
    ("hosting", "expected", "actors", "actor_gpus", "strategy"),
    [
        ("actors", [{"CPU": 2.0, "GPU": 1.0}] * 4, 4, 1.0, "STRICT_PACK"),
        ("node", [{"CPU": 8.0, "GPU": 4.0}], 1, 4.0, "STRICT_PACK"),
        # vLLM takes bundles of one GPU each, and stands in the first of them without one.
        ("cluster", [{"CPU": 2.0, "GPU": 1.0}] * 4, 1, 0.0, "PACK"),
    ],
)
def test_what_a_replica_holds(
    hosting: Hosting,
    expected: list[dict[str, float]],
    actors: int,
    actor_gpus: float,
    strategy: str,
) -> None:
    spec = ReplicaSpec(b"", spec_of(True), 4, 2.0, hosting)
    assert spec.bundles == [{"CPU": REPLICA_CPUS}, *expected]
    assert (spec.num_actors, spec.actor_gpus, spec.strategy) == (actors, actor_gpus, strategy)


def test_a_cpu_replica_holds_no_gpu() -> None:
    spec = ReplicaSpec(b"", spec_of(False), 4, 2.0, "node")
    assert spec.bundles == [{"CPU": REPLICA_CPUS}, {"CPU": 8.0}]
    assert spec.actor_gpus == 0


@pytest.mark.parametrize(
    ("changes", "hosting"),
    [
        ({}, "actors"),
        ({"teacher.engine": "vllm", "teacher.tensor_parallel": 4}, "node"),
        ({"teacher.engine": "vllm", "teacher.pipeline_parallel": 2}, "cluster"),
    ],
)
def test_a_job_starts_what_it_names(
    changes: dict[str, Any], hosting: str, make_job: MakeJob
) -> None:
    job = make_job({**GPU, **changes})
    assert pipeline_teacher._hosting(job.teacher) == hosting
    made = pipeline_teacher._engine_class(job)
    options = getattr(made, "keywords", {}).get("options")
    assert (options is None) == (hosting == "actors")
    if options is not None:
        assert options.tensor_parallel == job.teacher.tensor_parallel
        assert options.pipeline_parallel == job.teacher.pipeline_parallel


def test_the_sum_of_resources_is_that_of_the_bundles(make_job: MakeJob) -> None:
    job = make_job(
        {
            **GPU,
            "teacher.engine": "vllm",
            "teacher.tensor_parallel": 4,
            "teacher.pipeline_parallel": 2,
            "teacher.cpus_per_shard": 2.0,
        }
    )
    demand = replicas(job)
    bundles = ReplicaSpec(b"", spec_of(True), job.teacher.num_shards, 2.0, "cluster").bundles
    assert demand.gpus_each == sum(one.get("GPU", 0) for one in bundles) == 8
    assert demand.cpus_each == pytest.approx(sum(one["CPU"] for one in bundles))
