"""Is there a choice of one pattern for each node, so that together they hold everything?

Node by node the totals that can be reached are kept, but only those that no other is as large as in
every place, none larger than what is wanted, and none from which the nodes left could not reach it
by a weighted sum. All three lose nothing, so the answer is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

Counts = tuple[int, ...]
Weights = tuple[float, ...]
_Trail = tuple["_Trail", int, Counts] | None
"""The nodes before, the type of this one, what it holds."""
_ROUNDS: Final = 60
_SLACK: Final = 1e-9


def search(
    wanted: Sequence[int], types: Sequence[tuple[int, list[Counts]]]
) -> list[tuple[int, Counts]] | None:
    """Choose what each node holds.

    Args:
        wanted: How many of each piece there are.
        types: For each node type its number of nodes, and the largest that one can hold.

    Returns:
        A type's index and what the node holds, for each node in use; None where there is no choice.
    """
    goal = tuple(wanted)
    bounds = [_Bound(weights, goal, types) for weights in _weights(goal, types)]
    reached: dict[Counts, _Trail] = {(0,) * len(goal): None}
    for index, (nodes, patterns) in enumerate(types):
        for left in range(nodes - 1, -1, -1):
            before = reached
            reached = _one_more(before, index, patterns, goal, bounds, left)
            if goal in reached:
                return _trail(reached[goal])
            if not reached:
                return None
    return None


class _Bound:
    """A weighted sum of pieces, and the most of it that the nodes left can add."""

    def __init__(
        self, weights: Weights, goal: Counts, types: Sequence[tuple[int, list[Counts]]]
    ) -> None:
        self.weights = weights
        self._each = [_most(weights, patterns) for _, patterns in types]
        self._wanted = _dot(weights, goal) * (1 - _SLACK)
        self._later = [
            sum(nodes * most for (nodes, _), most in zip(types[i:], self._each[i:], strict=True))
            for i in range(1, len(types) + 1)
        ]

    def reaches(self, total: Counts, index: int, left: int) -> bool:
        """Whether a total may still become what is wanted."""
        most = left * self._each[index] + self._later[index]
        return _dot(self.weights, total) + most >= self._wanted


def _weights(goal: Counts, types: Sequence[tuple[int, list[Counts]]]) -> list[Weights]:
    """Weights under which the nodes hold little: each piece alone, and mixtures.

    What is held too much of loses weight, what is missing gains (multiplicative weights, Arora,
    Hazan, Kale, "The multiplicative weights update method", Theory of Computing 8, 2012).
    """
    size = len(goal)
    found: list[Weights] = [tuple(float(i == j) for j in range(size)) for i in range(size)]
    logs = [0.0] * size
    mean = [0.0] * size
    for round_ in range(1, _ROUNDS + 1):
        weights = tuple(math.exp(min(50.0, x)) / count for x, count in zip(logs, goal, strict=True))
        held = [0] * size
        for nodes, patterns in types:
            best = max(patterns, key=lambda pattern: _dot(weights, pattern), default=(0,) * size)
            held = [a + nodes * b for a, b in zip(held, best, strict=True)]
        mean = [a + b for a, b in zip(mean, _normal(weights, goal), strict=True)]
        logs = [
            x - (min(2.0, have / count) - 1.0) / math.sqrt(round_)
            for x, have, count in zip(logs, held, goal, strict=True)
        ]
        if round_ % 10 == 0:
            found += [weights, tuple(mean)]
    return found


def _normal(weights: Weights, goal: Counts) -> list[float]:
    scale = _dot(weights, goal)
    return [weight / scale for weight in weights]


def _most(weights: Weights, patterns: list[Counts]) -> float:
    return max((_dot(weights, pattern) for pattern in patterns), default=0.0)


def _dot(weights: Weights, counts: Counts) -> float:
    return sum(weight * count for weight, count in zip(weights, counts, strict=True))


def _one_more(
    reached: dict[Counts, _Trail],
    index: int,
    patterns: list[Counts],
    goal: Counts,
    bounds: list[_Bound],
    left: int,
) -> dict[Counts, _Trail]:
    grown: dict[Counts, _Trail] = {}
    for at, trail in reached.items():
        for pattern in patterns or [(0,) * len(goal)]:
            total = tuple(min(a + b, c) for a, b, c in zip(at, pattern, goal, strict=True))
            if total not in grown and all(b.reaches(total, index, left) for b in bounds):
                grown[total] = (trail, index, pattern)
    kept: dict[Counts, _Trail] = {}
    for one in sorted(grown, reverse=True):
        if not any(all(a <= b for a, b in zip(one, other, strict=True)) for other in kept):
            kept[one] = grown[one]
    return kept


def _trail(trail: _Trail) -> list[tuple[int, Counts]]:
    found = []
    while trail is not None:
        trail, index, pattern = trail
        if any(pattern):
            found.append((index, pattern))
    return found
