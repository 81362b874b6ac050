"""What goes into the student's engine: the model with what the job puts around it, and AdamW."""

from __future__ import annotations

from typing import Any

import torch

from raykd.config.job import Job
from raykd.models.load import ModelSource, load_model


def build_causal_lm(job: Job, source: ModelSource) -> Any:
    """The student's model with what the job puts around it."""
    model = load_model(source, job.student.dtype, "student.init")
    model.config.use_cache = False
    if job.student.lora is not None:
        model = add_lora(model, job)
    if job.student.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def add_lora(model: Any, job: Job) -> Any:
    """Freeze the weights and put adapters beside them.

    Returns the model itself, adapters injected in place, so that its head and body stay reachable
    by their own names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lora = job.student.lora
    assert lora is not None
    model.requires_grad_(False)
    # fresh adapters must not depend on what ran before
    torch.manual_seed(job.seed)
    targets = lora.target_modules
    return inject_adapter_in_model(
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            lora_dropout=lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        ),
        model,
    )


def adamw(module: torch.nn.Module, job: Job) -> torch.optim.Optimizer:
    """torch's AdamW; matrices decay, vectors (norms, biases) do not."""
    config = job.train.optimizer
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if _num_dimensions(p) >= 2]
    vectors = [p for p in trained if _num_dimensions(p) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # every step sets its own; until then nothing may move, nor decay
        betas=config.betas,
        eps=config.eps,
        fused=True,  # one pass over memory; the plain form made a quarter of a step on a CPU
    )


def forget_steps(optimizer: torch.optim.Optimizer) -> None:
    """DeepSpeed makes AdamW's state by a step over zeros; it must not count in bias correction."""
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = torch.zeros_like(state["step"])


def _num_dimensions(parameter: torch.nn.Parameter) -> int:
    """Under ZeRO 3 a parameter is flat and keeps its shape in `ds_shape`."""
    return len(getattr(parameter, "ds_shape", parameter.shape))
