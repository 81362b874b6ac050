"""Whole plans of classifiers: what is known of the models, what travels, how fast, how much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from test_encoder_memory import MINILM, batch_of, first_of, masked_batch, model_of
from test_encoders import sizes_of
from torch.utils.flop_counter import FlopCounterMode

from raykd.clusters.hardware import Hardware
from raykd.errors import ModelError
from raykd.models.encoder import EncoderSpec, encoder_outputs
from raykd.planning.accelerators import read_accelerators
from raykd.planning.amount import amount
from raykd.planning.encoder_models import encoder_models
from raykd.planning.model_files import Models, read_models
from raykd.planning.plan_data import Plan
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates, student_flops, teacher_flops
from raykd.planning.traffic import all_codecs
from raykd.soft_targets.codec import Encoded, encode, to_columns
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import TOP_K_HIDDEN, CodecSpec
from raykd.soft_targets.top_k_hidden import encode as encode_both

MakeJob = Callable[..., Any]
RATES = Rates(teacher_tokens_per_s=1000.0, student_tokens_per_s=400.0, source="a test")
LENGTH = 64


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., str]:
    """A directory with a configuration alone."""

    def write(name: str, config: dict[str, Any]) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return str(tmp_path / name)

    return write


@pytest.fixture
def make_classifier(make_job: MakeJob, write_model: Callable[..., str]) -> MakeJob:
    model = write_model("minilm", MINILM)

    def make(section: dict[str, Any], changes: dict[str, Any] | None = None) -> Any:
        base: dict[str, Any] = {
            "method": "classifier",
            "classifier": section,
            "data.packing": "pad",
            "data.long_documents": "cut",
            "teacher": {"model": model, "device": "cpu", "micro_batch_tokens": 256},
            "student.init": {"start": "teacher", "layers": 3},
            "soft_targets": {"top_k": 8} if section["task"] == "masked" else {},
            "loss": {},
        }
        return make_job({**base, **(changes or {})})

    return make


def plan_of(job: Any, hardware: Hardware | None = None, **asked: Any) -> Plan:
    told = {"rows": 100, **asked}
    return make_plan(job, Asked(read_models(job), hardware, read_accelerators(), RATES, **told))


def test_a_student_cut_from_its_teacher(make_classifier: MakeJob) -> None:
    """MiniLM with five labels, as published with its pooler, and three of its six layers."""
    plan = plan_of(make_classifier({"task": "single_label"}))
    head = 384 * 384 + 384 + 5 * 384 + 5
    body = 22_713_216 - (384 * 384 + 384)
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    assert [line.parameters for line in plan.models] == [body + head, body + head - 3 * layer]
    assert plan.fits
    assert plan.speed.tokens_per_s == 400.0


def test_nobody_is_asked(make_classifier: MakeJob, hardware: Hardware) -> None:
    model = make_classifier({"task": "masked"}).teacher.model
    teacher = {"engine": "none", "model": model}
    changes = {
        "teacher": teacher,
        "loss": {"alpha": 1.0},
        "data.corpus.columns": {"text": "words", "label": "tags"},
        "student.device": "gpu",
        "student.init": {"start": "pretrained", "model": model},
    }
    plan = plan_of(make_classifier({"task": "tokens", "labels": ["O", "B"]}, changes), hardware)
    assert plan.fits
    assert [line.side for line in plan.models] == ["student"]
    assert not [each for each in plan.demands if "teacher" in each.part]
    assert not [line for line in plan.memory if "teacher" in line.part]
    assert plan.codecs == ()
    assert [note for note in plan.notes if "no teacher is asked" in note]
    assert not [note for note in plan.notes if "teacher.labels" in note]


def flat_bytes(column: Any) -> int:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return int(array.flatten().nbytes)


def on_the_wire(found: Encoded, spec: CodecSpec, positions: int) -> float:
    """Bytes of a position: all that lies in the columns but the lists' offsets and the stamp."""
    columns = to_columns(list(found.split([positions])), spec)
    return sum(flat_bytes(c) for n, c in columns.items() if n != STAMP) / positions


@pytest.mark.parametrize(("cosine", "numbers"), [(0.0, 5), (1.0, 5 + 384)])
def test_outputs_travel_as_vectors(cosine: float, numbers: int, make_classifier: MakeJob) -> None:
    job = make_classifier({"task": "single_label", "cosine": cosine})
    (codec,) = all_codecs(job, read_models(job), None)
    spec = CodecSpec("hidden", 30522, hidden_values="fp32", hidden_size=numbers)
    found = encode(torch.randn(7, numbers), None, None, spec)
    assert codec.token_bytes == on_the_wire(found, spec, 7)
    (line,) = plan_of(job).codecs
    # Once a row of 64 tokens, and the row's own nine bytes a token.
    assert line.bytes_per_s == pytest.approx(400 * (4 * numbers / 64 + 9))


