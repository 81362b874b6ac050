"""What soft targets must satisfy on arrival, so that a student never learns from broken ones.

Shapes: M tokens learned from, K ids kept, N temperatures, S rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from raykd.errors import SoftTargetError
from raykd.soft_targets.columns import Int64s, row_name

# Kept mass plus tail may miss 1 by this much: float32 sums of K values stay far below. It holds for
# every width of `top_k`, for rounding is corrected until the mass is what it was.
MASS_SLACK: Final = 1e-3
# A log probability may exceed 0 by this much, in nats: rounding of a probability of 1.
LOGPROB_SLACK: Final = 1e-4

Condition = tuple[torch.Tensor, Callable[[int], str]]
"""What holds for each token [M], and what to say of a token for which it does not."""


def require(table: pa.Table, lengths_S: Int64s, conditions: Sequence[Condition]) -> None:
    """Raise unless every condition holds for every token.

    Args:
        table: Where the targets come from; its `row` column, if there, names the row.
        lengths_S: Tokens of each row.
        conditions: In the order in which they matter. NaN must fail them.

    Raises:
        SoftTargetError: Names the row, the first such token in it, and what is wrong.
    """
    for good_M, complaint in conditions:
        if not bool(good_M.all()):
            token = int((~good_M).int().argmax())
            raise SoftTargetError(
                f"{_place(table, lengths_S, token)}: {complaint(token)}; score the row again"
            )


def ids_within(lowest_M: torch.Tensor, highest_M: torch.Tensor, vocab_size: int) -> Condition:
    """All ids of a token are of the vocabulary."""
    return (
        (lowest_M >= 0) & (highest_M < vocab_size),
        lambda m: (
            f"its ids reach from {int(lowest_M[m])} to {int(highest_M[m])}, allowed are 0 "
            f"to {vocab_size - 1}: targets of another vocabulary"
        ),
    )


def ids_distinct(ascending_MK: torch.Tensor) -> Condition:
    """No id of a token is there twice; ids sorted, or summed up from gaps."""
    if ascending_MK.shape[1] == 1:
        return ascending_MK[:, 0] >= 0, lambda m: "its id is negative"
    steps_MK = ascending_MK[:, 1:] - ascending_MK[:, :-1]
    return steps_MK.amin(1) > 0, lambda m: "an id is there twice"


def mass_is_one(
    logprobs_MK: torch.Tensor, log_tail_M: torch.Tensor | None, slack: float = MASS_SLACK
) -> Condition:
    """Kept mass and tail add up to 1; without a tail, to at most 1 and more than 0."""
    mass_M = logprobs_MK.exp().sum(1)
    if log_tail_M is None:
        return (
            (mass_M > 0) & (mass_M <= 1 + slack),
            lambda m: f"kept mass is {float(mass_M[m]):.6g}, allowed is above 0 and at most 1",
        )
    mass_M += log_tail_M.exp()
    return (
        (mass_M - 1.0).abs() <= slack,
        lambda m: f"kept mass and tail add up to {float(mass_M[m]):.6g}, not 1",
    )


def at_most_0(logprobs_M: torch.Tensor, of_what: str) -> Condition:
    """A log probability, of a token that `of_what` names, is one."""
    return (
        logprobs_M <= LOGPROB_SLACK,
        lambda m: f"{of_what} log probability is {float(logprobs_M[m])}, allowed is at most 0",
    )


def _place(table: pa.Table, lengths_S: Int64s, token: int) -> str:
    ends_S = np.cumsum(lengths_S)
    at = int(np.searchsorted(ends_S, token, side="right"))
    in_row = token - int(ends_S[at] - lengths_S[at])
    return f"soft targets of row {row_name(table, at)}, token {in_row} of those learned from"
