"""Which completions are learned from: filters in their order, then the best of each prompt."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from raykd.config.filters import FilterConfig
from raykd.config.generation import GenerationConfig
from raykd.errors import GenerationError
from raykd.generation import answers, texts
from raykd.generation.duplicates import duplicates
from raykd.generation.samples import Sample

if TYPE_CHECKING:
    from raykd.generation.scorer import Score

ANSWERED = "answered"
"""What every completion must pass first: that there is one."""
KEEP_BEST = "keep_best"
SHOWN = 3

Judge = Callable[[Sequence[Sample]], list[str | None]]
"""Why each is dropped, or None."""


def select(samples: Sequence[Sample], config: GenerationConfig, score: Score | None = None) -> None:
    """Write every filter's verdict into the samples that come to it.

    Args:
        samples: All completions.
        config: The job's section.
        score: What its `scorer` says; None where it has none.

    Raises:
        GenerationError: Nothing is left; shows what each filter dropped.
    """
    for name, judge in judges(config, score):
        left = [one for one in samples if not one.dropped]
        for one, verdict in zip(left, judge(left), strict=True):
            one.verdicts[name] = verdict
    if all(one.dropped for one in samples):
        raise GenerationError(_nothing_left(samples))


def judges(config: GenerationConfig, score: Score | None = None) -> Iterator[tuple[str, Judge]]:
    """The filters of a job by their names; a second one of a kind has a number."""
    yield ANSWERED, lambda samples: [_unanswered(one, config) for one in samples]
    seen: Counter[str] = Counter()
    for one in config.filters:
        seen[one.name] += 1
        number = f"_{seen[one.name]}" if seen[one.name] > 1 else ""
        yield one.name + number, judge_of(one)
    if (most := config.keep_best) is not None:
        yield KEEP_BEST, lambda samples: _not_among_best(samples, most, score)


def judge_of(config: FilterConfig) -> Judge:
    """What a filter of the job does."""
    if (length := config.length) is not None:
        return lambda samples: texts.length(samples, length)
    if (regex := config.regex) is not None:
        return lambda samples: texts.regex(samples, regex)
    if (earlier := config.duplicates) is not None:
        return lambda samples: duplicates(samples, earlier)
    if (schema := config.json_schema) is not None:
        return lambda samples: texts.json_schema(samples, schema)
    if (exact := config.exact_match) is not None:
        return lambda samples: answers.exact_match(samples, exact)
    if config.math_verify is not None:
        return answers.math_verify
    if (agreed := config.agreement) is not None:
        return lambda samples: answers.agreement(samples, agreed)
    language = config.language
    assert language is not None, "a filter has exactly one name"
    return lambda samples: texts.language(samples, language)


def _unanswered(one: Sample, config: GenerationConfig) -> str | None:
    """Why there is nothing to learn at all."""
    reason = one.completion["finish_reason"]
    if reason == "refused":
        return "refused"
    if reason == "malformed":
        return "malformed answer"
    if reason == "length" and config.unfinished == "drop":
        return f"cut off at max_new_tokens ({config.sampling.max_new_tokens})"
    if not one.text.strip():
        return "empty"
    if one.parts.answer is None:
        return "the reasoning does not end"
    return None if one.answer else "no answer after the reasoning"


def _not_among_best(samples: Sequence[Sample], most: int, score: Score | None) -> list[str | None]:
    """Drop all but the best samples of each prompt."""
    by, worth = "mean log probability", _likelihood
    if score is not None:
        by, worth = "score", _scored
        for one, found in zip(samples, score(samples), strict=True):
            one.score = found
    by_prompt: dict[int, list[Sample]] = defaultdict(list)
    for one in samples:
        by_prompt[one.request.prompt].append(one)
    for group in by_prompt.values():
        group.sort(key=lambda one: (-worth(one), one.request.sample))
    places = {id(one): i for group in by_prompt.values() for i, one in enumerate(group)}
    return [_place(places[id(one)], most, by, worth(one)) for one in samples]


def _place(place: int, most: int, by: str, worth: float) -> str | None:
    if worth == -math.inf:
        return "longer than the scorer reads"
    return None if place < most else f"number {place + 1} by {by}"


def _scored(one: Sample) -> float:
    return -math.inf if one.score is None else one.score


def _likelihood(one: Sample) -> float:
    logprob: float | None = one.completion["mean_logprob"]
    if logprob is None:
        raise GenerationError(
            "generation.keep_best chooses by mean log probability, which this teacher does not "
            f"give (prompt {one.request.prompt}); remove it, or choose an engine that does"
        )
    return logprob


def counts(samples: Sequence[Sample]) -> dict[str, int]:
    """Completions that each filter dropped, in the order of the filters."""
    found: Counter[str] = Counter()
    for one in samples:
        for name, verdict in one.verdicts.items():
            found[name] += verdict is not None
    return dict(found)


def _nothing_left(samples: Sequence[Sample]) -> str:
    """What each filter dropped, with a few examples."""
    lines = [f"generation.filters: of {len(samples)} completions none is left to learn from"]
    for name, number in counts(samples).items():
        if not number:
            continue
        lines.append(f"  {name} dropped {number}:")
        dropped = [one for one in samples if one.verdicts.get(name) is not None]
        for one in dropped[:SHOWN]:
            text = " ".join(one.text.split())
            shown = text if len(text) <= 100 else f"{text[:60]} ... {text[-35:]}"
            lines.append(f"    prompt {one.request.prompt}: {one.verdicts[name]}: {shown!r}")
    lines.append("Loosen the filter that drops most, or change prompts or sampling")
    return "\n".join(lines)
