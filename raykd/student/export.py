"""From a checkpoint to a plain Hugging Face directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from raykd import __version__
from raykd.config.job import Job
from raykd.config.load import dump_job
from raykd.config.soft_targets import SoftTargetsConfig
from raykd.errors import StorageError
from raykd.models.load import ModelSource, load_model, load_tokenizer, torch_dtype
from raykd.student.build import add_lora
from raykd.student.checkpoint import Checkpoint
from raykd.student.zero_checkpoint import CHECKPOINT_TAG

PREFIX = "causal_lm."
MEASURED = "<!-- measured -->"


def export(
    job: Job,
    initial: ModelSource,
    tokenizer: ModelSource,
    checkpoint: Checkpoint,
    directory: Path,
) -> None:
    """Write weights (safetensors), tokenizer, generation config and a model card.

    Args:
        job: The run's.
        initial: The student's first weights, whose architecture it has.
        tokenizer: Where its tokenizer is.
        checkpoint: What to export.
        directory: Replaced as a whole once everything is written.

    Raises:
        StorageError: The checkpoint holds other weights than the student has.
    """
    model: Any = load_model(initial, "fp32", "student.init")
    if job.student.lora is not None:
        model = add_lora(model, job)
    load_weights(model, checkpoint, PREFIX)
    if job.student.lora is not None:
        model = _merge_lora(model)
    model = model.to(torch_dtype(job.student.dtype))
    model.config.use_cache = True
    aside = directory.with_name(directory.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    load_tokenizer(tokenizer, "tokenizer").save_pretrained(aside)
    (aside / "README.md").write_text(model_card(job, tokenizer, checkpoint))
    shutil.rmtree(directory, ignore_errors=True)
    aside.rename(directory)


def model_card(job: Job, tokenizer: ModelSource, checkpoint: Checkpoint) -> str:
    """Says how the model was made; `MEASURED` marks where its figures go."""
    environment = Environment(  # Markdown, not HTML: nothing to escape  # noqa: S701
        loader=PackageLoader("raykd.student"), undefined=StrictUndefined
    )
    return environment.get_template("model_card.md.j2").render(
        job=job,
        hub_teacher=None if tokenizer.is_directory else tokenizer.path,
        mark=checkpoint.mark,
        loss=loss_in_words(job),
        version=__version__,
        job_yaml=dump_job(job),
    )


def loss_in_words(job: Job) -> str:
    """What was minimised, as a card says it."""
    inner = inner_in_words(job)
    if job.method == "representations":
        text = f"cross-entropy on the text at weight {job.loss.alpha}" if job.loss.alpha > 0 else ""
        return " + ".join(part for part in (inner, text) if part)
    return " + ".join(part for part in (_logits_in_words(job), inner) if part)


def inner_in_words(job: Job) -> str:
    """What was compared of inner states; empty where nothing was."""
    if (asked := job.representations) is None:
        return ""
    parts = []
    if asked.hidden is not None:
        parts.append(f"{asked.hidden.weight:g} {asked.hidden.loss} of hidden states")
    if asked.attention is not None:
        named = ", ".join(asked.attention.relations)
        parts.append(f"{asked.attention.weight:g} KL of attention relations ({named})")
    where = asked.layers if isinstance(asked.layers, str) else dict(asked.layers)
    return f"{' + '.join(parts)} (layers: {where})"


def _logits_in_words(job: Job) -> str:
    loss = job.loss
    if not job.learns_from_logits:
        return "cross-entropy on the text"
    divergences = " + ".join(
        name if weight == 1 else f"{weight:g} {name}" for name, weight in loss.divergences.items()
    )
    text = f"{divergences} at temperature {loss.temperature} over {_seen(job.soft_targets)}"
    return text + (f", with cross-entropy at weight {loss.alpha}" if loss.alpha > 0 else "")


def _seen(asked: SoftTargetsConfig) -> str:
    """The part of the vocabulary that a divergence looks at."""
    if asked.codec == "top_k":
        rest = "and one bucket for the rest" if asked.tail else "alone"
        return f"the teacher's {asked.top_k} likeliest tokens {rest}"
    if asked.codec == "sampled":
        return f"{asked.draws} draws from the teacher"
    return "the whole vocabulary"


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint, prefix: str) -> None:
    """Put a checkpoint's weights into a model.

    Args:
        model: The student's architecture.
        checkpoint: Of its training.
        prefix: The model's name within what was trained; what has another stays behind, such as
            projections of inner states.

    Raises:
        StorageError: They are not the model's.
    """
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in full_weights(checkpoint).items()
        if name.startswith(prefix)
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    lost = sorted(trained & set(missing))
    if lost or unexpected:
        raise StorageError(
            f"{checkpoint.directory}: does not fit the job's student; missing {lost[:3]}, "
            f"unknown {sorted(unexpected)[:3]}"
        )


def full_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """fp32 weights of the whole model, gathered from the ranks' files by DeepSpeed's own tool."""
    if checkpoint.mark.zero_stage == 0:
        # raykd wrote this file; it holds DeepSpeed's own objects beside the tensors.
        state = torch.load(
            checkpoint.directory / CHECKPOINT_TAG / "mp_rank_00_model_states.pt",
            map_location="cpu",
            weights_only=False,
        )
        module: dict[str, torch.Tensor] = state["module"]
        return module
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    full: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint.directory), tag=CHECKPOINT_TAG
    )
    return full


def _merge_lora(model: Any) -> Any:
    """Fold the adapters into the weights and put the plain layers back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        # Where injection set it on the model; the class has one of its own.
        vars(model).pop(attribute, None)
    return model
