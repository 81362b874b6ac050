from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.config.model import ModelConfig
from raykd.errors import JobError, ModelError
from raykd.models.load import (
    ModelSource,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    torch_dtype,
)


def refused(model: str, cache: Path, **fields: Any) -> str:
    with pytest.raises(JobError) as caught:
        locate(ModelConfig(model=model, **fields), "teacher", cache)
    return str(caught.value)


def test_a_directory_is_found(teacher_dir: Path, tmp_path: Path) -> None:
    source = locate(ModelConfig(model=str(teacher_dir)), "teacher", tmp_path)
    assert source == ModelSource(str(teacher_dir.resolve()))
    assert source.is_directory


def test_a_relative_directory_becomes_one_that_every_process_finds(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(teacher_dir.parent)
    source = locate(ModelConfig(model="./teacher"), "teacher", tmp_path)
    assert source.path == str(teacher_dir.resolve())


def test_a_hub_name_is_passed_on_with_its_pin(tmp_path: Path) -> None:
    config = ModelConfig(model="owner/name", revision="ab" * 20, trust_remote_code=True)
    source = locate(config, "teacher", tmp_path)
    assert source == ModelSource("owner/name", "ab" * 20, True)
    assert not source.is_directory
    assert source.hub_arguments == {"revision": "ab" * 20, "trust_remote_code": True}


@pytest.mark.parametrize("path", ["./none", "/no/such/place", "~/no-such-place-here", "a/b/c"])
def test_no_such_directory(path: str, tmp_path: Path) -> None:
    message = refused(path, tmp_path)
    assert message.startswith(f"teacher.model: no directory {path!r}; give a directory with")


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    assert refused(str(tmp_path), tmp_path) == f"teacher.model: {tmp_path} has no config.json"


def test_a_directory_with_gguf_weights_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "b.gguf").touch()
    message = refused(str(tmp_path), tmp_path)
    assert message.endswith("has no config.json; it has b.gguf: set teacher.gguf_file")


def test_a_directory_without_weights(teacher_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher_dir, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    message = refused(str(tmp_path / "m"), tmp_path)
    assert "has a config.json but no weights" in message


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    message = refused(str(tmp_path), tmp_path, gguf_file="x.gguf")
    assert message == f"teacher.gguf_file: no file {tmp_path / 'x.gguf'}"


def test_a_package_that_is_not_installed(tmp_path: Path) -> None:
    message = refused("package:no_such_package_here", tmp_path)
    assert "the Python package no_such_package_here is not installed" in message


def test_a_gguf_file_is_converted_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def convert(directory: Path, name: str, target: Path) -> None:
        calls.append(name)
        target.mkdir(parents=True)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr("raykd.models.load._convert_gguf", convert)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"one")
    config = ModelConfig(model=str(tmp_path), gguf_file="x.gguf")
    first = locate(config, "teacher", tmp_path / "cache")
    assert locate(config, "teacher", tmp_path / "cache") == first
    assert calls == ["x.gguf"]
    file.write_bytes(b"others")
    assert locate(config, "teacher", tmp_path / "cache") != first
    assert len(calls) == 2


def test_a_conversion_that_breaks_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(directory: Path, name: str, target: Path) -> None:
        target.mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr("raykd.models.load._convert_gguf", convert)
    (tmp_path / "x.gguf").touch()
    cache = tmp_path / "cache"
    with pytest.raises(OSError, match="disk full"):
        locate(ModelConfig(model=str(tmp_path), gguf_file="x.gguf"), "teacher", cache)
    assert all(path.suffix == ".aside" for path in cache.iterdir())


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_come_in_the_dtype_asked_for(
    name: Any, dtype: torch.dtype, student_dir: Path
) -> None:
    model = load_model(ModelSource(str(student_dir)), name, "student.init")
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch_dtype(name) == dtype


def test_weights_that_cannot_be_read(student_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(student_dir, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"student\.init: cannot load"):
        load_model(ModelSource(str(tmp_path / "m")), "fp32", "student.init")


def test_a_directory_without_tokenizer(student_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(student_dir, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelError, match=r"teacher\.model: no tokenizer at"):
        load_tokenizer(ModelSource(str(tmp_path / "m")), "teacher.model")


def test_a_configuration_of_no_known_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_thing"}))
    with pytest.raises(ModelError, match=r"teacher\.model: no model configuration at"):
        load_config(ModelSource(str(tmp_path)), "teacher.model")
