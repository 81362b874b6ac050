"""Models of slices: located, held against the first, counted, made absolute, sent along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.errors import ModelError, SubmissionError
from raykd.models.identity import identity_of
from raykd.models.load import ModelSource, load_tokenizer
from raykd.models.of_slices import OfSlices
from raykd.pipeline.anchor import anchored
from raykd.pipeline.mixture import find_of_slices
from raykd.pipeline.models import count_parameters, find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec, training_spec
from raykd.student.export import model_card
from raykd.submission.inputs import require_packed
from raykd.submission.packing import Packed

VOCAB = 320
MakeJob = Callable[..., Any]


@pytest.fixture
def sliced(make_job: MakeJob, corpus_file: Path) -> Callable[..., Any]:
    def make(**of_slices: str | Path) -> Any:
        columns = {"text": "text", "slice": "kind"}
        return make_job(
            {
                "data.corpus": {"source": str(corpus_file), "columns": columns},
                "teacher.of_slices": {
                    name: {"model": str(model)} for name, model in of_slices.items()
                },
            }
        )

    return make


def find(job: Any, teacher: Path, cache: Path, vocab_size: int = VOCAB) -> tuple[OfSlices, ...]:
    tokenizer = load_tokenizer(ModelSource(str(teacher)), "teacher.model")
    return find_of_slices(job, tokenizer, vocab_size, cache)


def test_each_model_once(
    sliced: Callable[..., Any], teacher_dir: Path, student_dir: Path, tmp_path: Path
) -> None:
    job = sliced(sql=student_dir, code=student_dir, law=teacher_dir)
    code, law = find(job, teacher_dir, tmp_path)
    assert code.slices == ("code", "sql")
    assert code.field == "teacher.of_slices.code.model"
    assert code.identity == identity_of(ModelSource(str(student_dir)))
    assert (law.slices, law.source.path) == (("law",), str(teacher_dir.resolve()))


def test_one_that_is_not_there_is_named(
    sliced: Callable[..., Any], teacher_dir: Path, tmp_path: Path
) -> None:
    job = sliced(code=tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"^teacher\.of_slices\.code\.model: no directory"):
        find(job, teacher_dir, tmp_path)


def test_one_that_says_too_little(
    sliced: Callable[..., Any], teacher_dir: Path, tmp_path: Path
) -> None:
    said = r"^teacher\.of_slices\.code\.model: \d+ logits a token, 9999 are learned"
    with pytest.raises(ModelError, match=said):
        find(sliced(code=teacher_dir), teacher_dir, tmp_path, vocab_size=9999)


def test_another_tokenizer(sliced: Callable[..., Any], teacher_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher_dir, other)
    file = other / "tokenizer.json"
    tree = json.loads(file.read_text())
    vocabulary = tree["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[20:22]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=r"^teacher\.of_slices\.code .*2 ids differ"):
        find(sliced(code=other), teacher_dir, tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_position_embeddings": 32}, "64 is longer than its context of 32"),
        ({"num_key_value_heads": 1}, "2 shards do not divide its 1 num_key_value_heads"),
    ],
)
def test_one_that_does_not_fit(
    fields: dict[str, int],
    said: str,
    sliced: Callable[..., Any],
    save_llama: Callable[..., Path],
    teacher_dir: Path,
    tmp_path: Path,
) -> None:
    job = sliced(code=save_llama(tmp_path / "code", 4, **fields))
    teacher = job.teacher.model_copy(update={"tensor_parallel": 2})
    with pytest.raises(ModelError, match=rf"^teacher\.of_slices\.code\.model: .*{said}"):
        find(job.model_copy(update={"teacher": teacher}), teacher_dir, tmp_path)


def test_the_run_knows_them(
    sliced: Callable[..., Any], make_job: MakeJob, student_dir: Path
) -> None:
    job, plain = sliced(code=student_dir), make_job()
    run = RunDirectory.of(job)
    run.model_cache.mkdir(parents=True)
    models, alone = find_models(job, run), find_models(plain, run)
    assert [one.slices for one in models.of_slices] == [("code",)]
    assert models.teacher_identity == alone.teacher_identity
    for spec_of in (training_spec, heldout_spec):
        spec, before = spec_of(job, models), spec_of(plain, alone)
        assert spec.stamp != before.stamp
        assert replace(spec, fingerprint=before.fingerprint) == before
    counted, before_counted = (count_parameters(one, run) for one in (job, plain))
    assert counted["teacher"] == before_counted["teacher"] + counted["student"]


def test_paths_become_absolute(
    sliced: Callable[..., Any],
    make_job: MakeJob,
    student_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(student_dir.parent)
    job = anchored(sliced(code=student_dir.name, law="owner/law"), in_copy=False)
    assert job.teacher.of_slices["code"].model == str(student_dir)
    assert job.teacher.of_slices["law"].model == "owner/law"
    mixed = make_job({"teacher.mixed_in": [{"model": student_dir.name, "weight": 0.5}]})
    assert anchored(mixed, in_copy=False).teacher.mixed_in[0].model == str(student_dir)


def test_a_submitted_job_takes_them_along(
    sliced: Callable[..., Any], make_job: MakeJob, student_dir: Path
) -> None:
    nothing = Packed(student_dir.parent)
    with pytest.raises(SubmissionError, match=r"^teacher\.of_slices\.code\.model: "):
        require_packed(sliced(code=student_dir.name), nothing)
    mixed = make_job({"teacher.mixed_in": [{"model": student_dir.name, "weight": 0.5}]})
    with pytest.raises(SubmissionError, match=r"^teacher\.mixed_in\.0\.model: "):
        require_packed(mixed, nothing)


def test_the_model_card_names_all_teachers(
    sliced: Callable[..., Any], make_job: MakeJob, teacher_dir: Path
) -> None:
    checkpoint: Any = SimpleNamespace(mark=SimpleNamespace(row=8, step=2))
    tokenizer = ModelSource(str(teacher_dir))

    def table(job: Any) -> list[str]:
        lines = model_card(job, tokenizer, checkpoint).splitlines()
        return lines[lines.index("|---|---|") + 1 :][:4]

    (first, *_), plain = table(make_job()), table(make_job())
    assert table(sliced(code="owner/code", law="owner/law")) == [
        first,
        "| teacher of slice code | `owner/code` |",
        "| teacher of slice law | `owner/law` |",
        plain[1],
    ]
    mixed = make_job({"teacher.mixed_in": [{"model": "owner/other", "weight": 0.25}]})
    assert table(mixed) == [first, "| mixed with, at 0.25 | `owner/other` |", *plain[1:3]]
