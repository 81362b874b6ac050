"""Models that teach slices of the data."""

from __future__ import annotations

from dataclasses import dataclass

from raykd.models.load import ModelSource


@dataclass(frozen=True)
class OfSlices:
    """A model that teaches some slices of the data, alone.

    Attributes:
        slices: Their names.
        source: Where it is.
        identity: Of its weights (`models.identity`).
    """

    slices: tuple[str, ...]
    source: ModelSource
    identity: str

    @property
    def field(self) -> str:
        """What names it in the job file; of several slices, the first."""
        return f"teacher.of_slices.{self.slices[0]}.model"
