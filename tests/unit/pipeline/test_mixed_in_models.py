"""Models of a mixture: located, held against the first, part of the teacher's identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import ModelError
from raykd.models.load import ModelSource, load_tokenizer
from raykd.models.mixture import MixedIn
from raykd.pipeline.mixture import find_mixed_in, mixture_identity

VOCAB = 320


def find(job: Any, teacher: Path, cache: Path, vocab_size: int = VOCAB) -> tuple[MixedIn, ...]:
    tokenizer = load_tokenizer(ModelSource(str(teacher)), "teacher.model")
    return find_mixed_in(job, tokenizer, vocab_size, cache)


@pytest.fixture
def mixed(make_job: Callable[..., Any]) -> Callable[[Path], Any]:
    return lambda path: make_job({"teacher.mixed_in": [{"model": str(path), "weight": 0.25}]})


def test_found(mixed: Callable[[Path], Any], teacher_dir: Path, tmp_path: Path) -> None:
    found = find(mixed(teacher_dir), teacher_dir, tmp_path)
    assert found == (MixedIn(ModelSource(str(teacher_dir.resolve())), 0.25),)


def test_fewer_logits_than_are_averaged(
    mixed: Callable[[Path], Any], teacher_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"^teacher\.mixed_in\.0\.model: \d+ logits a token, 9999"):
        find(mixed(teacher_dir), teacher_dir, tmp_path, vocab_size=9999)


def test_another_tokenizer(mixed: Callable[[Path], Any], teacher_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher_dir, other)
    file = other / "tokenizer.json"
    tree = json.loads(file.read_text())
    vocabulary = tree["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"^teacher\.mixed_in\.0 .*2 ids differ"):
        find(mixed(other), teacher_dir, tmp_path)


def test_a_mixture_is_another_teacher(teacher_dir: Path) -> None:
    source = ModelSource(str(teacher_dir))
    told = {
        mixture_identity("first", ()),
        mixture_identity("first", (MixedIn(source, 0.25),)),
        mixture_identity("first", (MixedIn(source, 0.5),)),
        mixture_identity("other", (MixedIn(source, 0.5),)),
        mixture_identity("first", (MixedIn(source, 0.25), MixedIn(source, 0.25))),
    }
    assert len(told) == 5
    assert mixture_identity("first", ()) == "first"
