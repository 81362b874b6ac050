"""What endpoints answer, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raykd.endpoint.answer import Answer, NoAnswer, read_answer
from tests.endpoint_server import chat


def read(tree: Any) -> Answer:
    return read_answer(json.dumps(tree))


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "refused"),
        ("tool_calls", "malformed"),
        ("a word of its own", "malformed"),
        (None, "stop"),
        (7, "malformed"),
    ],
)
def test_ends(said: Any, means: str) -> None:
    assert read(chat("yes", finish_reason=said)).finish_reason == means


def test_a_refusal_is_one_whatever_the_end_says() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    assert read(chat(None, message=message)) == Answer(None, "refused", 10, 5)


def test_an_empty_completion_is_empty() -> None:
    assert read(chat("")) == Answer("", "stop", 10, 5)


def test_no_completion_at_all_is_malformed() -> None:
    assert read(chat(None)).finish_reason == "malformed"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_in_its_own_field_goes_before_the_completion(name: str) -> None:
    message = {"role": "assistant", "content": "4", name: "2 + 2"}
    assert read(chat(None, message=message)).completion == "<think>\n2 + 2\n</think>\n\n4"


def test_reasoning_without_a_completion_was_cut_off() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "well"}
    cut = read(chat(None, message=message, finish_reason="length"))
    assert (cut.completion, cut.finish_reason) == ("<think>\nwell\n</think>\n\n", "length")


def test_mean_logprob_of_a_chat_and_of_a_text() -> None:
    tokens = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -0.5}]
    assert read(chat("ab", logprobs={"content": tokens})).mean_logprob == -0.75
    text = {"choices": [{"text": "ab", "logprobs": {"token_logprobs": [-2.0, -1.0]}}]}
    assert read(text).mean_logprob == -1.5


@pytest.mark.parametrize(
    "told",
    [None, {}, {"content": []}, {"content": [{"token": "a"}]}, {"token_logprobs": [None, -1.0]}],
)
def test_logprobs_that_are_not_all_there_are_none(told: Any) -> None:
    assert read(chat("ab", logprobs=told)).mean_logprob is None


@pytest.mark.parametrize("told", [None, "many", {}, {"prompt_tokens": "10"}, {"prompt_tokens": -1}])
def test_usage_that_is_none(told: Any) -> None:
    answer = read({**chat("yes"), "usage": told})
    assert (answer.prompt_tokens, answer.completion_tokens) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>bad gateway</html>",
        '{"choices": [{"message": {"content": "half',
        "[]",
        "null",
        '{"choices": []}',
        '{"choices": "none"}',
        '{"choices": [{}]}',
        '{"choices": [{"message": "hello"}]}',
        '{"choices": [{"message": {"content": [1, 2]}}]}',
        '{"error": {"message": "overloaded"}}',
    ],
)
def test_what_is_no_answer(text: str) -> None:
    with pytest.raises(NoAnswer):
        read_answer(text)
