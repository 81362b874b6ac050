"""What teachers of slices may be, and may be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from raykd.config.job import Job
from raykd.config.load import dump_job
from raykd.config.of_slices import OfSliceConfig, shared_models, teacher_numbers

OTHER = {"model": "owner/code"}
SLICED = {"source": "c.jsonl", "columns": {"text": "text", "slice": "kind"}}
GOOD = {"data.corpus": SLICED, "teacher.of_slices": {"code": OTHER}}


def test_models_that_slices_share_are_one_teacher_whatever_the_order() -> None:
    code, law = OfSliceConfig(model="a"), OfSliceConfig(model="b")
    of_slices = {"sql": code, "law": law, "code": code}
    numbers = {"code": 1, "sql": 1, "law": 2}
    for names in (["sql", "law", "code"], ["law", "code", "sql"]):
        ordered = {name: of_slices[name] for name in names}
        assert teacher_numbers(ordered) == numbers
        assert [one.slices for one in shared_models(ordered)] == [("code", "sql"), ("law",)]
    other_revision = OfSliceConfig(model="a", revision="b" * 40)
    assert teacher_numbers({"code": code, "sql": other_revision}) == {"code": 1, "sql": 2}


def test_without_slices_there_is_one_teacher(make_job: Callable[..., Any]) -> None:
    assert make_job().teacher.of_slices == {}
    assert teacher_numbers({}) == {}


def test_a_job_file_brings_them_back(make_job: Callable[..., Any]) -> None:
    job = make_job(GOOD)
    assert Job.model_validate(yaml.safe_load(dump_job(job))) == job


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher.of_slices": {"code": {}}}, "model"),
        ({"teacher.of_slices": {"": OTHER}}, "a slice without a name"),
        ({"teacher.of_slices": {"code": {**OTHER, "weight": 0.5}}}, "weight"),
        ({"teacher.engine": "vllm"}, "of_slices is for `engine: transformers`"),
        ({"teacher.mixed_in": [{**OTHER, "weight": 0.5}]}, "remove one of the two"),
        ({"soft_targets": {"codec": "hidden"}}, "choose top_k, sampled or full"),
        ({"soft_targets": {"codec": "auto"}}, "choose top_k, sampled or full"),
        ({"representations": {"hidden": {}}}, "`representations` asks one model"),
        ({"method": "sequence", "generation": {}, "loss": {}}, "`method: sequence` asks one model"),
        ({"generation": {}}, "`generation` asks one model"),
        ({"loss.alpha": 1.0}, "no teacher is learned from"),
        ({"data.corpus": {"source": "c.jsonl"}}, r"`data\.corpus\.columns\.slice`"),
        ({"teacher.of_slices": {}}, r"data\.corpus\.columns\.slice: nothing looks at it"),
        (
            {
                "data.corpus": {"source": "c.jsonl"},
                "teacher.of_slices": {},
                "evaluation.sets": {"more": SLICED},
            },
            r"evaluation\.sets\.more\.columns\.slice: nothing looks at it",
        ),
    ],
)
def test_what_they_cannot_be(
    changes: dict[str, Any], said: str, make_job: Callable[..., Any]
) -> None:
    make_job(GOOD)
    with pytest.raises((ValidationError, ValueError), match=said):
        make_job({**GOOD, **changes})


def test_a_classifier_has_one_teacher(make_job: Callable[..., Any]) -> None:
    classifier = {
        "method": "classifier",
        "classifier": {"task": "single_label", "labels": ["a", "b"]},
        "data.packing": "pad",
        "data.long_documents": "cut",
        "soft_targets": {},
    }
    plain = {"source": "c.jsonl", "columns": {"text": "text"}}
    make_job({**classifier, "data.corpus": plain})
    with pytest.raises(ValidationError, match="`method: classifier` asks one model"):
        make_job({**classifier, **GOOD})
    with pytest.raises(ValidationError, match=r"columns\.slice: nothing looks at it"):
        make_job({**classifier, "data.corpus": SLICED})
