"""A classifier under DeepSpeed, one rank in this process, against a plain PyTorch loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from raykd import schema
from raykd.config.student import FromPretrained
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.soft_targets.codec import encode, target_schema, to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.student.checkpoint import CheckpointMark, aside, latest, publish
from raykd.student.encoder_export import export_encoder
from raykd.student.encoder_student import EncoderStudent
from raykd.student.export import MEASURED
from raykd.student.protocol import StudentSpec, Wish

pytestmark = pytest.mark.usefixtures("group_of_one")

STEPS = 3
LABELS = ("wind", "stone", "light")
ENCODER = EncoderSpec("single_label", LABELS, 2, with_hidden=True)
CODEC = CodecSpec("hidden", 100, hidden_size=3 + 32, hidden_values="fp32", fingerprint="x")
TEXTS = ["the wind moves over", "a stone", "no light and no wind", "the teacher learns"]
GOLD = torch.tensor([0.0, torch.nan, 2.0, 1.0])
TAU, ALPHA, GAMMA = 2.0, 0.3, 0.5

MakeJob = Callable[..., Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, save_bert: Callable[..., Path]) -> ModelSource:
    """A student without dropout, so that a plain loop draws nothing."""
    root = tmp_path_factory.mktemp("student")
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    base = ModelSource(str(save_bert(root / "base", **dropout)))
    init = FromPretrained(start="pretrained", model=base.path)
    return write_encoder(init, base, base, ENCODER, 3, root / "untrained", False)


@pytest.fixture
def job(make_job: MakeJob) -> Any:
    return make_job(
        {
            "method": "classifier",
            "classifier": {"task": "single_label", "cosine": GAMMA, "labels": list(LABELS)},
            "data.packing": "pad",
            "data.long_documents": "cut",
            "data.sequence_length_tokens": 16,
            "data.corpus.columns": {"text": "text", "label": "y"},
            "soft_targets": {},
            "loss": {"alpha": ALPHA, "temperature": TAU},
            "evaluation": {},
            "train.global_batch": 4,
            "train.micro_batch": 2,
            "train.gradient_clipping": 0.0,
            "train.optimizer": {"lr": 0.01, "eps": 0.01, "schedule": "constant"},
            "student.dtype": "fp32",
            "student.num_workers": 1,
        }
    )


def taught(num: int) -> torch.Tensor:
    """A teacher's outputs and hidden states."""
    return torch.randn(num, 35, generator=torch.Generator().manual_seed(1))


def scored_rows(tokenizer: Any) -> pa.Table:
    rows: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        padding = [0] * (12 - len(ids))
        rows["input_ids"].append(ids + padding)
        rows["position_ids"].append([*range(len(ids)), *padding])
        rows["loss_mask"].append([1] + [0] * 11)
    targets = to_columns(encode(taught(4), None, None, CODEC).split([1] * 4), CODEC)
    table = pa.table(rows, schema=schema.PREPARED)
    numbers = {"row": np.arange(4), "source_row": np.array([2, 0, 3, 1])}
    return pa.table({**numbers, **{n: table.column(n) for n in table.column_names}, **targets})


def gold_of(source_rows: Any) -> Any:
    """Known by the rows' numbers, not by their places."""
    by_number = torch.full((4, 1), torch.nan)
    by_number[[2, 0, 3, 1], 0] = GOLD
    return by_number[torch.from_numpy(source_rows)].numpy()


def student_of(job: Any, source: ModelSource) -> EncoderStudent:
    return EncoderStudent(
        StudentSpec(job, source, STEPS, CODEC, CODEC, encoder=ENCODER, gold=gold_of)
    )


