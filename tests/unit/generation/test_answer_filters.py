"""Filters that compare the answer: with the gold completion, with the other samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.generation.answers import NO_GOLD
from raykd.generation.samples import Sample

Verdicts = Callable[[dict[str, Any], list[Sample]], list[str | None]]
MakeSample = Callable[..., Sample]
LAST_NUMBER = {"extract": r"(-?\d+)(?!.*\d)"}


@pytest.mark.parametrize(
    ("text", "gold", "keys", "passes"),
    [
        ("Paris", "paris.", {}, True),
        ("  PARIS \n", "Paris", {}, True),
        ("It is Paris", "Paris", {}, False),
        ("<think>Rome? No.</think> Paris", "Paris", {}, True),
        ("Paris <think>no</think> Rome", "Paris", {}, False),
        ("so 3 + 4 = 7", "7", LAST_NUMBER, True),
        ("so 3 + 4 = 7, not 8", "#### 7", LAST_NUMBER, False),
        ("so 3 + 4 = 7", "3 + 4 gives 7", LAST_NUMBER, True),
        ("seven", "7", LAST_NUMBER, False),
        ("so 3 + 4 = 7", "7", {"extract": r"\d+"}, True),
        ("ﬁne", "fine", {}, True),
        ("a", None, {}, False),
    ],
)
def test_exact_match(
    text: str,
    gold: str | None,
    keys: dict[str, Any],
    passes: bool,
    sample: MakeSample,
    verdicts: Verdicts,
) -> None:
    [found] = verdicts({"exact_match": keys}, [sample(text, gold=gold)])
    assert (found is None) == passes
    assert gold is not None or found == NO_GOLD


@pytest.mark.parametrize(
    ("text", "gold", "passes"),
    [
        ("The answer is $\\frac{1}{2}$.", "0.5", True),
        ("\\boxed{x + 1}", "$1 + x$", True),
        ("7", "7", True),
        ("1,234", "1234", True),
        ("7", "8", False),
        ("<think>8?</think> It is 7", "7", True),
        ("I do not know", "7", False),
    ],
)
def test_mathematics(
    text: str, gold: str, passes: bool, sample: MakeSample, verdicts: Verdicts
) -> None:
    pytest.importorskip("math_verify")
    [found] = verdicts({"math_verify": {}}, [sample(text, gold=gold)])
    assert (found is None) == passes


def test_samples_agree_or_are_outvoted(sample: MakeSample, verdicts: Verdicts) -> None:
    given = [
        *(sample(t, prompt=0, number=i) for i, t in enumerate(["4", "four", "It is 4", "4", "5"])),
        *(sample(t, prompt=1, number=i) for i, t in enumerate(["1", "2", "3", "3"])),
        *(sample(t, prompt=2, number=i) for i, t in enumerate(["no", "none"])),
    ]
    found = verdicts({"agreement": {"min_share": 0.6, "extract": r"\d"}}, given)
    assert found[:5] == [
        None,
        "`extract` finds no answer in it",
        None,
        None,
        "3 of 5 samples say '4'",
    ]
    assert found[5:9] == ["2 of 4 samples say '3'"] * 2 + ["only 2 of 4 samples say so"] * 2
    assert all(verdict is not None for verdict in found[9:])


def test_of_equal_votes_the_first_answer_wins(sample: MakeSample, verdicts: Verdicts) -> None:
    given = [sample(text, number=i) for i, text in enumerate(["b", "a"])]
    assert verdicts({"agreement": {}}, given) == [None, "1 of 2 samples say 'b'"]
