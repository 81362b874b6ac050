"""`raykd eval` from its request to its report, with the cluster's tasks run in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raykd.config.load import dump_job
from raykd.data.prepare import prepare
from raykd.errors import JobError, StorageError
from raykd.evaluation.gates import Gate
from raykd.evaluation.harness import Harness
from raykd.evaluation.report import read_report
from raykd.evaluation.report_data import ModelFacts
from raykd.models.load import load_tokenizer
from raykd.pipeline import later, outcome
from raykd.pipeline.later import Evaluation, evaluate_run
from raykd.pipeline.models import Models, find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine
from raykd.telemetry.progress import Progress


class OwnTeacher:
    """The engine itself in the place of its service."""

    def __init__(self, job: Any, models: Models, _: Any) -> None:
        self.client = TransformersEngine(
            EngineSpec(models.teacher, "fp32", False, 1, 256, 64), ShardPlace(0, 1, "", 0)
        )
        self.facts = ModelFacts(name="teacher", parameters=1, bytes=1, dtype="fp32")
        self.is_stopped = False

    def wait(self, *_: Any) -> None:
        """It answers at once."""

    def stop(self) -> None:
        self.is_stopped = True


def scorer(client: TransformersEngine, spec: Any, which: int) -> Callable[[Any], Any]:
    async def ask(rows: Any) -> Any:
        return client.score(rows, spec)

    return ask


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[OwnTeacher]:
    """Tasks run here, and the teachers that were started."""
    started: list[OwnTeacher] = []

    def start(*arguments: Any) -> OwnTeacher:
        started.append(OwnTeacher(*arguments))
        return started[-1]

    monkeypatch.setattr(later.cluster, "run_remote", lambda do, *arguments, **_: do(*arguments))
    monkeypatch.setattr(later, "start_teacher", start)
    monkeypatch.setattr(later, "Scorer", scorer)
    monkeypatch.setattr(later.resources, "require", lambda *_: None)
    monkeypatch.setattr(later.waiting, "watched", lambda *_: nullcontext())
    monkeypatch.setattr(outcome, "_hardware", lambda _: {})
    return started


@pytest.fixture
def run(make_job: Callable[..., Any], student_dir: Path) -> RunDirectory:
    """A run with its rows and an exported student, which learned nothing."""
    job = make_job({"evaluation.heldout_fraction": 0.2, "evaluation.max_rows": 8})
    run = RunDirectory.of(job)
    run.root.mkdir(parents=True)
    run.job_file.write_text(dump_job(job))
    models = find_models(job, run)
    prepare(job, load_tokenizer(models.teacher, "teacher.model"), run.data, run.logs)
    shutil.copytree(student_dir, run.student)
    return run


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    file = tmp_path / "production.jsonl"
    lines = [{"text": f"the river {'moves ' * n}slow", "n": n % 2} for n in range(12)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def progress() -> Progress:
    return Progress(Console(quiet=True), "tiny")


def test_a_sample_is_measured(here: list[OwnTeacher], run: RunDirectory, sample: Path) -> None:
    gates = [Gate("agreement", 0.0, True), Gate("perplexity", 1.0, False)]
    asked = Evaluation(
        sample, "auto", "production", slices=["n"], max_rows=10, batch=2, gates=gates
    )
    directory, report = evaluate_run(run.root, asked, progress())
    assert directory == run.root / "evaluations" / "production"
    assert read_report(directory) == report
    assert [teacher.is_stopped for teacher in here] == [True]
    assert set(report.models) == {"teacher", "untrained", "student"}
    assert report.data["production"]["rows"] == 12
    assert report.data["production"]["rows_measured"] == report.evaluation["production"].rows == 10
    found = report.inspections["production"]
    assert [gate.held for gate in found.gates] == [True, False]
    assert {table.by for table in found.slices} >= {"n"}
    # The sample is of the training text's words in an order of its own: nobody was taught it.
    assert found.drift is not None
    assert any(note.startswith("drift: ") for note in report.notes)


def test_an_engine_that_cannot_score_is_not_started(
    here: list[OwnTeacher], run: RunDirectory, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later.evaluating, "can_score", lambda _: False)
    asked = Evaluation(sample, "auto", "production", batch=0)
    _, report = evaluate_run(run.root, asked, progress())
    assert here == []
    assert set(report.models) == {"untrained", "student"}
    assert report.evaluation["production"].models["student"].kl_to_teacher is None


def test_refusals(here: list[OwnTeacher], run: RunDirectory, sample: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--name 'a/b'"):
        evaluate_run(run.root, Evaluation(sample, "auto", "a/b"), progress())
    asked = Evaluation(sample, "auto", "x", harness=Harness(("arc",)))
    models = SimpleNamespace(encoder=object())
    with pytest.raises(JobError, match="--lm-eval: its tasks are for models of text"):
        later._prepared(later.load_run_job(run.root), models, None, tmp_path, asked)
    asked = Evaluation(sample, "auto", "x", gates=[Gate("macro_f1", 0.5, True)])
    with pytest.raises(JobError, match="a model of text has no such figure"):
        evaluate_run(run.root, asked, progress())
    assert here == [], "nothing was started"
    shutil.rmtree(run.student)
    with pytest.raises(StorageError, match="no exported student"):
        evaluate_run(run.root, asked, progress())


def test_an_export_overwrites_nothing_of_others(run: RunDirectory, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    file = full / "mine"
    file.touch()
    with pytest.raises(StorageError, match="full is not empty; choose another --output"):
        later.export_run(run.root, full)
    with pytest.raises(StorageError, match="mine is a file; choose another --output"):
        later.export_run(run.root, file)
