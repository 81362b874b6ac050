"""Which endpoints a job may name, and what it has to say of them."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.config.endpoint import is_local
from raykd.config.job import Job
from raykd.config.load import dump_job, parse_job
from raykd.errors import JobError

HOSTED = "https://api.example.com/v1"
PLAIN = {"base_url": "http://api.example.com/v1", "terms_accepted": True, "api_key_env": "K"}


def job(tree: dict[str, Any] | None = None, **endpoint: Any) -> Job:
    teacher = {"engine": "openai", "model": "m", "endpoint": {"base_url": "http://localhost:1/v1"}}
    teacher["endpoint"] = {**teacher["endpoint"], **endpoint}  # type: ignore[dict-item]
    whole: dict[str, Any] = {
        "name": "x",
        "storage_path": "runs",
        "method": "sequence",
        "generation": {},
        "data": {"corpus": {"source": "a", "columns": {"text": "t"}}, "sequence_length_tokens": 8},
        "teacher": teacher,
        "student": {"init": {"start": "pretrained", "model": "m"}},
    }
    for key, value in (tree or {}).items():
        whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_job(whole, {}, "job.yaml")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("192.168.0.7", True),
        ("169.254.1.1", True),
        ("vllm", True),
        ("vllm.models.svc", True),
        ("vllm.models.svc.cluster.local", True),
        ("LOCALHOST", True),
        ("8.8.8.8", False),
        ("api.openai.com", False),
        ("localhost.evil.com", False),
        ("svc.example.org", False),
    ],
)
def test_which_hosts_are_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_a_resolved_job_can_be_read_again() -> None:
    import yaml

    first = job(base_url=HOSTED + "/", terms_accepted=True, api_key_env="EXAMPLE_KEY")
    assert Job.model_validate(yaml.safe_load(dump_job(first))) == first


def test_a_hosted_model_needs_a_persons_word() -> None:
    with pytest.raises(JobError, match="terms often forbid") as caught:
        job(base_url=HOSTED)
    assert "terms_accepted: true" in str(caught.value)
    assert job(base_url=HOSTED, terms_accepted=True).teacher.endpoint is not None


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ({"base_url": "localhost:8000/v1"}, "URL of http"),
        ({"base_url": "ftp://localhost/v1"}, "URL of http"),
        (PLAIN, "in clear"),
        ({"max_cost_usd": 1.0}, "needs `price_per_million_tokens"),
        ({"max_cost_usd": 0}, "greater than 0"),
        ({"extra_body": {"seed": 3}}, "raykd sends this itself"),
        ({"api_key": "sk-12345"}, "did you mean 'api_key_env'"),
    ],
)
def test_refused_endpoints(endpoint: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        job(**endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        {"api_key_env": "sk-canary"},
        {"api_key": "sk-canary"},
        {"base_url": "https://me:sk-canary@api.example.com/v1"},
        {"base_url": "https://api.example.com/v1?key=sk-canary"},
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(endpoint: dict[str, Any]) -> None:
    with pytest.raises(JobError) as caught:
        job(terms_accepted=True, **endpoint)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"teacher": {"endpoint": None}}, "say where"),
        ({"teacher": {"engine": "transformers"}}, "endpoint is for `engine: openai`"),
        ({"teacher": {"tensor_parallel": 2}}, "tensor_parallel: for a model that raykd runs"),
        ({"teacher": {"device": "cpu"}}, "device: for a model that raykd runs"),
        ({"student": {"init": {"start": "teacher", "layers": 2}}}, "start: teacher takes weights"),
        ({"student": {"init": {"start": "config", "config": {}}}}, "start: config takes weights"),
        ({"method": "logits"}, "openai cannot score"),
        ({"evaluation": {"every_steps": 5}}, "evaluation.every_steps measures"),
        ({"soft_targets": {"store_mode": "only"}}, "gives text only"),
        (
            {"generation": {"num_samples": 4, "keep_best": 1, "sampling": {"temperature": 1}}},
            "teacher.endpoint.logprobs: true",
        ),
    ],
)
def test_what_an_endpoint_cannot_give(tree: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError, match=says):
        job(tree)
