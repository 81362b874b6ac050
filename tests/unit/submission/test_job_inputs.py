from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import StorageError, SubmissionError
from raykd.submission.inputs import require_packed
from raykd.submission.packing import choose


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("texts/a.jsonl", "texts/b.txt", "models/m/config.json", "models/m/m.safetensors"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / ".gitignore").write_text("b.txt\n")
    return root


def test_absolute_paths_and_names_are_the_clusters(
    project: Path, make_job: Callable[..., Any]
) -> None:
    packed = choose(project, {})
    require_packed(make_job(), packed)
    require_packed(make_job({"teacher.model": "owner/name"}), packed)
    require_packed(make_job({"teacher.model": "package:pydoc_data"}), packed)
    require_packed(make_job({"data.corpus.source": "texts/*.jsonl"}), packed)
    require_packed(make_job({"soft_targets.store": "s3://bucket/kept"}), packed)


@pytest.mark.parametrize(
    ("field", "value", "missing"),
    [
        ("data.corpus.source", ["texts/*.jsonl", "texts/*.txt"], "texts/b.txt"),
        ("data.corpus.source", "texts", "texts/b.txt"),
        ("teacher.model", "models/m", "models/m/m.safetensors"),
    ],
)
def test_what_does_not_travel_is_named(
    project: Path, make_job: Callable[..., Any], field: str, value: Any, missing: str
) -> None:
    job = make_job({field: value, "data.corpus.format": "text"})
    with pytest.raises(SubmissionError, match=rf"^{field}: .* but {missing} does not travel"):
        require_packed(job, choose(project, {}))


def test_sets_and_students_are_looked_at_too(project: Path, make_job: Callable[..., Any]) -> None:
    packed = choose(project, {})
    job = make_job({"evaluation.sets": {"other": {"source": "texts/*.txt", "format": "text"}}})
    with pytest.raises(SubmissionError, match=r"^evaluation\.sets\.other\.source: 'texts/\*\.txt'"):
        require_packed(job, packed)
    job = make_job({"student.init": {"start": "pretrained", "model": "models/m"}})
    with pytest.raises(SubmissionError, match=r"^student\.init\.model: 'models/m'"):
        require_packed(job, packed)


def test_what_is_written_must_not_lie_in_the_copy(
    project: Path, make_job: Callable[..., Any]
) -> None:
    packed = choose(project, {})
    with pytest.raises(StorageError, match=r"^storage_path: 'runs' is relative"):
        require_packed(make_job({"storage_path": "runs"}), packed)
    with pytest.raises(StorageError, match=r"^soft_targets\.store: 'kept' is relative"):
        require_packed(make_job({"soft_targets.store": "kept"}), packed)
