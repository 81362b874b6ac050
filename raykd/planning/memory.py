"""Bytes of one teacher shard and one student rank, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from raykd.config.job import Job
from raykd.planning import encoder_heads
from raykd.planning.activations import FP32, kept_for_backward, while_scoring
from raykd.planning.lora import trained_and_frozen
from raykd.planning.model_files import Models
from raykd.planning.shape import ModelShape, total
from raykd.planning.traffic import state_bytes
from raykd.planning.zero_bytes import WIDTH_BYTES, HeldByRank, held_by_rank

LOSS_CHUNK_BYTES: Final = {"cpu": 128 * 2**20, "gpu": 512 * 2**20}
LOSS_BLOCK_NUMBERS: Final = {"cpu": 2**19, "gpu": 2**25}
TEACHER_BLOCK_NUMBERS: Final = {"cpu": 2**19, "gpu": 2**27}
FEWEST_LOSS_TOKENS: Final = 64
LOSS_PARTS: Final = 8
BLOCK_COPIES: Final = 3
"""float32 arrays of a block's size that are alive at once."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        device: On the GPU; all of it, where the part runs on CPUs.
        host: In CPU memory beside a GPU: what is offloaded.
        kept: The parts of `device` that are there throughout.
        passing: Those that come and go; `device` counts the moment that has most.
    """

    device: int
    host: int
    kept: Mapping[str, int]
    passing: Mapping[str, int]
    offloaded: Mapping[str, int] = field(default_factory=dict)


def teacher_memory(
    job: Job,
    model: ModelShape,
    vocab_size: int,
    mixed_in: Sequence[ModelShape] = (),
    of_slices: Sequence[ModelShape] = (),
) -> Memory:
    """What one shard of the teacher holds.

    Args:
        job: The job.
        model: The teacher.
        vocab_size: Logits that are made of each token.
        mixed_in: Other models that it is averaged with.
        of_slices: Other models that are there, each asked alone.
    """
    teacher, shards = job.teacher, job.teacher.tensor_parallel
    width = WIDTH_BYTES[teacher.dtype]
    row = job.data.sequence_length_tokens
    rows = max(1, teacher.micro_batch_tokens // row)
    if model.encoder is not None:
        return _encoder_memory(job, model, rows)
    chunk = min(teacher.head_chunk_tokens, rows * row)
    most = TEACHER_BLOCK_NUMBERS[teacher.device]
    if teacher.engine == "vllm":
        # It makes all logits of a step together, and works on all of them at once.
        chunk = teacher.micro_batch_tokens
        most = chunk * vocab_size
    together, alone = (model, *mixed_in), (model, *of_slices)
    held = (*together, *of_slices)
    logits = width * chunk * max(one.vocab_size for one in alone)
    of_shard = logits // shards if shards > 1 else 0
    block = FP32 * min(most, chunk * vocab_size)
    passing = {
        "activations": max(while_scoring(each, width, rows, row, shards) for each in held),
        "head chunk": logits + of_shard + BLOCK_COPIES * block,
    }
    if mixed_in:
        # The logits of each, the average so far, one model's log probabilities.
        passing["head chunk"] += width * chunk * sum(other.vocab_size for other in mixed_in)
        passing["head chunk"] += 2 * FP32 * chunk * vocab_size
    kept = {"weights": width * sum(one.shard_parameters(shards) for one in held)}
    if teacher.vllm is not None and teacher.vllm.kv_cache_gib is not None:
        kept["cache of keys and values"] = int(teacher.vllm.kv_cache_gib * 2**30)
    widest = max(sum(one.hidden_size for one in together), *(one.hidden_size for one in alone))
    hidden = width * rows * row * widest
    # The head works on the last hidden states when all else of the forward pass is gone.
    peak = max(passing["activations"], hidden + passing["head chunk"])
    return Memory(sum(kept.values()) + peak, 0, kept, passing)


def _encoder_memory(job: Job, model: ModelShape, rows: int) -> Memory:
    width, row = WIDTH_BYTES[job.teacher.dtype], job.data.sequence_length_tokens
    most = TEACHER_BLOCK_NUMBERS[job.teacher.device]
    states = encoder_heads.hidden_states_bytes(job, model, width, rows * row)
    passing = {
        "activations": while_scoring(model, width, rows, row, 1) + states,
        "outputs": encoder_heads.scored_bytes(job, model, width, rows * row, most),
    }
    kept = {"weights": width * model.num_parameters}
    hidden = states or width * rows * row * model.hidden_size
    peak = max(passing["activations"], hidden + passing["outputs"])
    return Memory(sum(kept.values()) + peak, 0, kept, passing)


def student_memory(job: Job, models: Models) -> Memory:
    """What one rank of the student holds."""
    model, student = models.student, job.student
    width = WIDTH_BYTES[student.dtype]
    trained, frozen = trained_and_frozen(model, student.lora)
    held = held_by_rank(job, frozen, trained)
    rows, row = job.train.micro_batch, job.data.sequence_length_tokens
    stays, again = kept_for_backward(
        model,
        width,
        rows,
        row,
        checkpointing=student.activation_checkpointing,
        device=student.device,
    )
    if model.encoder is None:
        loss_part, arriving, loss = "fused loss", 0, _loss_bytes(job, models, width)
    else:
        most = LOSS_BLOCK_NUMBERS[student.device]
        loss_part, arriving = "loss or gradients", encoder_heads.largest_gradient(model, width)
        loss = encoder_heads.learned_bytes(job, model, width, rows * row, most)
    bucket = held.bucket
    if student.device == "cpu":
        # Memory that nothing was written to costs nothing there.
        bucket = min(bucket, width * total(trained))
    passing = {
        "activations": stays,
        "one layer again": again,
        loss_part: loss,
        "gradient arriving": arriving,
        "soft targets": rows * row * target_bytes(job, models),
        "reduce bucket": bucket,
        "optimizer step": held.step_gradients,
    }
    kept, offloaded = _kept(held, width, on_gpu=student.device == "gpu")
    at_step = 0 if held.optimizer_on_host and student.device == "gpu" else held.step_gradients
    # Under ZeRO 3 the bucket is there at the step too.
    at_step += bucket if student.zero_stage == 3 else 0
    # The embedding's gradient is the last: nothing of a forward pass is there any more.
    learning = max(stays + max(again, loss), arriving) + passing["soft targets"] + bucket
    most = max(learning, at_step)
    return Memory(
        sum(kept.values()) + most,
        sum(offloaded.values()),
        kept,
        {name: size for name, size in passing.items() if size},
        offloaded,
    )


def _kept(held: HeldByRank, width: int, *, on_gpu: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Parts that stay, on the device and in the memory beside it."""
    kept = {
        "weights": held.weights,
        "gathered weights": held.gathered,
        "gradients": held.gradients,
        "fp32 masters": held.masters,
        "Adam moments": held.moments,
    }
    offloaded: dict[str, int] = {}
    if held.optimizer_on_host:
        # Gradients arrive there in float32, and weights leave in the student's dtype.
        offloaded["fp32 gradients"] = held.step_gradients
        offloaded["weights on their way"] = held.step_gradients // FP32 * width + held.staging
        kept["offload buffer"] = held.staging
        moved = ["fp32 masters", "Adam moments"] + ["weights"] * held.weights_on_host
        offloaded |= {name: kept.pop(name) for name in moved}
    if not on_gpu:
        kept, offloaded = kept | {f"{k} (offloaded)": v for k, v in offloaded.items()}, {}
    return {k: v for k, v in kept.items() if v}, {k: v for k, v in offloaded.items() if v}


