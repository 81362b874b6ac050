"""Who teaches the rows of a set, where slices of the data have teachers of their own.

A row holds documents of one teacher. Whose it is lies beside the rows, by row number, and is no
part of a row itself.

Shapes: N rows of a set, n rows asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from raykd.config.job import Job
from raykd.config.of_slices import shared_models, teacher_numbers
from raykd.errors import CorpusError, StorageError

FILE: Final = "teachers.npy"
NAMED_SLICES: Final = 20
"""Slices that a message names one by one, the largest first."""

Numbers = npt.NDArray[np.int16]


@dataclass(frozen=True)
class SliceTeachers:
    """The teachers of a job's slices.

    Attributes:
        numbers: Of each named slice the number of its teacher, from 1; 0 teaches all others.
        names: Of each teacher its slices and its model, by number; for people.
    """

    numbers: Mapping[str, int]
    names: tuple[str, ...]

    @classmethod
    def of(cls, job: Job) -> SliceTeachers | None:
        """A job's; None where one teacher has all the data."""
        of_slices = job.teacher.of_slices
        if not of_slices:
            return None
        shared = shared_models(of_slices)
        named = [f"{' + '.join(one.slices)} ({one.config.model})" for one in shared]
        return cls(teacher_numbers(of_slices), (f"others ({job.teacher.model})", *named))

    def number(self, slice_name: str | None) -> int:
        """The teacher of a slice; of a document that names none, the teacher of all others."""
        return 0 if slice_name is None else self.numbers.get(slice_name, 0)

    def require_all(self, found: Counter[str], field: str) -> None:
        """Refuse a teacher of a slice that no document is of: a misspelt name would teach nothing.

        Args:
            found: Documents of each slice.
            field: Of the corpus, for the message.

        Raises:
            CorpusError: Names the slices that are there.
        """
        absent = sorted(set(self.numbers) - set(found))
        if not absent:
            return
        shown = ", ".join(f"{name!r} ({num:,})" for name, num in found.most_common(NAMED_SLICES))
        more = f" and {len(found) - NAMED_SLICES} more" if len(found) > NAMED_SLICES else ""
        raise CorpusError(
            f"teacher.of_slices.{absent[0]}: no document of {field} is of that slice; those that "
            f"are there, with their documents: {shown or 'none'}{more}. Mend the name, or see that "
            f"{field}.columns.slice names the right column"
        )


def slice_facts(teachers: SliceTeachers | None) -> dict[str, Any]:
    """What prepared rows depend on beside the text; nothing where one teacher has all of it."""
    return {} if teachers is None else {"of_slices": dict(teachers.numbers)}


def save_teachers(directory: Path, numbers: list[int]) -> None:
    """Write the teacher's number of each row of a set [N], in the set's order."""
    np.save(directory / FILE, np.array(numbers, dtype=np.int16))


def teachers_of(directory: Path, source_rows: npt.NDArray[np.int64]) -> Numbers:
    """Read who teaches rows.

    Args:
        directory: Of the set.
        source_rows: Numbers of rows [n]; -1 is a filler: it goes with the first that is none.

    Returns:
        Numbers of teachers [n].

    Raises:
        StorageError: The file is missing or broken.
    """
    real = source_rows >= 0
    found = _opened(directory)[np.where(real, source_rows, 0)]
    first = found[real][0] if real.any() else 0
    return np.where(real, found, first).astype(np.int16)


@lru_cache(maxsize=8)
def _opened(directory: Path) -> Numbers:
    try:
        numbers: Numbers = np.load(directory / FILE)
        return numbers
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{directory}: who teaches its rows cannot be read ({error}); remove the directory and "
            "run again"
        ) from error
