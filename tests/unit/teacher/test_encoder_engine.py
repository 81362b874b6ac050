"""An encoder's outputs through its codec, against the model asked text by text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raykd import schema
from raykd.config.student import FromPretrained
from raykd.errors import SoftTargetError, TeacherError
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.soft_targets.codec import HiddenStates, decode, target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.encoder_engine import EncoderEngine
from raykd.teacher.engine import EngineSpec, ShardPlace

TEXTS = ["the wind moves over the river", "a teacher learns", "", "no stone", "while the light"]
ENCODER = EncoderSpec("single_label", ("a", "b", "c"), 2, with_hidden=True)
CODEC = CodecSpec("hidden", 100, hidden_size=3 + 32, hidden_values="fp32", fingerprint="x")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, save_bert: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    base = ModelSource(str(save_bert(root / "base")))
    init = FromPretrained(start="pretrained", model=base.path)
    return Path(write_encoder(init, base, base, ENCODER, 3, root / "teacher", False).path)


def rows_of(tokenizer: Any) -> pa.Table:
    """Rows padded to their buckets; the third one has nothing to learn."""
    rows: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        padding = [0] * (12 - len(ids))
        rows["input_ids"].append(ids + padding)
        rows["position_ids"].append([*range(len(ids)), *padding])
        rows["loss_mask"].append([int(bool(text))] + [0] * 11)
    return pa.table(rows, schema=schema.PREPARED)


def engine_of(directory: Path, micro_batch_tokens: int) -> EncoderEngine:
    source = ModelSource(str(directory))
    spec = EngineSpec(source, "fp32", False, 1, micro_batch_tokens, 1, encoder=ENCODER)
    return EncoderEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


@pytest.mark.parametrize("micro_batch_tokens", [24, 10_000])
def test_outputs_and_hidden_states_of_each_text(
    teacher: Path, encoder_tokenizer: Any, micro_batch_tokens: int
) -> None:
    engine = engine_of(teacher, micro_batch_tokens)
    table = rows_of(encoder_tokenizer)
    answer = engine.score(table, CODEC)
    assert answer is not None
    assert answer.schema.names == [*target_schema(CODEC).names, "teacher_s"]
    found = decode(answer.append_column("loss_mask", table.column("loss_mask")), CODEC)
    assert isinstance(found, HiddenStates)
    model = AutoModelForSequenceClassification.from_pretrained(teacher).eval()
    wanted = []
    for text in filter(None, TEXTS):
        out = model(**encoder_tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        wanted.append(torch.cat([out.logits[0], out.hidden_states[-1][0, 0]]))
    torch.testing.assert_close(found.hidden_TD, torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert engine.describe()["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_broken_teacher_is_named_with_its_row(teacher: Path, encoder_tokenizer: Any) -> None:
    engine = engine_of(teacher, 10_000)
    with torch.no_grad():
        engine._model.classifier.bias[:] = torch.nan
    with pytest.raises(SoftTargetError, match=r"row \d of the request: .* hold NaN"):
        engine.score(rows_of(encoder_tokenizer), CODEC)


def test_an_encoder_writes_no_text(teacher: Path, tmp_path: Path) -> None:
    engine = engine_of(teacher, 100)
    with pytest.raises(TeacherError, match="no language-model head"):
        engine.write_head(tmp_path / "head")
