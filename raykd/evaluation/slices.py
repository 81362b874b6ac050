"""Scores of each slice: rows divided by a column, by their file, by their length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from raykd.evaluation.compare import perplexity
from raykd.evaluation.inspection_data import SliceScores, SliceTable
from raykd.evaluation.token_scores import TokenScores, mean

MOST_SLICES: Final = 20
"""Values listed by themselves, those of most rows first; the rest are one slice."""
SHORTEST_TOKENS: Final = 32
WEIGHTY_ROWS: Final = 5
"""Slices of fewer rows are listed, and not called the worst."""

Labels = Mapping[str, Sequence[str]]
"""What rows are divided by, to each row's value."""
Score = Callable[[str, npt.NDArray[np.bool_]], SliceScores]
"""From a slice's value and its rows, as flags, to its figures."""


def length_labels(lengths_tokens: Sequence[int]) -> list[str]:
    """Each row's bucket of lengths: up to 32 tokens, then doublings."""
    return [_bucket(length) for length in lengths_tokens]


def slice_tables(labels: Labels, score: Score) -> list[SliceTable]:
    """A table for each property in which rows differ.

    Args:
        labels: Values by property.
        score: Measures one slice.
    """
    return [
        SliceTable(by=by, slices=_slices(list(values), score, ordered=by == "length"))
        for by, values in labels.items()
        if len(set(values)) > 1
    ]


def of_tokens(student: TokenScores, teacher: TokenScores | None) -> Score:
    """Measures slices of text.

    Args:
        student: Its tokens.
        teacher: The same tokens; None where no teacher scored them.
    """

    def score(value: str, rows: npt.NDArray[np.bool_]) -> SliceScores:
        return _scores(value, rows, student, teacher)

    return score


def weighty(tables: Sequence[SliceTable]) -> list[SliceScores]:
    """Slices of enough rows to judge a student by."""
    return [one for table in tables for one in table.slices if one.rows >= WEIGHTY_ROWS]


def _bucket(length_tokens: int) -> str:
    if length_tokens <= SHORTEST_TOKENS:
        return f"1 to {SHORTEST_TOKENS} tokens"
    high = 2 ** math.ceil(math.log2(length_tokens))
    return f"{high // 2 + 1} to {high} tokens"


def _slices(values: list[str], score: Score, *, ordered: bool) -> list[SliceScores]:
    by_rows = [value for value, _ in Counter(values).most_common()]
    listed = by_rows if len(by_rows) <= MOST_SLICES + 1 else by_rows[:MOST_SLICES]
    if ordered:
        listed.sort(key=lambda value: int(value.split()[0]))
    of_row = np.array([listed.index(v) if v in listed else len(listed) for v in values])
    names = [*listed]
    if len(by_rows) > len(listed):
        names.append(f"{len(by_rows) - len(listed):,} others")
    found = [score(name, of_row == i) for i, name in enumerate(names)]
    return [one for one in found if one.tokens]


def _scores(
    value: str,
    rows: npt.NDArray[np.bool_],
    student: TokenScores,
    teacher: TokenScores | None,
) -> SliceScores:
    chosen_T = rows[student.row_T]
    ours = student.where(chosen_T)
    theirs = None if teacher is None else teacher.where(chosen_T)
    return SliceScores(
        value=value,
        rows=int(rows.sum()),
        tokens=ours.num_tokens,
        perplexity=perplexity_of(ours),
        accuracy=mean(ours.correct_T) or 0.0,
        teacher_perplexity=None if theirs is None else perplexity_of(theirs),
        teacher_accuracy=None if theirs is None else mean(theirs.correct_T),
        kl_to_teacher=mean(ours.kl_T),
        top1_agreement=mean(ours.agreed_T),
    )


def perplexity_of(tokens: TokenScores) -> float:
    """Of the tokens that really follow."""
    return perplexity(mean(tokens.nll_T) or 0.0)