def test_masked_tokens_travel_by_codec(make_classifier: MakeJob) -> None:
    job = make_classifier({"task": "masked", "cosine": 1.0, "mask_fraction": 0.2})
    (codec,) = all_codecs(job, read_models(job), None)
    spec = CodecSpec(TOP_K_HIDDEN, 30522, job.temperatures, top_k=8, hidden_size=384)
    labels = torch.zeros(7, dtype=torch.int64)
    found = encode_both(torch.randn(7, 30522), labels, torch.randn(7, 384), spec)
    assert codec.token_bytes == on_the_wire(found, spec, 7)
    assert amount(job, 10).learned_share == 0.2
    plain = make_classifier({"task": "masked"})
    (codec,) = all_codecs(plain, read_models(plain), None)
    assert codec.token_bytes == 8 * (2 + 1) + 4 + 4 + 2 + 4


def test_a_sentence_encoders_own_matrix(
    make_classifier: MakeJob, tmp_path: Path, write_model: Callable[..., str]
) -> None:
    job = make_classifier({"task": "embedding"})
    (codec,) = all_codecs(job, read_models(job), None)
    assert codec.token_bytes == 4 * 384
    modules = [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]
    (tmp_path / "minilm" / "modules.json").write_text(json.dumps(modules))
    write_model("minilm/2_Dense", {"out_features": 96})
    models = read_models(job)
    (codec,) = all_codecs(job, models, None)
    assert codec.token_bytes == 4 * 96
    assert models.student.parameters[-1].shape == (96, 384)
    (tmp_path / "minilm" / "modules.json").write_text("{")
    with pytest.raises(ModelError, match=r"modules\.json or what it names cannot be read"):
        read_models(job)


def test_each_masking_is_a_row(make_classifier: MakeJob) -> None:
    corpus = {"data.corpus": {"source": "x", "max_documents": 100, "columns": {"text": "text"}}}
    changes = {**corpus, "evaluation.heldout_fraction": 0.25}
    found = amount(make_classifier({"task": "masked", "maskings": 3}, changes))
    assert found.rows == 225
    assert "a row for each masking of data.corpus.max_documents" in found.source


def test_each_text_of_a_pair_is_a_row(make_classifier: MakeJob) -> None:
    columns = {"text": "question", "text_pair": "answer"}
    corpus = {"data.corpus": {"source": "x", "max_documents": 100, "columns": columns}}
    changes = {**corpus, "evaluation.heldout_fraction": 0.25}
    found = amount(make_classifier({"task": "embedding"}, changes))
    assert found.rows == 150
    assert "a row for each text of a pair of data.corpus.max_documents" in found.source


def test_labels_have_to_be_named(make_classifier: MakeJob, write_model: Callable[..., str]) -> None:
    nameless = {key: value for key, value in MINILM.items() if key != "id2label"}
    teacher = {"model": write_model("nameless", nameless), "device": "cpu"}
    job = make_classifier({"task": "single_label"}, {"teacher": teacher})
    with pytest.raises(ModelError, match=r"classifier\.labels: missing, and the teacher's conf"):
        read_models(job)
    named = make_classifier({"task": "single_label", "labels": ["a", "b"]}, {"teacher": teacher})
    assert read_models(named).student.parameters[-2].shape == (2, 384)


def test_a_distilbert_is_cut_by_its_own_names(
    make_classifier: MakeJob, write_model: Callable[..., str]
) -> None:
    config = {"model_type": "distilbert", **sizes_of("distilbert")}
    teacher = {"model": write_model("distilbert", config), "device": "cpu"}
    init = {"start": "teacher", "layers": 1, "widths": {"hidden_size": 16, "hidden_dim": 24}}
    changes = {"teacher": teacher, "student.init": init}
    student = read_models(make_classifier({"task": "masked"}, changes)).student
    assert (student.num_layers, student.hidden_size, student.intermediate_size) == (1, 16, 24)
    for name, known, said in (
        ("without", {}, "needs a whole number `num_hidden_layers`"),
        ("llama", {"model_type": "llama", "num_hidden_layers": 4}, r"how llama is .*distilbert"),
    ):
        job = make_classifier({"task": "masked"}, {"teacher": {"model": write_model(name, known)}})
        with pytest.raises(ModelError, match=said):
            read_models(job)


@pytest.mark.parametrize("task", ["single_label", "masked"])
def test_operations_are_those_that_torch_counts(task: Any, make_classifier: MakeJob) -> None:
    fields = {**MINILM, "num_hidden_layers": 2}
    share = {"mask_fraction": 1 / 7} if task == "masked" else {}
    job = make_classifier({"task": task, **share})
    batch, spec = masked_batch()
    rows = len(batch.input_ids_BT)
    if task == "single_label":
        spec = EncoderSpec(task, ("a", "b", "c", "d", "e"), None)
        batch = batch_of(rows, first_of(rows))
    eager = {"attn_implementation": "eager"}
    model = model_of({**fields, **eager}, spec, torch.float32)
    with FlopCounterMode(display=False) as forward:
        outputs = encoder_outputs(model, batch, spec).outputs_MC
    with FlopCounterMode(display=False) as backward:
        outputs.sum().backward()
    models = Models(*encoder_models(job, fields, fields, None), "", "")
    tokens = rows * LENGTH
    counted = forward.get_total_flops()
    assert tokens * teacher_flops(job, models) == pytest.approx(counted, rel=0.03)
    counted += backward.get_total_flops()
    assert tokens * student_flops(job, models) == pytest.approx(counted, rel=0.05)
