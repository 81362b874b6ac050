"""From records of a corpus to prompts, and from what is learned to rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import CorpusError
from raykd.generation.requests import Request
from raykd.pipeline.prompting import requests_of

User = {"role": "user", "content": "2 + 2?"}
Said = {"role": "assistant", "content": "4"}
System = {"role": "system", "content": "be brief"}


@pytest.fixture
def asked(make_job: Callable[..., Any], tmp_path: Path) -> Callable[..., list[Request]]:
    def ask(records: list[Any], columns: dict[str, str], **more: Any) -> list[Request]:
        source = tmp_path / "prompts.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        corpus = {"source": str(source), "columns": columns, **more.pop("corpus", {})}
        job = make_job({"data.corpus": corpus, "generation": more})
        return requests_of(job, tmp_path / "bad.jsonl")

    return ask


@pytest.mark.parametrize(
    ("messages", "asked_with", "gold"),
    [
        ([User], [User], None),
        ([System, User, Said], [System, User], "4"),
        ([User, Said, User, Said, User], [User, Said, User, Said, User], None),
        ([User, Said, User, Said], [User, Said, User], "4"),
    ],
)
def test_a_chat_is_asked_up_to_the_last_user_turn(
    messages: list[Any], asked_with: list[Any], gold: str | None, asked: Any
) -> None:
    [one] = asked([{"m": messages}], {"messages": "m"})
    assert one.messages == asked_with
    assert one.gold == gold
    assert one.text is None


def test_texts_and_prompts(asked: Any) -> None:
    [one] = asked([{"t": "once"}], {"text": "t"})
    assert (one.text, one.messages, one.gold) == ("once", None, None)
    [one] = asked([{"q": "2 + 2?", "a": "4"}], {"prompt": "q", "completion": "a"})
    assert (one.text, one.gold) == ("2 + 2?", "4")
    [one] = asked([{"q": "2 + 2?"}], {"prompt": "q"}, as_chat=True)
    assert (one.text, one.messages, one.gold) == (None, [User], None)


def test_groups_of_the_corpus(asked: Any) -> None:
    records = [{"q": "a", "g": 3}, {"q": "b", "g": 3}, {"q": "a", "g": 4}]
    found = asked(records, {"prompt": "q", "group": "g"})
    assert [one.group for one in found] == [3, 3, 4]
    assert [one.prompt for one in found] == [0, 1, 2]


def test_a_chat_without_a_question_is_a_bad_record(asked: Any, tmp_path: Path) -> None:
    records = [{"m": [User]}, {"m": [System, Said]}]
    with pytest.raises(CorpusError, match=r"prompts.jsonl:2: the user says nothing in it"):
        asked(records, {"messages": "m"})
    found = asked(records, {"messages": "m"}, corpus={"on_bad_record": "skip"})
    assert len(found) == 1
    assert "the user says nothing" in (tmp_path / "bad.jsonl").read_text()
