"""What a job with `teacher.engine: vllm` may say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from raykd.config.job import Job

MakeJob = Callable[..., Job]

VLLM = {"teacher.engine": "vllm", "teacher.head_chunk_tokens": 1024}
GPU = {**VLLM, "teacher.device": "gpu"}
WHOLE = {"teacher.vllm": {"full_vocabulary": True}}


def test_it_may_score_and_generate(make_job: MakeJob) -> None:
    job = make_job({**GPU, "teacher.tensor_parallel": 4, "teacher.pipeline_parallel": 2})
    assert job.teacher.num_shards == 8


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teacher.vllm": {"kv_cache_gib": 2}}, "vllm is for `engine: vllm`"),
        ({"teacher.pipeline_parallel": 2}, "pipeline_parallel is for `engine: vllm`"),
        ({**VLLM, "teacher.pipeline_parallel": 2}, "tensor_parallel"),
        ({**VLLM, "teacher.head_chunk_tokens": 64}, "micro_batch_tokens"),
        ({**VLLM, "teacher.vllm": {"gpu_memory_utilization": 0.5}}, "kv_cache_gib"),
        ({**VLLM, "teacher.vllm": {"max_model_len": 64}}, "one token more"),
        ({**VLLM, "teacher.vllm": {"max_len": 64}}, "max_len"),
        ({**VLLM, "soft_targets": {"codec": "hidden"}}, "hidden states"),
        ({**VLLM, "soft_targets": {"codec": "auto"}}, "hidden states"),
        ({**VLLM, "soft_targets": {"codec": "full"}}, "full_vocabulary"),
        ({**VLLM, "soft_targets": {"codec": "sampled"}}, "full_vocabulary"),
        ({**VLLM, "loss.temperature": 2.0}, "tail at 2 is a sum over the whole"),
        ({**VLLM, "soft_targets.temperatures": [4.0]}, "tail at 4 is a sum over the whole"),
    ],
)
def test_what_would_not_do_is_refused(
    changes: dict[str, Any], named: str, make_job: MakeJob
) -> None:
    with pytest.raises(ValidationError, match=named):
        make_job(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {**VLLM, **WHOLE, "soft_targets": {"codec": "full"}},
        {**VLLM, **WHOLE, "soft_targets": {"codec": "sampled"}},
        {**VLLM, **WHOLE, "loss.temperature": 2.0},
        # Plain top-k has one temperature, and nobody's soft targets are asked for with alpha 1.
        {**VLLM, "soft_targets.tail": False, "loss.temperature": 2.0},
        {**VLLM, "loss": {"alpha": 1.0}},
        {**GPU, "teacher.vllm": {"gpu_memory_utilization": 0.5, "max_model_len": 65}},
    ],
)
def test_what_would_do_is_taken(changes: dict[str, Any], make_job: MakeJob) -> None:
    assert make_job(changes).teacher.engine == "vllm"
