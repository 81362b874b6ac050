"""The filter of completions that were there before: equal ones, and nearly equal ones.

Source: Broder, "On the resemblance and containment of documents", 1997.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from raykd.config.filters import DuplicatesFilter
from raykd.generation.answers import normalised
from raykd.generation.samples import Sample

PERMUTATIONS: Final = 128
"""Of a MinHash; candidates are compared exactly, so it only decides what is overlooked."""
SEED: Final = 1
LOOSER: Final = 0.8
"""Candidates are looked for at this share of the threshold, so that few are overlooked."""


def duplicates(samples: Sequence[Sample], config: DuplicatesFilter) -> list[str | None]:
    """Drop completions that an earlier one equals, or is near to."""
    first: dict[str, Sample] = {}
    near = None if config.near is None else _Near(config.near, config.ngram_words)
    verdicts: list[str | None] = []
    for one in samples:
        text = normalised(one.text)
        if text in first:
            verdicts.append(f"equal to the one of {_name(first[text])}")
            continue
        found = None if near is None else near.find_or_keep(text, one)
        if found is None:
            first[text] = one
            verdicts.append(None)
        else:
            other, share = found
            verdicts.append(f"{share:.0%} of its n-grams are those of {_name(other)}")
    return verdicts


class _Near:
    """Texts seen so far, by their word n-grams."""

    def __init__(self, threshold: float, ngram_words: int) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        self._ngram_words = ngram_words
        self._index: Any = MinHashLSH(threshold=LOOSER * threshold, num_perm=PERMUTATIONS)
        self._seen: list[tuple[Sample, frozenset[str]]] = []

    def find_or_keep(self, text: str, one: Sample) -> tuple[Sample, float] | None:
        """The nearest earlier text within the threshold; where there is none this one is kept."""
        from datasketch import MinHash

        grams = _ngrams(text, self._ngram_words)
        sketch = MinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update_batch([gram.encode() for gram in sorted(grams)])
        found = [(self._seen[int(i)], int(i)) for i in self._index.query(sketch)]
        shares = [(_jaccard(grams, other), -i, sample) for (sample, other), i in found]
        best = max(shares, key=lambda each: each[:2], default=None)
        if best is not None and best[0] >= self._threshold:
            return best[2], best[0]
        self._index.insert(str(len(self._seen)), sketch)
        self._seen.append((one, grams))
        return None


def _ngrams(text: str, words: int) -> frozenset[str]:
    """Word n-grams; of a text with fewer words the text itself."""
    parts = re.findall(r"\w+", text)
    if len(parts) <= words:
        return frozenset([" ".join(parts)])
    return frozenset(" ".join(parts[i : i + words]) for i in range(len(parts) - words + 1))


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)


def _name(sample: Sample) -> str:
    return f"prompt {sample.request.prompt}, sample {sample.request.sample}"
