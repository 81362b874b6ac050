"""Soft targets from what an endpoint said of each token: a few ids, and one tail for all others.

With the given probabilities p_1 ... p_n the tail's mass is 1 minus the sum of those kept. It is
exact but for rounding: below about 1e-6 it is what float32 and the endpoint's own rounding leave.
What the endpoint names and the student's vocabulary has not belongs to the tail. Where it says
nothing, all mass is on the token that is there: that token is learned as written.

Each token has the same number of ids. Where fewer are known the rest are ids that no text has, of
probability 0, or the rarest where there are too few of those; their true share is in the tail.

Shapes: T learned tokens, K ids kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from raykd.generation.alignment import NOTHING_SAID, Told
from raykd.models.token_bytes import TokenBytes
from raykd.soft_targets.decoded import TopKTargets

LEAST: Final = -87.0
"""Least log probability, in nats, that a label is given: about the least of float32."""


@dataclass(frozen=True)
class Known:
    """What is known of one place.

    Attributes:
        logprobs: Of at most K ids, likeliest first; they and the tail make 1.
        log_tail: Of all other ids together; -inf where nothing is left.
        label: Of the token that is there; at most, where only a bound is known.
    """

    logprobs: dict[int, float]
    log_tail: float
    label: float


def targets_of(
    said: Sequence[Told | None], labels: Sequence[int], top_k: int, vocabulary: TokenBytes
) -> TopKTargets:
    """Soft targets at temperature 1.

    Args:
        said: What the endpoint said of each of T tokens; None where it said nothing.
        labels: The tokens that are there.
        top_k: K.
        vocabulary: Of the student's tokenizer.
    """
    places = [
        Known({label: 0.0}, -math.inf, 0.0)
        if told is None
        else known(told, label, top_k, vocabulary)
        for told, label in zip(said, labels, strict=True)
    ]
    kept = [
        _filled(place.logprobs, label, top_k, vocabulary)
        for place, label in zip(places, labels, strict=True)
    ]
    return TopKTargets(
        torch.tensor([list(one) for one in kept], dtype=torch.int32).view(-1, top_k),
        torch.tensor([list(one.values()) for one in kept], dtype=torch.float32).view(-1, top_k),
        torch.tensor([[place.log_tail] for place in places], dtype=torch.float32).view(-1, 1),
        torch.tensor([place.label for place in places], dtype=torch.float32),
    )


def known(told: Told, label: int, top_k: int, vocabulary: TokenBytes) -> Known:
    """What an endpoint said of one token.

    Args:
        told: An entry of `schema.TOKENS` in which `alignment.wrong_masses` finds nothing wrong.
        label: The token's id.
        top_k: Most ids to keep.
        vocabulary: Of the student's tokenizer.
    """
    found: dict[int, float] = {}
    for one in [told, *(told["top"] or [])]:
        i = label if _same(one, told) else _id(one, vocabulary)
        if i is not None and one["logprob"] > NOTHING_SAID:
            found.setdefault(i, min(one["logprob"], 0.0))
    kept = dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:top_k])
    mass = math.fsum(math.exp(value) for value in kept.values())
    left = 1.0 - mass if len(kept) < len(vocabulary.of_id) else 0.0
    if left <= 0.0:
        kept = {i: value - math.log(mass) for i, value in kept.items()}
    log_tail = math.log(left) if left > 0.0 else -math.inf
    # Drawn from beyond what is told: neither likelier than the least of it, nor than all the rest.
    bound = max(LEAST, min([log_tail, *kept.values()]))
    return Known(kept, log_tail, min(found.get(label, bound), 0.0))


def _same(one: Told, other: Told) -> bool:
    return (one["token"], one["token_id"]) == (other["token"], other["token_id"])


def _id(told: Told, vocabulary: TokenBytes) -> int | None:
    if told["token_id"] is not None:
        return int(told["token_id"]) if told["token_id"] < len(vocabulary.of_id) else None
    candidates = () if told["token"] is None else vocabulary.ids.get(told["token"], ())
    return next(iter(candidates), None)


def _filled(
    kept: dict[int, float], label: int, top_k: int, vocabulary: TokenBytes
) -> dict[int, float]:
    """As many as K, those of no mass last."""
    if len(kept) == top_k:
        return kept
    others = (i for i in vocabulary.unwritten if i not in kept and i != label)
    return kept | {i: -math.inf for i, _ in zip(others, range(top_k - len(kept)), strict=False)}