def _loss_bytes(job: Job, models: Models, width: int) -> int:
    """Chunk, block, hidden states with their gradients, and the gradient of the head's weight."""
    student, model = job.student, models.student
    tokens = job.train.micro_batch * job.data.sequence_length_tokens
    buffers = 2 if job.soft_targets.codec == "hidden" else 1
    chunk = loss_chunk_tokens(
        tokens, model.hidden_size, models.vocab_size, width, buffers, device=student.device
    )
    numbers = chunk * models.vocab_size
    block = FP32 * min(LOSS_BLOCK_NUMBERS[student.device], numbers)
    head = 0 if student.lora is not None else width * model.vocab_size * model.hidden_size
    teacher_head = 0
    if job.soft_targets.codec == "hidden":
        teacher_width = WIDTH_BYTES[job.teacher.dtype]
        teacher_head = teacher_width * models.vocab_size * models.teacher.hidden_size
    hidden = 3 * width * tokens * model.hidden_size
    return width * numbers * buffers + BLOCK_COPIES * block + head + teacher_head + hidden


def loss_chunk_tokens(
    num_tokens: int, hidden: int, vocab_size: int, width: int, buffers: int, *, device: str
) -> int:
    """Tokens whose logits the fused loss holds; the arithmetic of `losses/head.py`."""
    most = min(LOSS_CHUNK_BYTES[device] // (vocab_size * width), hidden // 2) // buffers
    parts = max(num_tokens // LOSS_PARTS, FEWEST_LOSS_TOKENS)
    return max(1, min(max(most, FEWEST_LOSS_TOKENS), parts))


def target_bytes(job: Job, models: Models) -> int:
    """Bytes of a token's soft targets and inner states once decoded, on the student's device."""
    inner = state_bytes(job, models)
    if not job.learns_from_logits:
        return inner
    of_one = _distribution_bytes(job, models)
    if models.student.encoder is not None:
        return encoder_heads.target_bytes(job, models.teacher, models.student, of_one)
    return inner + of_one


def _distribution_bytes(job: Job, models: Models) -> int:
    asked = job.soft_targets
    return {
        "top_k": 8 * asked.top_k + 4 * len(job.temperatures) + 4,
        "auto": 8 * asked.top_k + 4 * len(job.temperatures) + 4,
        "sampled": 12 * asked.draws + 8,
        "hidden": {"bf16": 2}.get(asked.hidden_values, 4) * models.teacher.hidden_size,
        "full": {"bf16": 2}.get(asked.width, 4) * models.vocab_size + 4,
    }[asked.codec]
