"""Filters that look at the answer: against the gold completion, or against the other samples."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from raykd.config.filters import AgreementFilter, ExactMatchFilter
from raykd.generation.samples import Sample

NO_GOLD = "the corpus has no completion to compare with"


def normalised(text: str) -> str:
    """A text without what does not make it another answer."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.removesuffix(".").rstrip()


def extracted(text: str, pattern: str | None) -> str | None:
    """The answer in a text, at the last place where the pattern matches; None where it does not."""
    if pattern is None:
        return text
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    last = found[-1]
    return last.group(1) if last.re.groups and last.group(1) is not None else last.group(0)


def exact_match(samples: Sequence[Sample], config: ExactMatchFilter) -> list[str | None]:
    """Drop answers that are not the gold one."""
    return [_unlike_gold(one, config) for one in samples]


def _unlike_gold(one: Sample, config: ExactMatchFilter) -> str | None:
    gold = one.request.gold
    if gold is None:
        return NO_GOLD
    found = extracted(one.answer, config.extract)
    if found is None:
        return "`extract` finds no answer in it"
    wanted = extracted(gold, config.extract) or gold
    if normalised(found) == normalised(wanted):
        return None
    return f"{_shown(found)} is not {_shown(wanted)}"


def math_verify(samples: Sequence[Sample]) -> list[str | None]:
    """Drop answers that are not equal to the gold one as mathematics."""
    import math_verify as library

    return [_unequal(one, library) for one in samples]


def _unequal(one: Sample, library: Any) -> str | None:
    gold = one.request.gold
    if gold is None:
        return NO_GOLD
    wanted, found = library.parse(gold), library.parse(one.answer)
    if not wanted:
        return f"the gold completion {_shown(gold)} is no mathematics"
    if not found:
        return "no mathematics is found in it"
    if library.verify(wanted, found):
        return None
    return f"{_shown(str(found[0]))} is not {_shown(str(wanted[0]))}"


def agreement(samples: Sequence[Sample], config: AgreementFilter) -> list[str | None]:
    """Drop answers that too few samples of their prompt give, or fewer than another."""
    given = [extracted(one.answer, config.extract) for one in samples]
    plain = [None if answer is None else normalised(answer) for answer in given]
    votes: dict[int, Counter[str | None]] = defaultdict(Counter)
    for one, answer in zip(samples, plain, strict=True):
        votes[one.request.prompt][answer] += 1
    return [
        _outvoted(votes[one.request.prompt], answer, config.min_share)
        for one, answer in zip(samples, plain, strict=True)
    ]


def _outvoted(votes: Counter[str | None], answer: str | None, min_share: float) -> str | None:
    if answer is None:
        return "`extract` finds no answer in it"
    total = sum(votes.values())
    # Of answers with equally many votes the one that was given first.
    best = max((kind for kind in votes if kind is not None), key=lambda kind: votes[kind])
    if answer != best:
        return f"{votes[best]} of {total} samples say {_shown(best)}"
    if votes[best] < min_share * total:
        return f"only {votes[best]} of {total} samples say so"
    return None


def _shown(text: str) -> str:
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= 40 else one_line[:37] + "...")
