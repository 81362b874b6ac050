"""Equal and nearly equal completions; the nearness against an exact computation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from raykd.generation.samples import Sample

Verdicts = Callable[[dict[str, Any], list[Sample]], list[str | None]]
MakeSample = Callable[..., Sample]


def test_equal_ones_are_dropped_but_the_first(sample: MakeSample, verdicts: Verdicts) -> None:
    texts = ["The  river.", "A stone", "the river", "A stone!", "THE RIVER."]
    given = [sample(text, prompt=i) for i, text in enumerate(texts)]
    same = "equal to the one of prompt 0, sample 0"
    assert verdicts({"duplicates": {}}, given) == [None, None, same, None, same]


def grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 2]) for i in range(len(words) - 1)}


def test_near_ones_are_those_of_an_exact_computation(
    sample: MakeSample, verdicts: Verdicts
) -> None:
    pytest.importorskip("datasketch")
    draw = random.Random(0)
    words = [f"word{i}" for i in range(300)]
    texts: list[str] = []
    for _ in range(40):
        base = draw.choices(words, k=40)
        texts.append(" ".join(base))
        changed = list(base)
        for at in draw.sample(range(40), draw.choice([1, 3, 12])):
            changed[at] = draw.choice(words)
        texts.append(" ".join(changed))
    expected: list[bool] = []
    kept: list[str] = []
    for text in texts:
        shares = [len(grams(text) & grams(k)) / len(grams(text) | grams(k)) for k in kept]
        near = max(shares, default=0) >= 0.7
        expected.append(near)
        if not near:
            kept.append(text)
    assert 10 < sum(expected) < 40
    given = [sample(text, prompt=i) for i, text in enumerate(texts)]
    found = verdicts({"duplicates": {"near": 0.7, "ngram_words": 2}}, given)
    assert [verdict is not None for verdict in found] == expected
    shown = next(verdict for verdict in found if verdict is not None)
    assert "of its n-grams are those of prompt" in shown
