"""Where a teacher on vLLM differs before a run begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.job import Job
from raykd.errors import JobError, ModelError
from raykd.pipeline import probe, resources
from raykd.pipeline.demands import replica_shape
from raykd.pipeline.models import find_models
from raykd.pipeline.plan import phases
from raykd.pipeline.run_dir import RunDirectory

MakeJob = Callable[..., Job]
VLLM = {"teacher.engine": "vllm", "teacher.head_chunk_tokens": 1024}


def test_rows_leave_room_for_the_token_that_it_always_writes(make_job: MakeJob) -> None:
    full: dict[str, Any] = {**VLLM, "data.sequence_length_tokens": 256}
    job = make_job(full)
    with pytest.raises(ModelError, match="to at most 255"):
        find_models(job, RunDirectory.of(job))
    job = make_job({**full, "data.sequence_length_tokens": 255})
    assert find_models(job, RunDirectory.of(job)).vocab_size


def test_a_probe_is_refused_before_anything_starts(make_job: MakeJob, tmp_path: Path) -> None:
    progress: Any = None
    with pytest.raises(JobError, match="hidden states"):
        probe.probe_job(make_job(VLLM), progress, probe.Size())


def test_each_stage_of_a_pipeline_needs_a_node(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(
        {
            **VLLM,
            "teacher.device": "gpu",
            "teacher.tensor_parallel": 2,
            "teacher.pipeline_parallel": 2,
        }
    )
    assert replica_shape(job)[1] == 4
    [part, *_] = resources._parts(job, phases(job))
    assert (part.what, part.count, part.gpus) == ("stage of the teacher", 2, 2)
    assert part.cpus == pytest.approx(0.4)
