"""Memory of encoders against what torch really holds: a layer, a teacher that scores, a step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_activations import Alive
from test_encoders import sizes_of
from transformers import AutoConfig

from raykd.config.classifier import Task
from raykd.losses.labels import LabelLossSpec, LabelTargets
from raykd.losses.masked import MaskedTargets
from raykd.losses.spec import LossSpec
from raykd.models.batch import Batch
from raykd.models.encoder import EncoderSpec, encoder_outputs, with_task
from raykd.models.encoder_init import build_encoder
from raykd.models.masking import Masking
from raykd.planning.activations import layer_bytes_a_token, while_scoring
from raykd.planning.encoder_families import ENCODERS
from raykd.planning.encoder_models import encoder_models
from raykd.planning.encoders import Head, encoder_shape
from raykd.planning.memory import TEACHER_BLOCK_NUMBERS, student_memory, teacher_memory
from raykd.planning.model_files import Models
from raykd.soft_targets.codec import encode
from raykd.soft_targets.spec import CodecSpec
from raykd.student.encoder_student import EncoderModule
from raykd.student.masked_student import MaskedModule

MakeJob = Callable[..., Any]
ROWS, LENGTH = 2, 64
WIDTH = {torch.bfloat16: 2, torch.float32: 4}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
MINILM: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "id2label": {str(i): f"label {i}" for i in range(5)},
}
BATCH = 8
LABELS = tuple(MINILM["id2label"].values())


def config_of(name: str, layers: int, dropout: float) -> dict[str, Any]:
    made = AutoConfig.for_model(name, **{**sizes_of(name), "max_position_embeddings": LENGTH + 4})
    fields: dict[str, Any] = {**made.to_dict(), "model_type": name}
    fields |= {key: dropout for key in DROPOUTS if key in fields}
    fields["n_layers" if name == "distilbert" else "num_hidden_layers"] = layers
    return fields


def model_of(fields: dict[str, Any], spec: EncoderSpec, dtype: torch.dtype) -> Any:
    fields = dict(fields)
    torch.manual_seed(0)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return build_encoder(with_task(config, spec), spec).to(dtype)  # type: ignore[arg-type]


def batch_of(rows: int, keep_M: torch.Tensor) -> Batch:
    """Rows of which every other one is half padding."""
    ids_BT = torch.randint(3, 90, (rows, LENGTH))
    positions_BT = torch.arange(LENGTH).repeat(rows, 1)
    positions_BT[::2, LENGTH // 2 :] = 0
    return Batch(ids_BT, positions_BT, keep_M, torch.zeros(len(keep_M), dtype=torch.int64))


def first_of(rows: int) -> torch.Tensor:
    return torch.arange(rows) * LENGTH


def beside(model: Any) -> Alive:
    """Counts what is made beside parameters, buffers and gradients, views of which are not."""
    alive = Alive()
    kept = [*model.parameters(), *model.buffers()]
    kept += [p.grad for p in model.parameters() if p.grad is not None]
    alive._seen |= {one.untyped_storage()._cdata for one in kept}
    return alive


def autograd_keeps(model: Any, spec: EncoderSpec) -> int:
    """Bytes of all that is saved for backward, parameters left out, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    batch = batch_of(ROWS, first_of(ROWS))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = encoder_outputs(model.train(), batch, spec)
    assert outputs.outputs_MC.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", WIDTH, ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_one_layer(name: str, dtype: torch.dtype, dropout: float) -> None:
    spec = EncoderSpec("single_label", LABELS, None)
    two, three = (config_of(name, layers, dropout) for layers in (2, 3))
    measured = [autograd_keeps(model_of(fields, spec, dtype), spec) for fields in (two, three)]
    shape = encoder_shape(two, Head("single_label", 5, 1.0), "student")
    reckoned = layer_bytes_a_token(shape, WIDTH[dtype], LENGTH, "cpu")
    assert ROWS * LENGTH * reckoned == pytest.approx(measured[1] - measured[0], rel=0.01)


def test_a_gpu_keeps_a_byte_of_what_is_dropped() -> None:
    """Fused attention drops there without its scores; elsewhere a dropout's mask is boolean."""
    dropping, plain = (
        encoder_shape(config_of("bert", 2, rate), Head("regression", 1, 1.0), "student")
        for rate in (0.1, 0.0)
    )
    without = layer_bytes_a_token(plain, 2, LENGTH, "cpu")
    assert layer_bytes_a_token(plain, 2, LENGTH, "gpu") == without
    assert layer_bytes_a_token(dropping, 2, LENGTH, "gpu") == without + 2 * 32


