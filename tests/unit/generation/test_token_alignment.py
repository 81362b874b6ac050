"""Which tokens of a document an endpoint wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raykd.generation.alignment import (
    EARLIER,
    RENDERED,
    UNTOLD,
    align,
    wrong_masses,
)
from raykd.models.token_bytes import TokenBytes, token_bytes

TEXT = "The stone 😀 moves."


@pytest.fixture(scope="module")
def vocabulary(tiny_tokenizer: Any) -> TokenBytes:
    return token_bytes(tiny_tokenizer, len(tiny_tokenizer))


def said(ids: list[int], vocabulary: TokenBytes, *, as_ids: bool = False) -> list[dict[str, Any]]:
    """Told by an endpoint, each with a log probability of its own."""
    names = {content: i for content, found in vocabulary.ids.items() for i in found}
    text_of = {i: content for content, i in names.items()}
    return [
        {
            "token": None if as_ids else text_of[i],
            "token_id": i if as_ids else None,
            "logprob": -0.01 * (n + 1),
            "top": [],
        }
        for n, i in enumerate(ids)
    ]


class Written:
    """A prompt of two tokens, a text, and the end of its turn."""

    def __init__(self, tokenizer: Any, text: str = TEXT, before: str = "", after: str = "") -> None:
        def encode(part: str) -> list[int]:
            return list(tokenizer(part, add_special_tokens=False)["input_ids"])

        self.text_ids = encode(text)
        self.end = tokenizer.convert_tokens_to_ids("<|end|>")
        prompt = encode("<|user|><|assistant|>")
        rest = [*encode(before), *self.text_ids, self.end, *encode(after)]
        self.first = len(prompt) + len(encode(before))
        self.ids = np.array([*prompt, *rest], np.int32)
        self.learn = np.array([0] * len(prompt) + [1] * len(rest), np.uint8)


@pytest.mark.parametrize("as_ids", [True, False])
@pytest.mark.parametrize("text", [TEXT, "im", "<", " end"])
def test_every_token_of_the_text_is_found(
    text: str, as_ids: bool, tiny_tokenizer: Any, vocabulary: TokenBytes
) -> None:
    one = Written(tiny_tokenizer, text)
    tokens = said(one.text_ids, vocabulary, as_ids=as_ids)
    found = align(tokens, one.ids, one.learn, text, vocabulary)
    assert found == dict(enumerate(tokens, one.first))


def test_what_the_template_writes_around_it_is_not_the_endpoints(
    tiny_tokenizer: Any, vocabulary: TokenBytes
) -> None:
    one = Written(tiny_tokenizer, before="<think>\n\n</think>\n\n", after="\n")
    tokens = said(one.text_ids, vocabulary)
    assert align(tokens, one.ids, one.learn, TEXT, vocabulary) == dict(enumerate(tokens, one.first))


def test_the_end_of_the_turn_is_its_own_where_it_is_told(
    tiny_tokenizer: Any, vocabulary: TokenBytes
) -> None:
    one = Written(tiny_tokenizer, after="\n")
    tokens = said([*one.text_ids, one.end], vocabulary)
    found = align(tokens, one.ids, one.learn, TEXT, vocabulary)
    assert found == dict(enumerate(tokens, one.first))
    other = said([*one.text_ids, one.text_ids[0]], vocabulary)
    assert len(align(other, one.ids, one.learn, TEXT, vocabulary)) == len(one.text_ids)


def test_reasoning_that_is_not_learned_comes_before(
    tiny_tokenizer: Any, vocabulary: TokenBytes
) -> None:
    one = Written(tiny_tokenizer)
    thought = tiny_tokenizer("<think>stone</think>", add_special_tokens=False)["input_ids"]
    tokens = said([*thought, *one.text_ids], vocabulary)
    found = align(tokens, one.ids, one.learn, TEXT, vocabulary)
    assert found == dict(enumerate(tokens[len(thought) :], one.first))


def test_a_template_that_strips_the_text_is_followed(
    tiny_tokenizer: Any, vocabulary: TokenBytes
) -> None:
    one = Written(tiny_tokenizer)
    tokens = said([*tiny_tokenizer("\n")["input_ids"], *one.text_ids], vocabulary)
    found = align(tokens, one.ids, one.learn, "\n" + TEXT, vocabulary)
    assert found == dict(enumerate(tokens[1:], one.first))


def test_other_tokens_are_named(tiny_tokenizer: Any, vocabulary: TokenBytes) -> None:
    one = Written(tiny_tokenizer, "stone stone")
    letters = [vocabulary.ids[letter.encode()][0] for letter in "stone stone"]
    assert len(letters) > len(one.text_ids)
    found = align(said(letters, vocabulary), one.ids, one.learn, "stone stone", vocabulary)
    first = next(n for n, i in enumerate(one.text_ids) if i != letters[n])
    here = vocabulary.of_id[one.text_ids[first]]
    assert found == (
        f"token {first} is {b'stone stone'[first : first + 1]!r} to the endpoint and {here!r} "
        f"(id {one.text_ids[first]}) here"
    )
    ids = said(letters, vocabulary, as_ids=True)
    named = align(ids, one.ids, one.learn, "stone stone", vocabulary)
    assert f"token {first} is id {letters[first]} to the endpoint" in str(named)
    short = align(
        said(one.text_ids[:-1], vocabulary), one.ids, one.learn, "stone stone", vocabulary
    )
    assert short == (
        f"the endpoint wrote {len(one.text_ids) - 1} tokens, and here they are {len(one.text_ids)}"
    )


def test_what_cannot_be_aligned_says_why(tiny_tokenizer: Any, vocabulary: TokenBytes) -> None:
    one = Written(tiny_tokenizer)
    tokens = said(one.text_ids, vocabulary)
    for nothing in (None, []):
        assert align(nothing, one.ids, one.learn, TEXT, vocabulary) == UNTOLD
    assert align(tokens, one.ids, one.learn, "another text", vocabulary) == RENDERED
    learn = one.learn.copy()
    learn[0] = 1
    assert align(tokens, one.ids, learn, TEXT, vocabulary) == EARLIER


def entry(logprob: float, *top: float) -> dict[str, Any]:
    likely = [{"token": bytes([65 + n]), "token_id": None, "logprob": p} for n, p in enumerate(top)]
    return {"token": b"A", "token_id": None, "logprob": logprob, "top": likely}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (entry(-0.1, -0.1, -3.0), None),
        # float32 and an endpoint's own rounding.
        (entry(0.0, 0.00005, -8.0), None),
        (entry(-0.6, -0.6, -0.6), r"add up to 1\.098, above 1"),
        (entry(0.5, -1.0), r"a log probability is 0\.5, above 0"),
        (entry(-9999.0, -9999.0), "no log probability is given"),
        # Drawn from beyond the likeliest, it is counted on top.
        ({**entry(-0.7, -0.7, -0.7), "token": b"Z"}, r"add up to 1\.49"),
        (entry(-0.7, -0.7, -0.7), None),
    ],
)
def test_masses(told: dict[str, Any], says: str | None) -> None:
    found = wrong_masses(told)
    if says is None:
        assert found is None
    else:
        import re

        assert found is not None
        assert re.search(says, found)


def test_wrong_masses_are_a_verdict(tiny_tokenizer: Any, vocabulary: TokenBytes) -> None:
    one = Written(tiny_tokenizer)
    tokens = said(one.text_ids, vocabulary)
    tokens[2] = {**tokens[2], "logprob": 0.5}
    found = align(tokens, one.ids, one.learn, TEXT, vocabulary)
    assert found == "token 2: a log probability is 0.5, above 0"
