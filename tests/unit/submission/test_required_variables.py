from __future__ import annotations

from typing import Any

import pytest

from raykd.errors import ResourceError
from raykd.submission import variables


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each node answers when it is asked which variables it lacks."""
    answers: dict[str, Any] = {}
    monkeypatch.setattr(variables.nodes, "on_every_node", lambda *_: answers)
    return answers


def test_none_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(variables.nodes, "on_every_node")
    variables.require_everywhere([])


def test_all_are_there(monkeypatch: pytest.MonkeyPatch, nodes: dict[str, Any]) -> None:
    monkeypatch.setenv("A_NAME", "x")
    nodes["10.0.0.1/ab"] = []
    variables.require_everywhere(["A_NAME"])


def test_an_empty_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_NAME", "")
    monkeypatch.setenv("B_NAME", "b")
    monkeypatch.delenv("C_NAME", raising=False)
    assert variables.missing(["A_NAME", "B_NAME", "C_NAME"]) == ["A_NAME", "C_NAME"]


def test_where_they_are_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, nodes: dict[str, Any]
) -> None:
    monkeypatch.setenv("A_NAME", "x")
    nodes |= {"10.0.0.1/ab": [], "10.0.0.2/cd": ["A_NAME"]}
    with pytest.raises(ResourceError, match=r"^--require-env: node 10\.0\.0\.2/cd lacks A_NAME\. "):
        variables.require_everywhere(["A_NAME"])
    monkeypatch.delenv("A_NAME")
    with pytest.raises(ResourceError, match=r"the driver lacks A_NAME; node 10\.0\.0\.2/cd lacks"):
        variables.require_everywhere(["A_NAME"])


def test_a_node_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, nodes: Any) -> None:
    monkeypatch.setenv("A_NAME", "x")
    nodes["10.0.0.1/ab"] = ResourceError("no answer within 180 s")
    with pytest.raises(ResourceError, match=r"node 10\.0\.0\.1/ab did not answer"):
        variables.require_everywhere(["A_NAME"])
