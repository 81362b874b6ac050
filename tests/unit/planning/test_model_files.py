"""Where models' shapes come from, without weights and without a network."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from raykd.config.student import FromTeacher
from raykd.errors import JobError, ModelError
from raykd.models.init import student_config
from raykd.models.load import ModelSource, load_config
from raykd.planning.families import shape_of
from raykd.planning.gguf_header import read_header
from raykd.planning.model_files import read_models

MakeJob = Callable[..., Any]


def test_directories(make_job: MakeJob, teacher_dir: Path, student_dir: Path) -> None:
    found = read_models(make_job())
    for shape, directory in ((found.teacher, teacher_dir), (found.student, student_dir)):
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert shape.num_parameters == model.num_parameters()
    assert found.vocab_size == found.teacher.vocab_size


def test_a_student_cut_from_the_teacher(make_job: MakeJob, teacher_dir: Path) -> None:
    widths = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    widths["num_key_value_heads"] = 1
    init = {"start": "teacher", "layers": [0, 3], "widths": widths}
    found = read_models(make_job({"student.init": init})).student
    expected = student_config(
        FromTeacher.model_validate(init), load_config(ModelSource(str(teacher_dir)), "teacher")
    )
    model = AutoModelForCausalLM.from_config(expected)
    assert {p.name: p.shape for p in found.parameters} == {
        name: tuple(p.shape) for name, p in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("init", "match"),
    [
        ({"start": "teacher", "layers": 5}, r"student\.init\.layers: 5 of the teacher's 4"),
        ({"start": "teacher", "layers": 2, "widths": {"hidden_size": 64}}, "the teacher has 32"),
        ({"start": "teacher", "layers": 2, "widths": {"depth": 64}}, "no such size"),
        ({"start": "config", "config": {"model_type": "mamba"}}, "does not know how mamba"),
    ],
)
def test_students_that_cannot_be(init: dict[str, Any], match: str, make_job: MakeJob) -> None:
    with pytest.raises(ModelError, match=match):
        read_models(make_job({"student.init": init}))


def test_a_student_from_a_configuration(make_job: MakeJob) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3}
    found = read_models(make_job({"student.init": {"start": "config", "config": config}}))
    assert found.student.hidden_size == 64
    assert found.student.vocab_size == 32000


def test_configurations_by_hand(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(
        {
            "teacher.model": "someone/not-here",
            "student.init": {"start": "pretrained", "model": "someone/neither"},
        }
    )
    with pytest.raises(ModelError, match=r"teacher\.model: .*hf download .*--teacher-config FILE"):
        read_models(job)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    with pytest.raises(ModelError, match=r"student\.init\.model: .*--student-config FILE"):
        read_models(job, teacher_config=file)
    found = read_models(job, file, file)
    assert found.student.num_layers == 2
    assert found.teacher_source == str(file)


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "is not JSON"), ("[1]", "found a list"), ("{}", "a model without model_type")],
)
def test_broken_configurations(text: str, match: str, make_job: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(JobError, match=match):
        read_models(make_job(), teacher_config=file)
    with pytest.raises(JobError, match="no file"):
        read_models(make_job(), teacher_config=tmp_path / "none.json")


def test_a_missing_directory(make_job: MakeJob) -> None:
    with pytest.raises(ModelError, match=r"teacher\.model: no directory '\./none'"):
        read_models(make_job({"teacher.model": "./none"}))


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """Metadata of every kind and two tensors, written by the `gguf` package."""
    import gguf
    import numpy as np

    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(100)
    writer.add_token_list(["a", "bb", "\u00e9"] * 30)
    writer.add_array("scores", [0.5, 1.5])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_bool("flag", True)
    writer.add_tensor("token_embd.weight", np.zeros((100, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_gguf_headers(gguf_file: Path) -> None:
    import gguf

    found, theirs = read_header(gguf_file, "teacher"), gguf.GGUFReader(gguf_file)
    assert list(found.tensors) == [tensor.name for tensor in theirs.tensors]
    for name, field in theirs.fields.items():
        if name.startswith("GGUF.") or name == "nested":
            continue
        value = field.contents()
        assert found.metadata[name] == (len(value) if isinstance(value, list) else value)


def test_gguf_models(gguf_file: Path, make_job: MakeJob) -> None:
    job = make_job({"teacher.model": str(gguf_file.parent), "teacher.gguf_file": gguf_file.name})
    found = read_models(job).teacher
    config = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    assert found == shape_of(config, "teacher")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGML" + bytes(40),
        b"GGUF" + struct.pack("<I", 9) + bytes(40),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60),
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99),
    ],
)
def test_what_is_no_gguf(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"teacher\.gguf_file: .*not a GGUF file"):
        read_header(file, "teacher.gguf_file")
    with pytest.raises(ModelError, match="no file"):
        read_header(tmp_path / "none.gguf", "teacher.gguf_file")


def test_models_beside_the_teacher(make_job: MakeJob, teacher_dir: Path, student_dir: Path) -> None:
    sliced = {
        "data.corpus": {"source": "c.jsonl", "columns": {"text": "text", "slice": "kind"}},
        "teacher.of_slices": {
            "sql": {"model": str(student_dir)},
            "code": {"model": str(student_dir)},
        },
    }
    (once,) = read_models(make_job(sliced)).of_slices
    assert once == read_models(make_job()).student
    sliced["teacher.of_slices"]["law"] = {"model": "./nowhere"}
    match = (
        r"^teacher\.of_slices\.law\.model: no directory '\./nowhere'.*; have it on this machine$"
    )
    with pytest.raises(ModelError, match=match):
        read_models(make_job(sliced))
    mixed = {"teacher.mixed_in": [{"model": "owner/none", "weight": 0.5}]}
    with pytest.raises(ModelError, match=r"^teacher\.mixed_in\.0\.model: the configuration of"):
        read_models(make_job(mixed))
