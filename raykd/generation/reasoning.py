"""Reasoning before an answer: `<think>...</think>`, told apart from what follows it."""

from __future__ import annotations

from typing import Final, NamedTuple

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


class Parts(NamedTuple):
    """A completion in two: joined they are the text again.

    `reasoning` has its tags; it is None where there is none. `answer` is None where the reasoning
    does not end.
    """

    reasoning: str | None
    answer: str | None


def split(completion: str) -> Parts:
    """Tell the reasoning from the answer.

    A template may have written the opening tag itself, so that only the closing one is there.
    """
    at = completion.rfind(CLOSE)
    if at >= 0:
        end = at + len(CLOSE)
        return Parts(completion[:end], completion[end:])
    if completion.lstrip().startswith(OPEN):
        return Parts(completion, None)
    return Parts(None, completion)
