"""Which of a document's learned tokens an endpoint wrote, and what it said of each.

An endpoint's log probabilities are of its own tokens. They are of use only where the document,
tokenized as the run does it, has the very same ones. What a template writes around the completion,
the end of the turn above all, is not the endpoint's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from raykd.models.token_bytes import TokenBytes
from raykd.soft_targets.checks import LOGPROB_SLACK, MASS_SLACK

SAME_TOKENS: Final = "same_tokens"
"""The verdict's name."""
NOTHING_SAID: Final = -9999.0
"""What OpenAI and vLLM write where a token is so unlikely that they give no figure."""
NO_TEXT: Final = b"\xff"
"""Stands for a special token: a byte that is in no text."""

UNTOLD: Final = "the endpoint gave no log probabilities of it"
EARLIER: Final = (
    "an earlier turn of the assistant is learned too, of which the endpoint says nothing"
)
RENDERED: Final = "the chat template writes the completion otherwise"

Told = dict[str, Any]
"""What an endpoint said of one token: an entry of `schema.TOKENS`."""


def align(
    tokens: Sequence[Told] | None,
    ids: npt.NDArray[np.int32],
    learn: npt.NDArray[np.uint8],
    text: str,
    vocabulary: TokenBytes,
) -> dict[int, Told] | str:
    """Find the endpoint's tokens in a document.

    Args:
        tokens: A value of `schema.TOKENS`.
        ids: The document's, [n].
        learn: [n]; 1 where the token is to be learned.
        text: What of the completion is learned.
        vocabulary: Of the document's tokenizer.

    Returns:
        What was said of learned tokens, by their places in the document; of the other learned ones
        nothing was said. Or why the document cannot be learned so.
    """
    if not tokens:
        return UNTOLD
    places = np.flatnonzero(learn)
    if len(places) and places[-1] - places[0] + 1 != len(places):
        return EARLIER
    run = ids[places].tolist()
    span = _span(run, text, vocabulary)
    if span is None:
        return RENDERED
    wanted = run[span.start : span.stop]
    begin = _begin(tokens, wanted, vocabulary)
    if begin is None:
        return _difference(tokens, wanted, vocabulary)
    # Some endpoints give the end of the turn too.
    stop, end = begin + len(wanted), span.stop
    if end < len(run) and stop < len(tokens) and is_token(tokens[stop], run[end], vocabulary):
        stop, end = stop + 1, end + 1
    first = int(places[0]) + span.start
    said = dict(enumerate(tokens[begin:stop], first))
    for place, told in said.items():
        if wrong := wrong_masses(told):
            return f"token {place - first}: {wrong}"
    return said


def _span(run: list[int], text: str, vocabulary: TokenBytes) -> range | None:
    """Which of the learned tokens hold the text; a template may write without spaces around it."""
    parts = [vocabulary.of_id[i] or NO_TEXT for i in run]
    whole = b"".join(parts)
    ends = np.cumsum([len(part) for part in parts])
    for wanted in (text.encode(), text.strip().encode()):
        at = whole.rfind(wanted)
        if wanted and at >= 0:
            first = int(np.searchsorted(ends, at, side="right"))
            last = int(np.searchsorted(ends, at + len(wanted), side="left"))
            return range(first, last + 1)
    return None


def _begin(tokens: Sequence[Told], wanted: list[int], vocabulary: TokenBytes) -> int | None:
    """Where in the endpoint's tokens these are; before them it may have reasoned."""
    for begin in range(len(tokens) - len(wanted), -1, -1):
        if all(is_token(tokens[begin + n], i, vocabulary) for n, i in enumerate(wanted)):
            return begin
    return None


def is_token(told: Told, token_id: int, vocabulary: TokenBytes) -> bool:
    """Whether what an endpoint names is this id."""
    if told["token_id"] is not None:
        return bool(told["token_id"] == token_id)
    return told["token"] is not None and token_id in vocabulary.ids.get(told["token"], ())


def _difference(tokens: Sequence[Told], wanted: list[int], vocabulary: TokenBytes) -> str:
    """The first token that is another."""
    for n, (told, i) in enumerate(zip(tokens, wanted, strict=False)):
        if not is_token(told, i, vocabulary):
            here = vocabulary.of_id[i]
            return f"token {n} is {_shown(told)} to the endpoint and {here!r} (id {i}) here"
    return f"the endpoint wrote {len(tokens)} tokens, and here they are {len(wanted)}"


def _shown(told: Told) -> str:
    return f"id {told['token_id']}" if told["token_id"] is not None else repr(told["token"])


def wrong_masses(told: Told) -> str | None:
    """Why what was said of one token is no distribution; None if it may be one."""
    values = [told["logprob"], *(one["logprob"] for one in told["top"] or [])]
    if max(values) > LOGPROB_SLACK:
        return f"a log probability is {max(values):g}, above 0"
    if max(values) <= NOTHING_SAID:
        return "no log probability is given"
    masses = {_name(one): one["logprob"] for one in told["top"] or []}
    # Drawn from beyond the likeliest, it comes on top of them.
    masses.setdefault(_name(told), told["logprob"])
    mass = math.fsum(math.exp(value) for value in masses.values())
    return f"its log probabilities add up to {mass:.4g}, above 1" if mass > 1 + MASS_SLACK else None


def _name(told: Told) -> tuple[bytes | None, int | None]:
    return told["token"], told["token_id"]
