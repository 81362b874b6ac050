"""A masked language model under DeepSpeed, one rank in this process, against a plain loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForMaskedLM, pipeline

from raykd import schema
from raykd.config.student import FromPretrained
from raykd.models.batch import Batch
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.models.masking import Masking, batch_of
from raykd.soft_targets.codec import to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.top_k_hidden import encode
from raykd.student.checkpoint import CheckpointMark, aside, latest, publish
from raykd.student.encoder_export import export_encoder
from raykd.student.masked_student import MaskedStudent
from raykd.student.protocol import StudentSpec, Wish

pytestmark = pytest.mark.usefixtures("group_of_one")

STEPS, VOCAB, MASK = 3, 44, 43
ENCODER = EncoderSpec("masked", (), 2, None, True, 32, Masking(MASK, VOCAB))
TEXTS = ["the wind moves over", "a stone", "no light and no wind", "the teacher learns"]
MASKED = [[1, 3], [2], [1, 2, 5], []]
NUM = sum(map(len, MASKED))
TAU, ALPHA, GAMMA = 2.0, 0.3, 0.5
CODEC = CodecSpec(
    "top_k_hidden",
    VOCAB,
    (1.0, TAU),
    top_k=VOCAB,
    values="fp32",
    hidden_size=32,
    hidden_values="fp32",
    fingerprint="x",
)

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
            "classifier": {"task": "masked", "cosine": GAMMA},
            "data.packing": "pad",
            "data.long_documents": "cut",
            "data.sequence_length_tokens": 16,
            "data.corpus.columns": {"text": "text"},
            "soft_targets": {"top_k": VOCAB, "values": "fp32"},
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


def teacher_says() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hidden states of all masked tokens."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(NUM, VOCAB, generator=draw), torch.randn(NUM, 32, generator=draw)


def text_rows(tokenizer: Any) -> pa.Table:
    rows: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for text, masked in zip(TEXTS, MASKED, strict=True):
        ids = tokenizer(text)["input_ids"]
        padding = [0] * (12 - len(ids))
        rows["input_ids"].append(ids + padding)
        rows["position_ids"].append([*range(len(ids)), *padding])
        rows["loss_mask"].append([int(at + 1 in masked) for at in range(12)])
    return pa.table(rows, schema=schema.PREPARED)


def scored_rows(tokenizer: Any) -> pa.Table:
    table = text_rows(tokenizer)
    logits, hidden = teacher_says()
    labels = batch_of(table, None).label_ids_M
    encoded = encode(logits, labels, hidden, CODEC).split([len(masked) for masked in MASKED])
    numbers = {"row": np.arange(4), "source_row": np.arange(4)}
    columns = {name: table.column(name) for name in table.column_names}
    return pa.table({**numbers, **columns, **to_columns(encoded, CODEC)})


def plain_steps(source: ModelSource, tokenizer: Any) -> tuple[list[float], dict[str, Any]]:
    """The same by hand, text by text, from the whole model's outputs at the masked places."""
    model = AutoModelForMaskedLM.from_pretrained(source.path).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=0.01, weight_decay=0.0
    )
    losses, rows = [], text_rows(tokenizer)
    logits, taught = teacher_says()
    for _ in range(STEPS):
        total, done = torch.zeros(()), 0
        for at, (text, masked) in enumerate(zip(TEXTS, MASKED, strict=True)):
            ids = torch.tensor(tokenizer(text)["input_ids"])
            seen: Batch = batch_of(rows.slice(at, 1), ENCODER.masking)
            out = model(seen.input_ids_BT[:, : len(ids)], output_hidden_states=True)
            for place in masked:
                log_q = out.logits[0, place].log_softmax(0)
                p = (logits[done] / TAU).softmax(0)
                soft = (p * (p.log() - (out.logits[0, place] / TAU).log_softmax(0))).sum()
                alike = torch.cosine_similarity(out.hidden_states[-1][0, place], taught[done], 0)
                total = total + (1 - ALPHA) * TAU**2 * soft - ALPHA * log_q[ids[place]]
                total = total + GAMMA * (1 - alike)
                done += 1
        loss = total / NUM
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_steps_are_those_of_a_plain_loop(
    job: Any, source: ModelSource, encoder_tokenizer: Any, zero_stage: int, tmp_path: Path
) -> None:
    assert encoder_tokenizer.mask_token_id == MASK
    # Before a student of ZeRO 3 is alive, under which every model would load in shards.
    losses, weights = plain_steps(source, encoder_tokenizer)
    job = job.model_copy(
        update={"student": job.student.model_copy(update={"zero_stage": zero_stage})}
    )
    student = MaskedStudent(StudentSpec(job, source, STEPS, CODEC, CODEC, encoder=ENCODER))
    rows = scored_rows(encoder_tokenizer)
    results = [student.train_step(rows, step, 0.0, Wish.GO_ON) for step in range(STEPS)]
    assert [result.loss for result in results] == pytest.approx(losses, rel=1e-4)
    assert [result.tokens for result in results] == [NUM] * STEPS
    directory = aside(tmp_path / "checkpoints", STEPS)
    directory.mkdir(parents=True)
    student.save(directory)
    publish(tmp_path / "checkpoints", CheckpointMark(STEPS, STEPS * 4, 1, zero_stage), 1)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    del student
    gc.collect()
    export_encoder(job, source, source, ENCODER, found, tmp_path / "export")
    exported = AutoModelForMaskedLM.from_pretrained(tmp_path / "export")
    for name, tensor in exported.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-5)
    # Tied, and written once.
    assert exported.get_output_embeddings().weight is exported.get_input_embeddings().weight
    assert "masked language model" in (tmp_path / "export" / "README.md").read_text()
    fill = pipeline("fill-mask", str(tmp_path / "export"))
    assert len(fill("the wind [MASK] over", top_k=5)) == 5


def test_without_a_teacher_the_text_is_learned(
    job: Any, source: ModelSource, encoder_tokenizer: Any
) -> None:
    loss = job.loss.model_copy(update={"alpha": 1.0})
    section = job.classifier.model_copy(update={"cosine": 0.0})
    job = job.model_copy(update={"loss": loss, "classifier": section})
    encoder = EncoderSpec("masked", (), 2, masking=ENCODER.masking)
    student = MaskedStudent(StudentSpec(job, source, STEPS, CODEC, CODEC, encoder=encoder))
    result = student.train_step(text_rows(encoder_tokenizer), 0, 0.0, Wish.GO_ON)
    model = AutoModelForMaskedLM.from_pretrained(source.path)
    wanted = 0.0
    for at, (text, masked) in enumerate(zip(TEXTS, MASKED, strict=True)):
        ids = encoder_tokenizer(text)["input_ids"]
        seen = batch_of(text_rows(encoder_tokenizer).slice(at, 1), ENCODER.masking)
        log_q = model(seen.input_ids_BT[:, : len(ids)]).logits[0].log_softmax(1)
        wanted -= sum(log_q[place, ids[place]].item() for place in masked)
    assert result.loss == pytest.approx(wanted / NUM, rel=1e-4)
    assert result.divergence is None
