"""Filters in their order, what each of them drops, and what a person is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.generation import GenerationConfig
from raykd.errors import GenerationError
from raykd.generation.samples import Sample
from raykd.generation.selection import counts, select

MakeSample = Callable[..., Sample]
MakeGeneration = Callable[..., GenerationConfig]


def test_each_filter_judges_what_passed_before(
    sample: MakeSample, generation: MakeGeneration
) -> None:
    given = [sample("long enough", prompt=i) for i in range(2)] + [sample("no", prompt=2)]
    select(given, generation(filters=[{"length": {"min_characters": 5}}, {"duplicates": {}}]))
    assert given[0].verdicts == {"answered": None, "length": None, "duplicates": None}
    assert given[1].verdicts["duplicates"] is not None
    assert "duplicates" not in given[2].verdicts
    assert [one.dropped for one in given] == [False, True, True]
    assert counts(given) == {"answered": 0, "length": 1, "duplicates": 1}


def test_the_order_is_the_jobs(sample: MakeSample, generation: MakeGeneration) -> None:
    """An equal text that is dropped for another reason hides none after it."""
    given = [sample("4", gold="5", prompt=0), sample("4", gold="4", prompt=1)]
    select(given, generation(filters=[{"exact_match": {}}, {"duplicates": {}}]))
    assert [one.dropped for one in given] == [True, False]
    given = [
        sample("4", gold="5", prompt=0),
        sample("4", gold="4", prompt=1),
        sample("6", gold="6"),
    ]
    select(given, generation(filters=[{"duplicates": {}}, {"exact_match": {}}]))
    assert [one.dropped for one in given] == [True, True, False]


def test_two_of_a_kind_have_names_of_their_own(
    sample: MakeSample, generation: MakeGeneration
) -> None:
    filters = [{"regex": {"must_match": "a"}}, {"regex": {"must_match": "b"}}]
    given = [sample("ab"), sample("a"), sample("b")]
    select(given, generation(filters=filters))
    assert counts(given) == {"answered": 0, "regex": 1, "regex_2": 1}


@pytest.mark.parametrize(
    ("text", "keys", "why"),
    [
        ("", {}, "empty"),
        (" \n", {}, "empty"),
        (None, {"finish_reason": "refused"}, "refused"),
        (None, {"finish_reason": "malformed"}, "malformed answer"),
        ("and so", {"finish_reason": "length"}, "cut off at max_new_tokens (512)"),
        ("<think>and so", {}, "the reasoning does not end"),
        ("<think>and so</think> ", {}, "no answer after the reasoning"),
        ("<think></think> 4", {}, None),
    ],
)
def test_what_is_no_answer(
    text: str | None,
    keys: dict[str, Any],
    why: str | None,
    sample: MakeSample,
    generation: MakeGeneration,
) -> None:
    one = sample(text, **keys)
    select([one, sample("an answer")], generation())
    assert one.verdicts == {"answered": why}


def test_what_was_cut_off_can_be_kept(sample: MakeSample, generation: MakeGeneration) -> None:
    one = sample("and so", finish_reason="length")
    select([one], generation(unfinished="keep"))
    assert not one.dropped


def test_the_best_of_each_prompt_are_kept(sample: MakeSample, generation: MakeGeneration) -> None:
    likely = [(0, -3.0), (0, -1.0), (0, -2.0), (1, -9.0), (1, -9.0)]
    given = [
        sample("t", prompt=p, number=i, mean_logprob=mean) for i, (p, mean) in enumerate(likely)
    ]
    select(given, generation(num_samples=3, keep_best=1, sampling={"temperature": 1}))
    assert [not one.dropped for one in given] == [False, True, False, True, False]
    assert given[0].verdicts["keep_best"] == "number 3 by mean log probability"
    unsaid = [sample("t", mean_logprob=None)]
    with pytest.raises(GenerationError, match="which this teacher does not give"):
        select(unsaid, generation(num_samples=3, keep_best=1, sampling={"temperature": 1}))


def test_nothing_left_is_told_with_examples(sample: MakeSample, generation: MakeGeneration) -> None:
    given = [sample("no" * 200, prompt=i) for i in range(5)] + [sample("", prompt=5)]
    with pytest.raises(GenerationError) as caught:
        select(given, generation(filters=[{"length": {"max_characters": 9}}]))
    told = str(caught.value)
    assert told.startswith("generation.filters: of 6 completions none is left")
    assert "answered dropped 1:\n    prompt 5: empty: ''" in told
    assert "length dropped 5:" in told
    assert told.count("400 characters, more than 9") == 3
    assert max(map(len, told.splitlines())) < 200
