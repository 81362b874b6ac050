"""Samples made by hand: no teacher is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.config.filters import FilterConfig
from raykd.config.generation import GenerationConfig
from raykd.generation.requests import Request
from raykd.generation.samples import Sample
from raykd.generation.selection import judge_of

MakeSample = Callable[..., Sample]


@pytest.fixture
def sample() -> MakeSample:
    """`sample("a text", gold="b", prompt=3)`: a completion as a teacher would have written it."""

    def make(
        text: str | None,
        *,
        gold: str | None = None,
        prompt: int = 0,
        number: int = 0,
        finish_reason: str = "stop",
        tokens: int | None = 5,
        mean_logprob: float | None = -1.0,
        chat: bool = False,
        told: str | None = None,
    ) -> Sample:
        read = [{"role": "user", "content": f"question {prompt}"}]
        turns = read if told is None else [{"role": "system", "content": told}, *read]
        asked = Request(
            key=f"{prompt}-{number}",
            prompt=prompt,
            group=prompt,
            sample=number,
            seed=1,
            messages=turns if chat else None,
            text=None if chat else f"question {prompt}",
            read=read if chat else None,
            gold=gold,
        )
        completion = {
            "completion": text,
            "finish_reason": finish_reason,
            "prompt_tokens": 3,
            "completion_tokens": tokens,
            "mean_logprob": mean_logprob,
        }
        return Sample(asked, completion)

    return make


@pytest.fixture
def verdicts() -> Callable[[dict[str, Any], list[Sample]], list[str | None]]:
    """`verdicts({"length": {...}}, samples)`: what a filter of a job says of them."""

    def judged(tree: dict[str, Any], samples: list[Sample]) -> list[str | None]:
        return judge_of(FilterConfig.model_validate(tree))(samples)

    return judged


@pytest.fixture
def generation() -> Callable[..., GenerationConfig]:
    """A `generation` section with some keys given."""
    return lambda **keys: GenerationConfig.model_validate(keys)
