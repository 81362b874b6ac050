"""What soft targets must satisfy on arrival, so that a student never learns from broken ones.

Shapes: M tokens learned from, K ids kept, N temperatures, S rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from raykd.errors import SoftTargetError
from raykd.soft_targets.top_k import TopKTargets

Int64s = npt.NDArray[np.int64]

# Kept mass plus tail may miss 1 by this much: float32 sums of K values stay far below.
MASS_SLACK: Final = 1e-3
# A log probability may exceed 0 by this much, in nats: rounding of a probability of 1.
LOGPROB_SLACK: Final = 1e-4


def require_lengths(
    table: pa.Table, name: str, found_S: Int64s, expected_S: Int64s, why: str
) -> None:
    """Raise unless every row's list of column `name` is as long as expected.

    Args:
        table: Where the lists lie; its `row` column, if there, names the row.
        name: The column.
        found_S: Values in each row.
        expected_S: Values there should be.
        why: Where the expectation comes from, for the message.

    Raises:
        SoftTargetError: Names the first row that differs.
    """
    wrong = np.flatnonzero(found_S != expected_S)
    if wrong.size:
        at = int(wrong[0])
        raise SoftTargetError(
            f"row {_row_name(table, at)}: {name} holds {found_S[at]} values, expected "
            f"{expected_S[at]} ({why}); the targets are truncated or of another job: score the "
            "row again"
        )


def check_values(
    table: pa.Table, targets: TopKTargets, lengths_S: Int64s, vocab_size: int | None
) -> None:
    """Raise unless every token holds a distribution over distinct ids, likeliest first.

    Args:
        table: Where the targets come from; its `row` column, if there, names the row.
        targets: M tokens; the first temperature is 1.
        lengths_S: Tokens of each row.
        vocab_size: If given, ids must be below it.

    Raises:
        SoftTargetError: Names the row, the first such token in it, and what is wrong.
    """
    if targets.num_tokens == 0:
        return
    for good_M, complaint in _conditions(targets, vocab_size):
        if not bool(good_M.all()):
            token = int((~good_M).int().argmax())
            raise SoftTargetError(
                f"{_place(table, lengths_S, token)}: {complaint(token)}; score the row again"
            )


def _conditions(
    targets: TopKTargets, vocab_size: int | None
) -> list[tuple[torch.Tensor, Callable[[int], str]]]:
    """Return each condition [M] with what to say of a token that fails; NaN fails each."""
    logprobs_MK, log_tail_MN = targets.logprobs_TK, targets.log_tail_TN
    ids_MK = targets.ids_TK.sort(1).values
    limit = 2**31 if vocab_size is None else vocab_size
    mass_M = logprobs_MK.exp().sum(1) + log_tail_MN[:, 0].exp()
    # Not diff(): -inf follows -inf where the teacher rules ids out.
    falling_M = (logprobs_MK[:, 1:] <= logprobs_MK[:, :-1]).all(1)
    return [
        (
            (ids_MK[:, 0] >= 0) & (ids_MK[:, -1].long() < limit),
            lambda m: (
                f"its ids reach from {int(ids_MK[m, 0])} to {int(ids_MK[m, -1])}, allowed are 0 "
                f"to {limit - 1}: targets of another vocabulary"
            ),
        ),
        ((ids_MK[:, 1:] > ids_MK[:, :-1]).all(1), lambda m: "an id is there twice"),
        (
            logprobs_MK[:, 0] <= LOGPROB_SLACK,
            lambda m: f"its greatest log probability is {float(logprobs_MK[m, 0])}, allowed is 0",
        ),
        (falling_M, lambda m: "its log probabilities hold NaN or are not likeliest first"),
        (
            (mass_M - 1.0).abs() <= MASS_SLACK,
            lambda m: f"kept mass and tail add up to {float(mass_M[m]):.6g}, not 1",
        ),
        (
            (log_tail_MN < torch.inf).all(1),
            lambda m: f"its log tail is {log_tail_MN[m].tolist()}",
        ),
        (
            targets.label_logprobs_T <= LOGPROB_SLACK,
            lambda m: (
                f"its label's log probability is {float(targets.label_logprobs_T[m])}, allowed is "
                "at most 0"
            ),
        ),
    ]


def _place(table: pa.Table, lengths_S: Int64s, token: int) -> str:
    ends_S = np.cumsum(lengths_S)
    at = int(np.searchsorted(ends_S, token, side="right"))
    in_row = token - int(ends_S[at] - lengths_S[at])
    return f"soft targets of row {_row_name(table, at)}, token {in_row} of those learned from"


def _row_name(table: pa.Table, at: int) -> str:
    if "row" in table.column_names:
        return str(table.column("row")[at].as_py())
    return f"{at} of this table"
