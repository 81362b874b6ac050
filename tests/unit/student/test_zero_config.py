from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.train import OptimizerConfig
from raykd.student.zero import accumulation_steps, deepspeed_config, learning_rate

MakeJob = Callable[..., Any]


@pytest.mark.parametrize(
    ("batch", "workers", "micro", "steps"), [(8, 2, 2, 2), (4, 1, 4, 1), (12, 3, 1, 4)]
)
def test_accumulation(batch: int, workers: int, micro: int, steps: int, make_job: MakeJob) -> None:
    changes = {
        "train.global_batch": batch,
        "student.num_workers": workers,
        "train.micro_batch": micro,
    }
    job = make_job(changes)
    assert accumulation_steps(job) == steps
    config = deepspeed_config(job)
    assert config["train_batch_size"] == batch
    assert config["train_micro_batch_size_per_gpu"] == micro
    assert config["gradient_accumulation_steps"] == steps


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_stages_and_dtypes(stage: int, dtype: str, make_job: MakeJob) -> None:
    config = deepspeed_config(make_job({"student.zero_stage": stage, "student.dtype": dtype}))
    zero = config["zero_optimization"]
    assert zero["stage"] == stage
    assert config["bf16"]["enabled"] is (dtype == "bf16")
    assert "fp16" not in config
    # without it DeepSpeed writes no whole weights, and says nothing
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) is (stage == 3)
    assert not any(key.startswith("offload") for key in zero)


@pytest.mark.parametrize(
    ("offload", "sections"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("all", {"offload_optimizer", "offload_param"}),
    ],
)
@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("gpu", True)])
def test_offload(
    offload: str, sections: set[str], device: str, pinned: bool, make_job: MakeJob
) -> None:
    job = make_job({"student.offload": offload, "student.zero_stage": 3, "student.device": device})
    zero = deepspeed_config(job)["zero_optimization"]
    assert {key for key in zero if key.startswith("offload")} == sections
    for section in sections:
        assert zero[section] == {"device": "cpu", "pin_memory": pinned}


def test_clipping_and_no_scheduler_of_deepspeeds_own(make_job: MakeJob) -> None:
    config = deepspeed_config(make_job({"train.gradient_clipping": 0.25}))
    assert config["gradient_clipping"] == 0.25
    assert "scheduler" not in config
    assert "optimizer" not in config


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (8, 0.5), (10, 0.25), (12, 0.0)],
)
def test_linear(step: int, lr: float) -> None:
    """Four steps of warm-up, then straight from 1 at step 4 to 0 at step 12."""
    config = OptimizerConfig(lr=1.0, warmup_steps=4, schedule="linear")
    assert learning_rate(step, 12, config) == pytest.approx(lr)


@pytest.mark.parametrize(("step", "turn"), [(2, 0.0), (4, 0.25), (6, 0.5), (7, 0.625), (10, 1.0)])
def test_cosine(step: int, turn: float) -> None:
    config = OptimizerConfig(lr=3e-4, warmup_steps=2, schedule="cosine")
    expected = 3e-4 * (1 + math.cos(math.pi * turn)) / 2
    assert learning_rate(step, 10, config) == pytest.approx(expected, abs=1e-12)


def test_cosine_passes_its_known_points() -> None:
    config = OptimizerConfig(lr=2.0, schedule="cosine")
    found = [learning_rate(step, 6, config) for step in (0, 2, 3, 4, 6)]
    assert found == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("step", [0, 5, 99])
def test_constant(step: int) -> None:
    assert learning_rate(step, 10, OptimizerConfig(lr=0.1, schedule="constant")) == 0.1


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_warm_up_longer_than_the_run(schedule: Any) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, schedule=schedule)
    assert [learning_rate(s, 3, config) for s in range(3)] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_past_the_end_it_stays_at_zero(schedule: Any) -> None:
    config = OptimizerConfig(lr=1.0, schedule=schedule)
    assert learning_rate(15, 10, config) == pytest.approx(0.0)
