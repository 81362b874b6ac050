"""Two models are one where, and only where, configuration and weights are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raykd.models.identity import SAMPLE_BYTES, identity_of
from raykd.models.load import ModelSource


def identity(directory: Path) -> str:
    return identity_of(ModelSource(str(directory)))


@pytest.fixture
def copy(teacher_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher_dir, tmp_path / "copy"))


def test_a_copy_is_the_same_model(teacher_dir: Path, copy: Path) -> None:
    for file in copy.iterdir():
        file.touch()
    (copy / "README.md").write_text("another word about it")
    assert identity(copy) == identity(teacher_dir)


def test_another_model_is_another(teacher_dir: Path, student_dir: Path) -> None:
    assert identity(teacher_dir) != identity(student_dir)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.999])
def test_one_flipped_bit_of_small_weights_shows(place: float, copy: Path) -> None:
    before = identity(copy)
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    assert len(content) < 64 * SAMPLE_BYTES, "all of it is looked at"
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    assert identity(copy) != before


def test_a_changed_configuration_shows(copy: Path) -> None:
    before = identity(copy)
    file = copy / "config.json"
    file.write_text(file.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert identity(copy) != before


def test_weights_that_grow_show(copy: Path) -> None:
    before = identity(copy)
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert identity(copy) != before
