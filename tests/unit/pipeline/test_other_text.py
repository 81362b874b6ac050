"""Text that is no part of the job, read as the job's corpus is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.corpus import ColumnsConfig
from raykd.errors import JobError
from raykd.pipeline.other_text import corpus_like_the_jobs

PAIR = {"data.corpus.columns": {"prompt": "question", "completion": "answer"}}


def test_read_as_the_jobs(make_job: Callable[..., Any], tmp_path: Path) -> None:
    job = make_job({"data.corpus.on_bad_record": "skip", "data.corpus.text_unit": "line"})
    found = corpus_like_the_jobs(job, tmp_path / "x.txt", "text")
    assert (found.source, found.format) == (str(tmp_path / "x.txt"), "text")
    assert (found.on_bad_record, found.text_unit, found.columns.text) == ("skip", "line", "text")
    assert found.max_documents is None


def test_a_column_of_another_name(make_job: Callable[..., Any]) -> None:
    found = corpus_like_the_jobs(make_job(PAIR), Path("x.jsonl"), "auto", ["prompt=input"])
    assert (found.columns.prompt, found.columns.completion) == ("input", "answer")


def test_another_layout(make_job: Callable[..., Any]) -> None:
    found = corpus_like_the_jobs(make_job(PAIR), Path("x.jsonl"), "auto", ["messages=turns"])
    assert found.columns.names == ["turns"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["body"], "must be KEY=NAME with KEY one of text, text_pair, label, prompt"),
        (["group=x"], "must be KEY=NAME"),
        (["text="], "must be KEY=NAME"),
        (["text=a", "messages=b"], "choose one layout"),
        (["prompt=a"], "a prompt alone has nothing to measure.*--column completion=NAME"),
    ],
)
def test_wrong_columns(make_job: Callable[..., Any], columns: list[str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        corpus_like_the_jobs(make_job(), Path("x.jsonl"), "auto", columns)


def test_text_without_labels(make_job: Callable[..., Any]) -> None:
    job = make_job()
    columns = ColumnsConfig(text="body", label="kind")
    corpus = job.data.corpus.model_copy(update={"columns": columns})
    job = job.model_copy(update={"data": job.data.model_copy(update={"corpus": corpus})})
    assert corpus_like_the_jobs(job, Path("x.jsonl"), "auto").columns.label == "kind"
    bare = corpus_like_the_jobs(job, Path("x.jsonl"), "auto", ["label="])
    assert (bare.columns.text, bare.columns.label) == ("body", None)


def test_slices_are_the_jobs_unless_told(make_job: Callable[..., Any]) -> None:
    sliced = {
        "data.corpus.columns": {"text": "body", "slice": "kind"},
        "teacher.of_slices": {"code": {"model": "owner/code"}},
    }

    def slice_of(*columns: str) -> str | None:
        found = corpus_like_the_jobs(make_job(sliced), Path("x.jsonl"), "auto", columns)
        return found.columns.slice

    assert slice_of() == "kind"
    assert slice_of("text=t") == "kind"
    assert slice_of("messages=m", "slice=topic") == "topic"
    assert slice_of("slice=") is None
    with pytest.raises(JobError, match=r"--column slice=topic: nothing looks at it"):
        corpus_like_the_jobs(make_job(), Path("x.jsonl"), "auto", ["slice=topic"])


def test_wrong_format(make_job: Callable[..., Any]) -> None:
    with pytest.raises(JobError, match="--format csv"):
        corpus_like_the_jobs(make_job(), Path("x.csv"), "csv")
