"""From a job to a DeepSpeed configuration, and the learning rate of every step. Pure."""

from __future__ import annotations

import math
from typing import Any

from raykd.config.job import Job
from raykd.config.train import OptimizerConfig


def accumulation_steps(job: Job) -> int:
    """Forward passes of one rank in one optimizer step."""
    return job.train.global_batch // (job.student.num_workers * job.train.micro_batch)


def deepspeed_config(job: Job) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` takes; raykd sets the learning rate itself."""
    student = job.student
    zero: dict[str, Any] = {"stage": student.zero_stage}
    if student.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": student.device == "gpu"}
    if student.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": student.device == "gpu"}
    if student.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "train_batch_size": job.train.global_batch,
        "train_micro_batch_size_per_gpu": job.train.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(job),
        "gradient_clipping": job.train.gradient_clipping,
        "zero_optimization": zero,
        # The optimizer is torch's own AdamW, on the CPU too where its state is offloaded.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": student.dtype == "bf16"},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of a step: linear warm-up, then cosine, linear or constant.

    Args:
        step: From 0.
        num_steps: Steps of the whole run.
        config: Peak and shape.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    left = max(1, num_steps - config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / left)
    shape = 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * shape
