"""The tail's mass at a temperature that was not kept: between which values it lies.

With x_v the log probability of id v at temperature 1 and s = 1 / temperature, the log tail is
f(s) = log sum over the n = V - K ids left out of exp(s x_v). Three things are known of it:

- it is convex in s (a log-sum-exp of linear functions): chords between kept temperatures bound it
  from above, chords drawn further bound it from below. f(0) is at most log n, which serves as one
  more point wherever the bound keeps its direction; that is the power mean inequality;
- no id left out is likelier than the least kept one, of log probability m: all slopes are at most
  m;
- f(s) <= (s / a) f(a) for s >= a, and >= for s <= a (the norms of one vector fall with their
  order).

Shapes: T tokens, K ids kept, N temperatures.

Source: Boyd and Vandenberghe, "Convex Optimization", sections 3.1.5 (log-sum-exp) and 3.1.8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch


def retempered_tail(
    log_tail_TN: torch.Tensor,
    temperatures: Sequence[float],
    logprobs_TK: torch.Tensor,
    vocab_size: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bound the log tail at a temperature that was not kept.

    Args:
        log_tail_TN: float32, nats: log of the sum over ids not kept of exp(logprob / temperature).
        temperatures: The N at which it was kept, all above 0.
        logprobs_TK: The kept ones at temperature 1, nats, likeliest first. Rounded values
            (`values` other than fp32) move the least of them by up to one scale, and the bounds
            outside the kept temperatures by that times the difference of the 1 / temperature.
        vocab_size: V.
        temperature: The one asked for, above 0 and finite.

    Returns:
        Least and greatest possible log tail [T], float64; equal at a kept temperature. They hold to
        the rounding of `log_tail_TN`, which a chord drawn far outside the kept temperatures
        magnifies.

    Raises:
        ValueError: The temperature is not above 0 and finite.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and above 0; found {temperature}")
    tails = {1.0 / t: log_tail_TN[:, n].double() for n, t in enumerate(temperatures)}
    at = 1.0 / temperature
    if at in tails:
        return tails[at], tails[at]
    least_T = logprobs_TK[:, -1].double()
    num_left = vocab_size - logprobs_TK.shape[1]
    any_T = next(iter(tails.values()))
    everything_T = torch.full_like(any_T, math.log(num_left) if num_left > 0 else -math.inf)
    low_T = _greatest(
        [*_chords(tails, at, outside=True), *_below(tails, everything_T, least_T, at)]
    )
    high_T = _least([*_chords({0.0: everything_T, **tails}, at), *_above(tails, least_T, at)])
    # A tail without mass has none at any temperature; its arithmetic above is inf - inf.
    nothing_T = any_T == -math.inf
    return low_T.masked_fill(nothing_T, -math.inf), high_T.masked_fill(nothing_T, -math.inf)


def _chords(
    tails: dict[float, torch.Tensor], at: float, *, outside: bool = False
) -> Iterator[torch.Tensor]:
    """Values at `at` of the chords that have it between their ends, or outside of them."""
    for a, b in combinations(sorted(tails), 2):
        if (a < at < b) != outside:
            share = (at - a) / (b - a)
            yield (1.0 - share) * tails[a] + share * tails[b]


def _above(
    tails: dict[float, torch.Tensor], least_T: torch.Tensor, at: float
) -> Iterator[torch.Tensor]:
    for a, tail_T in tails.items():
        if at > a:
            yield tail_T + (at - a) * least_T
            yield at / a * tail_T


def _below(
    tails: dict[float, torch.Tensor],
    everything_T: torch.Tensor,
    least_T: torch.Tensor,
    at: float,
) -> Iterator[torch.Tensor]:
    for a, tail_T in tails.items():
        if at < a:
            yield tail_T - (a - at) * least_T
            yield at / a * tail_T
        else:
            # The chord from (0, log n), drawn further.
            yield everything_T + at / a * (tail_T - everything_T)


def _greatest(bounds: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(bounds).amax(0)


def _least(bounds: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(bounds).amin(0)