def plain_steps(source: ModelSource, tokenizer: Any) -> tuple[list[float], dict[str, Any]]:
    """The same by hand: a loss a text, a mean over the four, AdamW."""
    model = AutoModelForSequenceClassification.from_pretrained(source.path).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=0.01, weight_decay=0.0
    )
    losses, teacher = [], taught(4)
    for _ in range(STEPS):
        total = torch.zeros(())
        for at, text in enumerate(TEXTS):
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
            p = (teacher[at, :3] / TAU).softmax(0)
            log_q = (out.logits[0] / TAU).log_softmax(0)
            soft = TAU**2 * (p * (p.log() - log_q)).sum()
            known = not GOLD[at].isnan()
            one = soft
            if known:
                hard = -out.logits[0].log_softmax(0)[int(GOLD[at])]
                one = (1 - ALPHA) * soft + ALPHA * hard
            hidden = out.hidden_states[-1][0, 0]
            total = total + one + GAMMA * (1 - torch.cosine_similarity(hidden, teacher[at, 3:], 0))
        loss = total / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_steps_are_those_of_a_plain_loop(
    job: Any, source: ModelSource, encoder_tokenizer: Any, zero_stage: int, tmp_path: Path
) -> None:
    # Before a student of ZeRO 3 is alive, under which every model would load in shards.
    losses, weights = plain_steps(source, encoder_tokenizer)
    job = job.model_copy(
        update={"student": job.student.model_copy(update={"zero_stage": zero_stage})}
    )
    student = student_of(job, source)
    rows = scored_rows(encoder_tokenizer)
    results = [student.train_step(rows, step, 0.0, Wish.GO_ON) for step in range(STEPS)]
    assert [result.loss for result in results] == pytest.approx(losses, rel=1e-4)
    assert [result.tokens for result in results] == [4] * STEPS
    directory = aside(tmp_path / "checkpoints", STEPS)
    directory.mkdir(parents=True)
    student.save(directory)
    publish(tmp_path / "checkpoints", CheckpointMark(STEPS, STEPS * 4, 1, zero_stage), 1)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    del student
    gc.collect()
    export_encoder(job, source, source, ENCODER, found, tmp_path / "export")
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    for name, tensor in exported.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-5)
    card = (tmp_path / "export" / "README.md").read_text()
    assert MEASURED in card
    assert "wind, stone, light" in card
    classify = pipeline("text-classification", str(tmp_path / "export"), truncation=True)
    assert classify("the wind " * 40)[0]["label"] in LABELS


def test_dropped_rows_are_not_in_the_mean(
    job: Any, source: ModelSource, encoder_tokenizer: Any
) -> None:
    section = job.classifier.model_copy(update={"when_teacher_is_wrong": "drop", "cosine": 0.0})
    job = job.model_copy(update={"classifier": section})
    encoder, codec = replace(ENCODER, with_hidden=False), replace(CODEC, hidden_size=3)
    right = torch.eye(3)[[0, 0, 2, 0]] * 3.0  # the last one says wind where it is stone
    targets = to_columns(encode(right, None, None, codec).split([1] * 4), codec)
    rows = scored_rows(encoder_tokenizer).drop_columns(target_schema(CODEC).names)
    for name, column in targets.items():
        rows = rows.append_column(name, column)
    student = EncoderStudent(
        StudentSpec(job, source, STEPS, codec, codec, encoder=encoder, gold=gold_of)
    )
    model = AutoModelForSequenceClassification.from_pretrained(source.path)
    losses = []
    for at in range(3):
        logits = model(**encoder_tokenizer(TEXTS[at], return_tensors="pt")).logits[0]
        p, log_q = (right[at] / TAU).softmax(0), (logits / TAU).log_softmax(0)
        soft = TAU**2 * (p * (p.log() - log_q)).sum()
        known = not GOLD[at].isnan()
        hard = -logits.log_softmax(0)[int(GOLD[at])] if known else soft
        losses.append(((1 - ALPHA) * soft + ALPHA * hard).item())
    result = student.train_step(rows, 0, 0.0, Wish.GO_ON)
    assert result.loss == pytest.approx(sum(losses) / 3, rel=1e-4)
