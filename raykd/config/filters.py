"""`generation.filters`: what a completion must pass before it is learned from."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, Self, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raykd.config.section import Section


def _pattern(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    return value


class LengthFilter(Section):
    """How long a completion may be."""

    min_characters: int | None = Field(None, ge=1, description="Shortest, in characters.")
    max_characters: int | None = Field(None, ge=1, description="Longest, in characters.")
    min_tokens: int | None = Field(None, ge=1, description="Shortest, in the teacher's tokens.")
    max_tokens: int | None = Field(None, ge=1, description="Longest, in the teacher's tokens.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if not given:
            raise ValueError("length: gives no bound; give one, such as `min_characters: 20`")
        for unit in ("characters", "tokens"):
            low, high = given.get(f"min_{unit}"), given.get(f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} ({low}) exceeds max_{unit} ({high})")
        return self


class RegexFilter(Section):
    """What a completion must, and must not, contain."""

    must_match: str | None = Field(
        None, description="A regular expression that is found somewhere in the completion."
    )
    must_not_match: str | None = Field(
        None, description="A regular expression that is found nowhere in it."
    )

    _compiles = field_validator("must_match", "must_not_match")(_pattern)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.must_match is None and self.must_not_match is None:
            raise ValueError("regex: give `must_match`, `must_not_match` or both")
        return self


class DuplicatesFilter(Section):
    """Completions that were there before, of whatever prompt."""

    near: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also drop a completion whose word n-grams overlap with an earlier one's by at "
        "least this Jaccard index; none drops equal ones only. Needs `raykd[filters]`.",
    )
    ngram_words: int = Field(3, ge=1, description="Words in one n-gram of `near`.")


class ExactMatchFilter(Section):
    """The answer is the gold completion, but for case, white space and a final full stop."""

    extract: str | None = Field(
        None,
        description="A regular expression that finds the answer in the text: its first group, or "
        "all of it; the last place where it matches counts. A gold completion that it does not "
        "match is the answer as it stands.",
    )

    _compiles = field_validator("extract")(_pattern)


class MathVerifyFilter(Section):
    """The answer equals the gold completion as mathematics. Needs `raykd[filters]`."""


class AgreementFilter(Section):
    """The answer is the one that most samples of its prompt give."""

    min_share: float = Field(
        0.5, gt=0, le=1, description="Least share of a prompt's samples that must agree."
    )
    extract: str | None = Field(
        None, description="Finds the answer in the text, as in `exact_match`."
    )

    _compiles = field_validator("extract")(_pattern)


class LanguageFilter(Section):
    """The language that a completion is written in. Needs `raykd[filters]`."""

    allowed: list[str] = Field(
        min_length=1, description="ISO 639-1 codes, such as `en`; other languages are dropped."
    )

    @field_validator("allowed")
    @classmethod
    def _codes(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if not re.fullmatch(r"[a-z]{2}", code):
                raise ValueError(f"{code!r} is no ISO 639-1 code; write two letters, such as `en`")
        return codes


FilterName = Literal[
    "length",
    "regex",
    "duplicates",
    "json_schema",
    "exact_match",
    "math_verify",
    "agreement",
    "language",
]


class FilterConfig(Section):
    """One filter: a mapping of its name to its keys."""

    length: LengthFilter | None = Field(None, description="How long.")
    regex: RegexFilter | None = Field(None, description="What it must and must not contain.")
    duplicates: DuplicatesFilter | None = Field(None, description="What was there before.")
    json_schema: dict[str, Any] | None = Field(
        None, description="A JSON schema: the answer is JSON that it holds for, and nothing else."
    )
    exact_match: ExactMatchFilter | None = Field(None, description="The gold completion as text.")
    math_verify: MathVerifyFilter | None = Field(
        None, description="The gold completion as mathematics."
    )
    agreement: AgreementFilter | None = Field(None, description="What the samples agree on.")
    language: LanguageFilter | None = Field(None, description="The language.")

    @model_validator(mode="before")
    @classmethod
    def _keys_may_be_left_out(cls, value: Any) -> Any:
        """`- math_verify:` without anything after it is the filter with its defaults."""
        if isinstance(value, dict) and len(value) == 1:
            return {name: {} if keys is None else keys for name, keys in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in FILTERS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(
                f"a filter is a mapping of one name, of {', '.join(FILTERS)}; found {found}"
            )
        return self

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is None:
            return None
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message}") from None
        return schema

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The filter that it is, without those that it is not."""
        return {name: keys for name, keys in dump(self).items() if keys is not None}

    @property
    def name(self) -> FilterName:
        """Which one it is."""
        (name,) = (name for name in FILTERS if getattr(self, name) is not None)
        return name


FILTERS: Final[tuple[FilterName, ...]] = get_args(FilterName)
