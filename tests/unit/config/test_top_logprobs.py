"""What a job may say whose soft targets an endpoint tells."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from raykd.config.job import Job
from raykd.config.load import dump_job, parse_job
from raykd.errors import JobError


def job(tree: dict[str, Any] | None = None, told: Any = 20) -> Job:
    endpoint = {"base_url": "http://localhost:1/v1", "top_logprobs": told}
    whole: dict[str, Any] = {
        "name": "x",
        "storage_path": "runs",
        "generation": {},
        "data": {"corpus": {"source": "a", "columns": {"text": "t"}}, "sequence_length_tokens": 8},
        "teacher": {"engine": "openai", "model": "m", "endpoint": endpoint},
        "student": {"init": {"start": "pretrained", "model": "m"}},
    }
    for key, value in (tree or {}).items():
        nested = isinstance(value, dict) and isinstance(whole.get(key, {}), dict)
        whole[key] = {**whole.get(key, {}), **value} if nested else value
    return parse_job(whole, {}, "job.yaml")


def test_as_many_as_are_told_are_kept_where_no_number_is_said() -> None:
    found = job()
    assert (found.soft_targets.top_k, found.evaluation.top_k) == (20, 20)
    assert found.targets_are_given
    assert found.learns_from_logits
    assert not found.needs_teacher_for_training
    said = job({"soft_targets": {"top_k": 5}, "evaluation": {"top_k": 7, "every_steps": 3}})
    assert (said.soft_targets.top_k, said.evaluation.top_k) == (5, 7)
    assert Job.model_validate(yaml.safe_load(dump_job(found))) == found


def test_other_jobs_keep_their_widths() -> None:
    found = job({"teacher": {"engine": "transformers", "endpoint": None}})
    assert (found.soft_targets.top_k, found.evaluation.top_k) == (64, 256)
    assert not found.targets_are_given
    assert found.needs_teacher_for_training


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"method": "sequence"}, "`method: sequence` they would be paid for"),
        ({"loss": {"alpha": 1}}, "`loss.alpha: 1` they would be paid for"),
        ({"generation": None}, "scores no text of others"),
        (
            {
                "generation": {
                    "as_chat": True,
                    "keep_examples": True,
                    "examples": [{"user": "a", "assistant": "b"}],
                }
            },
            "keep_examples: the examples' answers",
        ),
        ({"representations": {"hidden": {"weight": 1.0}}}, "no inner states|cannot represent"),
        ({"soft_targets": {"codec": "full"}}, "codec: full: an endpoint tells the likeliest"),
        ({"soft_targets": {"codec": "auto"}}, "codec: auto: an endpoint tells the likeliest"),
        ({"soft_targets": {"tail": False}}, "tail: false: an endpoint"),
        ({"soft_targets": {"top_k": 21}}, r"soft_targets\.top_k: 21 is more than the 20"),
        ({"evaluation": {"top_k": 64}}, r"evaluation\.top_k: 64 is more than the 20"),
        ({"soft_targets": {"store_mode": "off"}}, "store_mode: off: what an endpoint tells"),
        ({"soft_targets": {"store_mode": "fill"}}, "store_mode: fill: what an endpoint tells"),
        ({"loss": {"temperature": 2}}, "the tail at 2 is a sum over the whole vocabulary"),
        ({"soft_targets": {"temperatures": [4.0]}}, "the tail at 4"),
        ({"loss": {"divergence": "reverse_kl"}}, "reverse_kl punishes mass"),
        ({"student": {"init": {"start": "teacher", "layers": 2}}}, "start: teacher takes weights"),
    ],
)
def test_what_they_cannot_give(tree: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        job(tree)


@pytest.mark.parametrize("told", [0, -3, "many"])
def test_the_number_is_one(told: Any) -> None:
    with pytest.raises(JobError, match="top_logprobs"):
        job(told=told)


def test_logits_without_them_names_them() -> None:
    with pytest.raises(JobError, match=r"openai cannot score.*top_logprobs: 20"):
        job(told=None)


def test_they_tell_mean_log_probabilities_too() -> None:
    best = {"num_samples": 4, "keep_best": 1, "sampling": {"temperature": 1}}
    assert job({"generation": best}).generation is not None
