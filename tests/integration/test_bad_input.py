"""What a person gets who asks for what cannot be: an error that says so, soon, and no debris."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd.errors import (
    CorpusError,
    DivergenceError,
    ModelError,
    RaykdError,
    ResourceError,
    SoftTargetError,
    StorageError,
    TeacherError,
)
from raykd.soft_targets.spec import CodecSpec
from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StepResult, Wish
from raykd.teacher.transformers_tp import TransformersEngine

from .runs import RAY_WARNINGS, Distil, checkpoint_steps, read_steps

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

TRAINING_TOP_K = 8


class Raises(TransformersEngine):
    """Scores held-out rows; refuses those of the training."""

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        if spec.top_k == TRAINING_TOP_K:
            raise SoftTargetError("row 0 of the request, token 5: this engine has had enough")
        return super().score(rows, spec)


class TurnsNan(ZeroStudent):
    """Its weights are lost before the fourth step."""

    def train_step(self, rows: pa.Table, step: int, wait_s: float, wish: Wish) -> StepResult:
        if step == 3:
            with torch.no_grad():
                next(self._engine.module.parameters()).fill_(float("nan"))
        return super().train_step(rows, step, wait_s, wish)


def test_more_cpus_than_there_are(make_job: Callable[..., Any], distil: Distil) -> None:
    job = make_job({"teacher.replicas": 3, "teacher.cpus_per_shard": 2.0})
    started = time.monotonic()
    with pytest.raises(
        ResourceError, match=r"3 teacher replicas x 2\.01 .* = .*has 4 CPUs"
    ) as told:
        distil(job)
    assert time.monotonic() - started < 10, "fails at once"
    assert "CPUs are" in str(told.value)
    assert "lower teacher.replicas" in str(told.value)


def test_gpus_where_there_are_none(make_job: Callable[..., Any], distil: Distil) -> None:
    with pytest.raises(ResourceError, match=r"GPU: 1 student ranks x 1 = 1; .*0 GPUs"):
        distil(make_job({"student.device": "gpu"}))


def test_a_file_where_runs_should_go(
    make_job: Callable[..., Any], distil: Distil, tmp_path: Path
) -> None:
    (tmp_path / "in_the_way").write_text("not a directory")
    with pytest.raises(StorageError, match=r"in_the_way.*cannot be written.*storage_path"):
        distil(make_job({"storage_path": str(tmp_path / "in_the_way")}))


def test_other_vocabulary(
    make_job: Callable[..., Any],
    distil: Distil,
    one_teacher: None,
    student_dir: Path,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(student_dir, other)
    text = (other / "tokenizer.json").read_text()
    tree = json.loads(text)
    vocabulary = tree["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="2 ids differ") as told:
        distil(make_job({"student.init": {"start": "pretrained", "model": str(other)}}))
    assert "id 100:" in str(told.value)
    assert "id 101:" in str(told.value)


@pytest.mark.parametrize(
    ("side", "field"), [("student", "student.init.model"), ("teacher", "teacher.model")]
)
def test_model_without_weights(
    side: str,
    field: str,
    make_job: Callable[..., Any],
    distil: Distil,
    one_teacher: None,
    student_dir: Path,
    tmp_path: Path,
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(student_dir, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelError, match="weights") as told:
        distil(make_job({field: str(bare)}))
    assert str(told.value).startswith(side)
    assert str(bare) in str(told.value)


def test_rows_longer_than_the_context(
    make_job: Callable[..., Any], distil: Distil, one_teacher: None
) -> None:
    with pytest.raises(ModelError, match=r"sequence_length_tokens: 512 .*context of 256 tokens"):
        distil(make_job({"data.sequence_length_tokens": 512}))


def test_empty_corpus(
    make_job: Callable[..., Any], distil: Distil, one_teacher: None, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    job = make_job({"data.corpus.source": str(empty)})
    with pytest.raises(CorpusError, match=r"data\.corpus\.source: .*empty\.jsonl.* no documents"):
        distil(job)
    assert not (Path(job.storage_path) / job.name / "data").exists()


def test_broken_line_stops(
    make_job: Callable[..., Any],
    distil: Distil,
    one_teacher: None,
    corpus_file: Path,
    tmp_path: Path,
) -> None:
    job = make_job({"data.corpus.source": str(_with_broken_lines(corpus_file, tmp_path))})
    with pytest.raises(CorpusError, match=r"broken\.jsonl:3"):
        distil(job)


@pytest.mark.slow
def test_bad_records_are_skipped_and_nan_stops_the_run(
    make_job: Callable[..., Any],
    distil: Distil,
    one_teacher: None,
    corpus_file: Path,
    tmp_path: Path,
) -> None:
    from raykd.pipeline.teacher import Parts

    job = make_job(
        {
            "name": "nan",
            "data.corpus.source": str(_with_broken_lines(corpus_file, tmp_path)),
            "data.corpus.on_bad_record": "skip",
            "train.max_steps": 6,
        }
    )
    with pytest.raises(DivergenceError, match=r"step 4 \(rows 12 to 15\).*last checkpoint is good"):
        distil(job, parts=Parts(student_class=TurnsNan))
    root = Path(job.storage_path) / "nan"
    assert checkpoint_steps(root) == [2]
    assert [step["step"] for step in read_steps(root)] == [1, 2, 3]
    assert not (root / "student").exists()
    assert not (root / "report.json").exists()
    skipped = (root / "logs" / "bad_records.jsonl").read_text().splitlines()
    assert len(skipped) == 2
    assert ":3" in skipped[0]
    _check_other_exits(root, job)


def _check_other_exits(root: Path, job: Any) -> None:
    """A run that failed can be exported from its last good checkpoint, and is not begun anew."""
    from raykd.pipeline.later import export_run
    from raykd.pipeline.run_dir import claim

    directory, steps = export_run(root, None)
    assert (directory / "model.safetensors").is_file()
    assert steps == 2
    with pytest.raises(StorageError, match="holds a run already"):
        claim(job, resume=False)


@pytest.mark.slow
def test_teacher_that_raises(make_job: Callable[..., Any], distil: Distil) -> None:
    from ray import serve

    from raykd.pipeline.teacher import Parts

    job = make_job({"name": "refused", "soft_targets.top_k": TRAINING_TOP_K})
    with pytest.raises(
        TeacherError,
        match=r"rows \d+ to \d+ .*row 0 of the request, token 5: this engine has had enough "
        r"\(replica \w+ on node [\d.]+\)",
    ):
        distil(job, parts=Parts(engine_class=Raises))
    assert not checkpoint_steps(Path(job.storage_path) / "refused")
    assert "raykd-refused" not in serve.status().applications


@pytest.mark.slow
def test_teacher_that_does_not_start(make_job: Callable[..., Any], distil: Distil) -> None:
    from raykd.pipeline.teacher import Parts

    job = make_job({"name": "stillborn"})
    with pytest.raises(TeacherError, match="no such accelerator"):
        distil(job, parts=Parts(engine_class=NeverStarts))
    assert issubclass(TeacherError, RaykdError)


class NeverStarts(TransformersEngine):
    """As an engine whose device is missing."""

    def __init__(self, *_: Any) -> None:
        raise RuntimeError("no such accelerator")


def _with_broken_lines(corpus_file: Path, directory: Path) -> Path:
    lines = corpus_file.read_text().splitlines()
    lines[2] = '{"text": "the river'
    lines[40] = '{"words": "no text here"}'
    broken = directory / "broken.jsonl"
    broken.write_text("\n".join(lines) + "\n")
    return broken
