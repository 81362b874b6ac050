from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import StorageError
from raykd.pipeline.anchor import anchored

MakeJob = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "work"
    (place / "texts").mkdir(parents=True)
    (place / "texts" / "a.txt").write_text("a")
    (place / "model").mkdir()
    monkeypatch.chdir(place)
    return place


def relative_job(make_job: MakeJob) -> Any:
    return make_job(
        {
            "storage_path": "runs",
            "data.corpus.source": ["texts/*.txt", "package:pydoc_data/topics.py"],
            "evaluation.sets": {"more": {"source": "texts/a.txt"}},
            "teacher.model": "model",
            "student.init": {"start": "pretrained", "model": "owner/name"},
        }
    )


def test_what_exists_here_becomes_absolute(here: Path, make_job: MakeJob) -> None:
    job = anchored(relative_job(make_job), in_copy=False)
    assert job.storage_path == str(here / "runs")
    assert job.data.corpus.source == [
        str(here / "texts/*.txt"),
        "package:pydoc_data/topics.py",
    ]
    assert job.evaluation.sets["more"].source == str(here / "texts/a.txt")
    assert job.teacher.model == str(here / "model")
    assert job.student.init.model == "owner/name"


def test_absolute_paths_stay(here: Path, make_job: MakeJob) -> None:
    assert anchored(make_job(), in_copy=False) == make_job()


def test_storage_in_a_copy_of_the_working_directory_is_refused(
    here: Path, make_job: MakeJob
) -> None:
    with pytest.raises(StorageError, match="--set storage_path=/shared/runs"):
        anchored(relative_job(make_job), in_copy=True)


def test_inputs_in_a_copy_stay_relative(here: Path, make_job: MakeJob) -> None:
    job = relative_job(make_job).model_copy(update={"storage_path": "/shared/runs"})
    assert anchored(job, in_copy=True) == job
