"""A completion with its request, on its way through the filters."""

from __future__ import annotations

from dataclasses import dataclass, field

from raykd.generation.reasoning import Parts, split
from raykd.generation.requests import Request
from raykd.generation.store import Completion


@dataclass(slots=True)
class Sample:
    """A completion, and what was said of it so far."""

    request: Request
    completion: Completion
    parts: Parts = field(init=False)
    verdicts: dict[str, str | None] = field(default_factory=dict)
    """By filter, in their order: why it was dropped, or None where it passed; a filter that it did
    not come to is not there."""
    score: float | None = None
    """What a reward model says of it; None where none was asked."""

    def __post_init__(self) -> None:
        """Tell reasoning and answer apart."""
        self.parts = split(self.text)

    @property
    def text(self) -> str:
        """All that the teacher wrote."""
        return self.completion["completion"] or ""

    @property
    def answer(self) -> str:
        """What follows the reasoning."""
        return (self.parts.answer or "").strip()

    @property
    def dropped(self) -> bool:
        """Whether a filter has dropped it."""
        return any(reason is not None for reason in self.verdicts.values())
