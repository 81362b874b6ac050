"""`teacher.replicas`: a number, or a range that demand moves in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.job import Job
from raykd.config.load import dump_job, load_job, parse_job
from raykd.errors import JobError

MakeJob = Callable[..., Job]


@pytest.mark.parametrize(
    ("given", "least", "first", "most", "elastic"),
    [
        (1, 1, 1, 1, False),
        (3, 3, 3, 3, False),
        ({"max": 2}, 1, 1, 2, True),
        ({"min": 0, "max": 4}, 0, 1, 4, True),
        ({"min": 0, "max": 1}, 0, 1, 1, True),
        ({"min": 2, "max": 2}, 2, 2, 2, False),
    ],
)
def test_what_each_means(
    given: Any, least: int, first: int, most: int, elastic: bool, make_job: MakeJob
) -> None:
    teacher = make_job({"teacher.replicas": given}).teacher
    assert (teacher.min_replicas, teacher.first_replicas, teacher.max_replicas) == (
        least,
        first,
        most,
    )
    assert (teacher.elastic is not None) is elastic


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (0, r"a whole number of at least 1, or a range such as \{min: 1, max: 4\}; found 0"),
        (True, "a whole number of at least 1"),
        (1.5, "a whole number of at least 1.*found 1.5"),
        ("two", "a whole number of at least 1.*found 'two'"),
        ({"min": 3, "max": 2}, r"min \(3\) exceeds max \(2\)"),
        ({"min": -1, "max": 2}, "min: input should be greater than or equal to 0"),
        ({"min": 0, "max": 0}, "max: input should be greater than or equal to 1"),
        ({"min": 1}, "max: field required"),
        ({"max": 2, "most": 3}, "most: extra inputs"),
    ],
)
def test_what_is_refused(given: Any, complaint: str, job_tree: dict[str, Any]) -> None:
    job_tree["teacher"]["replicas"] = given
    with pytest.raises(JobError, match=rf"teacher\.replicas: .*{complaint}") as caught:
        parse_job(job_tree, {}, "job.yaml")
    assert len(str(caught.value).splitlines()) == 1, "one mistake, one complaint"


def test_a_file_and_back(
    job_tree: dict[str, Any], write_job: Callable[[dict[str, Any]], Path], tmp_path: Path
) -> None:
    job_tree["teacher"]["replicas"] = {"min": 0, "max": 3, "upscale_delay_s": 2}
    job = load_job(write_job(job_tree))
    assert job.teacher.elastic is not None
    assert job.teacher.elastic.upscale_delay_s == 2.0
    again = tmp_path / "again.yaml"
    again.write_text(dump_job(job))
    assert load_job(again) == job
    wider = load_job(again, ["teacher.replicas.max=5"])
    assert wider.teacher.max_replicas == 5
    assert load_job(again, ["teacher.replicas=2"]).teacher.elastic is None
