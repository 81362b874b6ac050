"""What a run looks at, and keeps apart, where its teacher is behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.endpoint.spend import SpendCapError
from raykd.errors import JobError
from raykd.models.load import ModelSource
from raykd.pipeline import behind_endpoint, kept, nodes
from raykd.pipeline.anchor import anchored

MakeJob = Callable[..., Any]


@pytest.fixture
def job(make_job: MakeJob) -> Callable[..., Any]:
    def make(**endpoint: Any) -> Any:
        return make_job(
            {
                "method": "sequence",
                "loss": {},
                "generation": {},
                "teacher": {
                    "engine": "openai",
                    "model": "parrot",
                    "endpoint": {"base_url": "http://vllm:8000/v1", **endpoint},
                },
            }
        )

    return make


@pytest.fixture
def on_nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """A cluster whose nodes say whether they have the variable."""

    def make(answers: dict[str, Any]) -> None:
        alive = [
            {"NodeID": name, "NodeManagerAddress": name, "Labels": {"disk": "large"}}
            for name in answers
        ]
        alive[-1]["Labels"] = {}
        monkeypatch.setattr(nodes, "alive", lambda: alive)
        monkeypatch.setattr(
            nodes,
            "on_every_node",
            lambda *_: {nodes.name_of(node): answers[node["NodeID"]] for node in alive},
        )

    return make


def test_without_a_key_no_node_is_asked(job: Any) -> None:
    finding = behind_endpoint.check(job())
    assert finding.ok
    assert "parrot at http://vllm:8000/v1, a local or private address" in finding.text
    assert "cost is not counted" in finding.text


def test_terms_and_cap_are_told(job: Any) -> None:
    finding = behind_endpoint.check(
        job(
            base_url="https://api.example.com/v1",
            terms_accepted=True,
            price_per_million_tokens={"input": 1, "output": 2},
            max_cost_usd=12.5,
        )
    )
    assert "whose terms the job says allow training" in finding.text
    assert "at most 12.5 USD" in finding.text


def test_every_node_that_may_ask_has_the_key(
    job: Any, on_nodes: Callable[[dict[str, Any]], None]
) -> None:
    on_nodes({"a": True, "b": False, "c": RuntimeError("gone"), "d": True})
    with pytest.raises(JobError) as caught:
        behind_endpoint.require(job(api_key_env="PARROT_KEY"))
    assert "PARROT_KEY is not set on b/b, c/c" in str(caught.value)
    on_nodes({"a": True, "b": True})
    behind_endpoint.require(job(api_key_env="PARROT_KEY"))


def test_only_nodes_with_the_tasks_labels_need_it(
    make_job: MakeJob, job: Any, on_nodes: Callable[[dict[str, Any]], None]
) -> None:
    on_nodes({"a": True, "b": False})
    given = job(api_key_env="PARROT_KEY")
    with pytest.raises(JobError, match="not set on b/b"):
        behind_endpoint.require(given)
    stream = given.stream.model_copy(update={"labels": {"disk": "large"}})
    behind_endpoint.require(given.model_copy(update={"stream": stream}))


def test_a_missing_package_is_named(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind_endpoint, "find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"pip install 'raykd\[openai\]'"):
        behind_endpoint.require(job())


def test_other_teachers_need_nothing(make_job: MakeJob) -> None:
    behind_endpoint.require(make_job())


def test_what_decides_the_answers_is_the_identity(job: Any) -> None:
    anywhere = ModelSource("/nowhere")
    plain = behind_endpoint.teacher_identity(job(), anywhere)
    assert plain == behind_endpoint.teacher_identity(job(max_concurrent_requests=99), anywhere)
    others = [
        behind_endpoint.teacher_identity(job(**change), anywhere)
        for change in (
            {"base_url": "http://other:8000/v1"},
            {"extra_body": {"reasoning_effort": "low"}},
            {"logprobs": True},
            {"send_seed": False},
        )
    ]
    assert len({plain, *others}) == 5
    assert plain.startswith("http://vllm:8000/v1")


def test_its_soft_targets_are_in_no_store(job: Any, make_job: MakeJob) -> None:
    assert kept.location_of(make_job()) is not None
    assert kept.location_of(job()) is None


def test_its_models_name_is_no_path(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parrot").mkdir()
    monkeypatch.chdir(tmp_path)
    assert anchored(job(), in_copy=False).teacher.model == "parrot"


def test_the_cap_says_what_is_left() -> None:
    left = SimpleNamespace(lacking=7, of=30)
    with (
        pytest.raises(SpendCapError, match=r"^at 1 USD\. 7 of 30 completions are left$"),
        behind_endpoint.saying_what_is_left(lambda: left),
    ):
        raise SpendCapError("at 1 USD")


def test_there_is_nothing_to_probe(job: Any) -> None:
    from raykd.pipeline.probe import Size, probe_job

    with pytest.raises(JobError, match=r"openai cannot score, which `raykd probe` needs"):
        probe_job(job(), None, Size())  # type: ignore[arg-type]
