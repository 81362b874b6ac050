"""The forms that log probabilities of tokens come in."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from raykd.endpoint.answer import read_answer
from raykd.endpoint.logprobs import packed, read_logprobs, unpacked
from raykd.schema import TOKENS
from tests.endpoint_server import chat

HALF = "\ufffd"
"""What text shows of half a character."""


def one(token: str | None, token_id: int | None, logprob: float, *top: Any) -> dict[str, Any]:
    return {
        "token": None if token is None else token.encode("latin-1"),
        "token_id": token_id,
        "logprob": logprob,
        "top": list(top),
    }


def likely(token: str | None, token_id: int | None, logprob: float) -> dict[str, Any]:
    return {key: value for key, value in one(token, token_id, logprob).items() if key != "top"}


def read(told: Any) -> Any:
    found = read_logprobs(told)
    return None if found is None else unpacked(packed(found))


def test_a_chats_tokens_are_its_bytes() -> None:
    entry = {"token": "\\xf0\\x9f", "bytes": [0xF0, 0x9F], "logprob": -0.5}
    other = {"token": HALF, "bytes": [0xE4], "logprob": -1.25}
    told = {"content": [{**entry, "top_logprobs": [entry, other]}]}
    assert read(told) == [
        one("\xf0\x9f", None, -0.5, likely("\xf0\x9f", None, -0.5), likely("\xe4", None, -1.25))
    ]


def test_without_bytes_the_text_says_them_where_it_can() -> None:
    entry = {"token": "ü", "logprob": -0.5}
    half = {"token": HALF, "bytes": None, "logprob": -1.0}
    told = {"content": [{**entry, "top_logprobs": [entry, half]}]}
    assert read(told) == [
        one("\xc3\xbc", None, -0.5, likely("\xc3\xbc", None, -0.5), likely(None, None, -1.0))
    ]


def test_ids_are_read_in_both_forms() -> None:
    entry = {"token": "token_id:17", "bytes": list(b"token_id:17"), "logprob": -0.5}
    of_chat = {"content": [{**entry, "top_logprobs": [entry]}]}
    of_text = {
        "tokens": ["token_id:17"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"token_id:17": -0.5}],
    }
    assert read(of_chat) == read(of_text) == [one(None, 17, -0.5, likely(None, 17, -0.5))]


def test_a_texts_columns_and_its_escaped_bytes() -> None:
    told = {
        "tokens": [" a", "bytes:\\xe4\\xb8"],
        "token_logprobs": [-0.5, -2],
        "top_logprobs": [{" a": -0.5, " b": -1.0}, None],
    }
    assert read(told) == [
        one(" a", None, -0.5, likely(" a", None, -0.5), likely(" b", None, -1.0)),
        one("\xe4\xb8", None, -2.0),
    ]


@pytest.mark.parametrize(
    "told",
    [
        None,
        "many",
        {},
        {"content": None},
        {"content": [{"token": "a", "logprob": -1.0}]},
        {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]},
        {"content": [{"token": "a", "logprob": None, "top_logprobs": [{"token": "a"}]}]},
        {"content": [{"token": "a", "bytes": [300], "logprob": -1.0, "top_logprobs": []}]},
        {"content": ["a"]},
        {"tokens": ["a"], "token_logprobs": [-1.0]},
        {"tokens": ["a", "b"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]},
        {"tokens": ["a"], "token_logprobs": [float("nan")], "top_logprobs": [{"a": -1.0}]},
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [[-1.0]]},
    ],
)
def test_what_is_not_all_there_is_none(told: Any) -> None:
    assert read(told) is None


def test_they_fit_their_column_and_none_is_null() -> None:
    entry = {"token": "a", "logprob": -0.25}
    told = read({"content": [{**entry, "top_logprobs": [entry]}]})
    assert pa.array([told, unpacked(None)], TOKENS).to_pylist() == [told, None]


def test_they_are_kept_only_where_they_are_asked_for() -> None:
    entry = {"token": "a", "logprob": -0.25}
    body = json.dumps(chat("a", logprobs={"content": [{**entry, "top_logprobs": [entry]}]}))
    assert read_answer(body).logprobs is None
    answer = read_answer(body, with_logprobs=True)
    assert unpacked(answer.logprobs) == [one("a", None, -0.25, likely("a", None, -0.25))]
    assert answer.mean_logprob == -0.25
