"""Filters that look at a completion's text by itself: length, patterns, JSON, language."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from raykd.config.filters import LanguageFilter, LengthFilter, RegexFilter
from raykd.generation.samples import Sample


def length(samples: Sequence[Sample], config: LengthFilter) -> list[str | None]:
    """Drop completions that are too short or too long."""
    return [_out_of_bounds(one, config) for one in samples]


def _out_of_bounds(one: Sample, config: LengthFilter) -> str | None:
    tokens = one.completion["completion_tokens"]
    for unit, number, low, high in (
        ("characters", len(one.text), config.min_characters, config.max_characters),
        ("tokens", tokens, config.min_tokens, config.max_tokens),
    ):
        if low is None and high is None:
            continue
        if number is None:
            return f"the teacher does not say how many {unit} it has"
        if low is not None and number < low:
            return f"{number} {unit}, fewer than {low}"
        if high is not None and number > high:
            return f"{number} {unit}, more than {high}"
    return None


def regex(samples: Sequence[Sample], config: RegexFilter) -> list[str | None]:
    """Drop completions that lack one pattern or have the other."""
    return [_unlike_pattern(one.text, config) for one in samples]


def _unlike_pattern(text: str, config: RegexFilter) -> str | None:
    if config.must_match is not None and not re.search(config.must_match, text):
        return "`must_match` is not found in it"
    if config.must_not_match is not None and (found := re.search(config.must_not_match, text)):
        return f"`must_not_match` is found in it: {found.group(0)[:40]!r}"
    return None


def json_schema(samples: Sequence[Sample], schema: dict[str, Any]) -> list[str | None]:
    """Drop answers that are not JSON, or not as the schema says."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(schema)
    return [_unlike_schema(one.answer, validator) for one in samples]


def _unlike_schema(answer: str, validator: Any) -> str | None:
    from jsonschema.exceptions import best_match

    try:
        value = json.loads(answer)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {str(error).splitlines()[0]}"
    found = best_match(validator.iter_errors(value))
    return None if found is None else f"{found.json_path}: {found.message[:100]}"


def language(samples: Sequence[Sample], config: LanguageFilter) -> list[str | None]:
    """Drop completions in languages that are not allowed."""
    detect = _detector()
    return [_foreign(detect(one.text), config.allowed) for one in samples]


def _foreign(code: str | None, allowed: list[str]) -> str | None:
    if code is None:
        return "its language cannot be told"
    return None if code in allowed else f"its language is {code}"


def _detector() -> Callable[[str], str | None]:
    """From a text to an ISO 639-1 code."""
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def detect(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return None if found is None else str(found.iso_code_639_1.name).lower()

    return detect
