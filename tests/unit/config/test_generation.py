"""What a job may say of generated text, and what it is told where it may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.job import Job
from raykd.config.load import dump_job, load_job
from raykd.errors import JobError
from raykd.generation import requirements

MakeJob = Callable[..., Job]
SEQUENCE: dict[str, Any] = {"method": "sequence", "loss": {}, "generation": {}}
PROMPTS = {"data.corpus.columns": {"prompt": "q"}}
PAIRS = {"data.corpus.columns": {"prompt": "q", "completion": "a"}}
CHATS = {"data.corpus.columns": {"messages": "m"}}


def test_a_sequence_learns_from_text_alone(make_job: MakeJob) -> None:
    job = make_job(SEQUENCE | PROMPTS)
    assert job.loss.alpha == 1
    assert not job.needs_teacher_for_training
    again = make_job(SEQUENCE | PROMPTS | {"loss": {"alpha": 1.0}})
    assert again == job


def test_soft_targets_of_generated_text(make_job: MakeJob) -> None:
    job = make_job({"generation": {"num_samples": 1}})
    assert job.method == "logits"
    assert job.loss.alpha == 0


def test_the_resolved_job_reads_as_the_same(
    make_job: MakeJob, write_job: Callable[..., Path]
) -> None:
    import yaml

    filters = [{"regex": {"must_match": "a"}}, {"math_verify": None}, {"json_schema": {}}]
    job = make_job(SEQUENCE | PAIRS | {"generation": {"filters": filters}})
    assert [one.name for one in job.generation.filters] == ["regex", "math_verify", "json_schema"]
    tree = yaml.safe_load(dump_job(job))
    assert [list(one) for one in tree["generation"]["filters"]] == [
        ["regex"],
        ["math_verify"],
        ["json_schema"],
    ]
    assert load_job(write_job(tree)) == job


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sequence"}, "generation: missing"),
        (SEQUENCE | {"loss": {"alpha": 0.5}}, "loss.alpha: 0.5 learns from"),
        (SEQUENCE | CHATS | {"generation": {"as_chat": True}}, "are chats already"),
        (
            SEQUENCE | PROMPTS | {"generation": {"system_prompt": "be kind"}},
            "generation.system_prompt: a plain text has no turns; set `as_chat: true`",
        ),
        (
            SEQUENCE | PROMPTS | {"generation": {"filters": [{"exact_match": {}}]}},
            "name its column as `data.corpus.columns.completion`",
        ),
        (PROMPTS, "`prompt` without `completion` has nothing to learn"),
        (
            {"evaluation.sets": {"other": {"source": "x", "columns": {"prompt": "q"}}}},
            "evaluation.sets.other.columns: `prompt` without",
        ),
        (SEQUENCE | {"generation": {"filters": [{}]}}, "a mapping of one name, of length"),
        (
            SEQUENCE | {"generation": {"filters": [{"length": {}, "regex": {}}]}},
            "gives no bound",
        ),
        (
            SEQUENCE
            | {
                "generation": {
                    "filters": [{"duplicates": {}, "regex": {"must_match": "a"}}],
                }
            },
            "found `regex` and `duplicates`",
        ),
        (
            SEQUENCE
            | {"generation": {"filters": [{"length": {"min_tokens": 9, "max_tokens": 3}}]}},
            "min_tokens (9) exceeds max_tokens (3)",
        ),
        (
            SEQUENCE | {"generation": {"filters": [{"regex": {"must_match": "("}}]}},
            "not a regular expression",
        ),
        (
            SEQUENCE | {"generation": {"filters": [{"json_schema": {"type": "objekt"}}]}},
            "not a JSON schema",
        ),
        (
            SEQUENCE | {"generation": {"filters": [{"language": {"allowed": ["english"]}}]}},
            "no ISO 639-1 code",
        ),
        (
            SEQUENCE | {"generation": {"filters": [{"agreement": {}}]}},
            "num_samples: 1 agrees with itself",
        ),
        (SEQUENCE | {"generation": {"num_samples": 2}}, "are all the same; raise the temperature"),
        (SEQUENCE | {"generation": {"keep_best": 1}}, "leaves nothing to choose"),
        (SEQUENCE | {"generation": {"keep_system_prompt": False}}, "changes nothing; remove it"),
        (SEQUENCE | CHATS | {"generation": {"system_prompt": []}}, "a system prompt is empty"),
        (SEQUENCE | {"generation": {"keep_examples": True}}, "without `examples` it changes"),
        (SEQUENCE | {"generation": {"filters": [{"lenght": {}}]}}, "did you mean 'length'?"),
    ],
)
def test_what_does_not_fit(
    changes: dict[str, Any],
    message: str,
    job_tree: dict[str, Any],
    write_job: Callable[..., Path],
) -> None:
    for path, value in changes.items():
        *sections, field = path.split(".")
        spot = job_tree
        for section in sections:
            spot = spot.setdefault(section, {})
        spot[field] = value
    with pytest.raises(JobError) as caught:
        load_job(write_job(job_tree))
    assert message in str(caught.value)
    assert "job.yaml:" in str(caught.value)


def test_missing_packages_are_named(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [
        {"math_verify": {}},
        {"language": {"allowed": ["en"]}},
        {"duplicates": {"near": 0.8}},
        {"duplicates": {}},
    ]
    job = make_job(SEQUENCE | PAIRS | {"generation": {"filters": filters}})
    monkeypatch.setattr(requirements, "find_spec", lambda name: object())
    assert requirements.missing(job.generation) is None
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert requirements.missing(job.generation) == (
        "generation.filters: math_verify needs math-verify, language needs lingua, duplicates "
        "needs datasketch; pip install 'raykd[filters]'"
    )
