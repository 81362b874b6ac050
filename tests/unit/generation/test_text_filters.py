"""Filters that look at one completion by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.generation.samples import Sample

Verdicts = Callable[[dict[str, Any], list[Sample]], list[str | None]]
MakeSample = Callable[..., Sample]


def test_length_in_characters_and_tokens(sample: MakeSample, verdicts: Verdicts) -> None:
    given = [sample("12345", tokens=2), sample("1234567", tokens=9), sample("1", tokens=4)]
    assert verdicts({"length": {"min_characters": 5}}, given) == [
        None,
        None,
        "1 characters, fewer than 5",
    ]
    assert verdicts({"length": {"max_tokens": 4, "max_characters": 5}}, given) == [
        None,
        "7 characters, more than 5",
        None,
    ]
    assert verdicts({"length": {"min_tokens": 3}}, given)[0] == "2 tokens, fewer than 3"


def test_tokens_that_a_teacher_does_not_count(sample: MakeSample, verdicts: Verdicts) -> None:
    unknown = [sample("a text", tokens=None)]
    [found] = verdicts({"length": {"max_tokens": 9}}, unknown)
    assert found is not None
    assert "does not say" in found
    assert verdicts({"length": {"max_characters": 9}}, unknown) == [None]


def test_regular_expressions(sample: MakeSample, verdicts: Verdicts) -> None:
    given = [sample("the answer is 4"), sample("I cannot say: 4"), sample("four")]
    found = verdicts({"regex": {"must_match": r"\d", "must_not_match": "I cannot"}}, given)
    assert found[0] is None
    assert found[1] == "`must_not_match` is found in it: 'I cannot'"
    assert found[2] == "`must_match` is not found in it"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"name": "x", "age": 3}', None),
        ('<think>a name</think>\n{"name": "x", "age": 3}', None),
        ('{"name": "x", "age": -3}', "$.age"),
        ('{"name": "x"}', "$: 'age' is a required property"),
        ('Here you are: {"name": "x", "age": 3}', "no JSON"),
        ('```json\n{"name": "x", "age": 3}\n```', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_json(text: str, wrong: str | None, sample: MakeSample, verdicts: Verdicts) -> None:
    schema = {
        "type": "object",
        "required": ["name", "age"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    }
    [found] = verdicts({"json_schema": schema}, [sample(text)])
    assert (found is None) == (wrong is None)
    assert wrong is None or (found is not None and found.startswith(wrong))


def test_language(sample: MakeSample, verdicts: Verdicts) -> None:
    pytest.importorskip("lingua")
    given = [
        sample("The river carries the stones of the mountain down into the valley."),
        sample("Der Fluss trägt die Steine des Gebirges hinunter in das Tal."),
        sample("4 + 4 = 8"),
    ]
    assert verdicts({"language": {"allowed": ["en"]}}, given) == [
        None,
        "its language is de",
        "its language cannot be told",
    ]
    assert verdicts({"language": {"allowed": ["de", "en"]}}, given)[:2] == [None, None]