@pytest.mark.parametrize("length", [16, 64])
@pytest.mark.parametrize("name", ENCODERS)
def test_scoring_needs_no_more_than_reckoned(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LENGTH", length)
    spec = EncoderSpec("single_label", LABELS, None)
    fields = config_of(name, 3, 0.1)
    fields["hidden_dim" if name == "distilbert" else "intermediate_size"] = 4 * 32
    model = model_of(fields, spec, torch.bfloat16).eval()
    batch = batch_of(BATCH, first_of(BATCH))
    with torch.inference_mode(), beside(model) as alive:
        encoder_outputs(model, batch, spec)
    shape = encoder_shape(fields, Head("single_label", 5, 1.0), "teacher")
    reckoned = while_scoring(shape, 2, BATCH, length, 1)
    assert alive.most <= reckoned <= 1.3 * alive.most


def job_of(make_job: MakeJob, task: Task, cosine: float, dtype: str) -> Any:
    tags = task == "tokens"
    return make_job(
        {
            "method": "classifier",
            "classifier": {"task": task, "cosine": cosine},
            "data.packing": "pad",
            "data.long_documents": "cut",
            "data.sequence_length_tokens": LENGTH,
            "teacher.micro_batch_tokens": BATCH * LENGTH,
            "teacher.dtype": dtype,
            "student.dtype": dtype,
            "student.zero_stage": 0,
            "train.micro_batch": BATCH,
            "train.global_batch": BATCH,
            "soft_targets": {"top_k": 8} if task == "masked" else {},
            **({"data.corpus.columns": {"text": "words", "label": "tags"}} if tags else {}),
            "loss": {},
        }
    )


def models_of(job: Any, fields: dict[str, Any]) -> Models:
    return Models(*encoder_models(job, fields, fields, None), "", "")


def minilm(dropout: float) -> dict[str, Any]:
    return {**MINILM, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def masked_batch() -> tuple[Batch, EncoderSpec]:
    keep_M = torch.arange(0, BATCH * LENGTH, 7)  # about 15 %
    return batch_of(BATCH, keep_M), EncoderSpec("masked", (), None, masking=Masking(4, 30522))


Loss = Callable[[], torch.Tensor]


def loss_of(task: Task, fields: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Loss]:
    """A student's module, and the loss that it makes of one micro-batch."""
    if task == "masked":
        batch, spec = masked_batch()
        known = LossSpec((("forward_kl", 1.0),), alpha=1.0)
        masked = MaskedModule(model_of(fields, spec, dtype), spec, known, 0.0)
        return masked, lambda: masked(batch, MaskedTargets(None, None), None).total
    spec = EncoderSpec(task, LABELS, None)
    module = EncoderModule(model_of(fields, spec, dtype), spec, LabelLossSpec(task))
    taught = LabelTargets(torch.randn(BATCH, len(LABELS)), None, None)
    batch = batch_of(BATCH, first_of(BATCH))
    return module, lambda: module(batch, taught, None).total


NARROW = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1}
"""Sizes with which the logits of masked tokens are most of what is held."""


@pytest.mark.parametrize(
    ("task", "dtype", "dropout", "sizes", "rows"),
    [
        ("single_label", "bf16", 0.1, {}, 8),
        ("single_label", "fp32", 0.0, {}, 8),
        ("masked", "bf16", 0.1, {}, 8),
        ("masked", "bf16", 0.0, NARROW, 32),
    ],
)
def test_a_step_of_minilm(
    task: Task,
    dtype: str,
    dropout: float,
    sizes: dict[str, Any],
    rows: int,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that comes and goes in a forward and a backward pass beside the gradients that stay."""
    monkeypatch.setattr(sys.modules[__name__], "BATCH", rows)
    job, fields = job_of(make_job, task, 0.0, dtype), {**minilm(dropout), **sizes}
    reckoned = student_memory(job, models_of(job, fields))
    widths = {"bf16": torch.bfloat16, "fp32": torch.float32}
    module, loss = loss_of(task, fields, widths[dtype])
    loss().backward()
    with beside(module) as alive:
        loss().backward()
    learning = reckoned.passing["activations"] + reckoned.passing["loss or gradients"]
    expected = max(learning, reckoned.passing["gradient arriving"])
    assert alive.most <= expected <= 1.3 * alive.most


@pytest.mark.parametrize(
    ("task", "cosine"),
    [
        ("single_label", 0.0),
        ("single_label", 1.0),
        ("tokens", 0.0),
        ("embedding", 0.0),
        ("masked", 1.0),
    ],
)
def test_a_teacher_of_minilms_size(task: Task, cosine: float, make_job: MakeJob) -> None:
    job = job_of(make_job, task, cosine, "bf16")
    memory = teacher_memory(job, models_of(job, minilm(0.1)).teacher, 30522)
    batch, spec = masked_batch()
    if task != "masked":
        keep_M = torch.arange(BATCH * LENGTH) if task == "tokens" else first_of(BATCH)
        batch = batch_of(BATCH, keep_M)
        spec = EncoderSpec(task, () if task == "embedding" else LABELS, None, "mean")
    spec = replace(spec, with_hidden=cosine > 0)
    model = model_of(minilm(0.1), spec, torch.bfloat16).eval()
    with torch.inference_mode(), beside(model) as alive:
        found = encoder_outputs(model, batch, spec)
        if task == "masked":
            encode(found.outputs_MC, batch.label_ids_M, None, CodecSpec("top_k", 30522, top_k=8))
    expected = memory.device - memory.kept["weights"]
    assert memory.kept["weights"] == sum(2 * p.numel() for p in model.parameters())
    # The codec takes at most three blocks of float32; how much less depends on what it is asked.
    blocks = 3 * 4 * TEACHER_BLOCK_NUMBERS["cpu"] if task == "masked" else 0
    assert alive.most <= expected <= 1.25 * alive.most + blocks
