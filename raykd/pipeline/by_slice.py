"""Soft targets of rows, each asked of the teacher of its slice.

Each teacher's answers lie in a section of the store of its own, so that a run with that teacher
alone reads them, and the other way round. On their way to the student all carry the run's stamp.

Shapes: n rows of one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from raykd.config.job import Job
from raykd.data.of_slices import teachers_of
from raykd.data.order import RowOrder
from raykd.data.stream import HoldsBack, Score
from raykd.pipeline import kept as one_teacher
from raykd.pipeline.at_hand import targets_identity
from raykd.pipeline.kept import Kept, Lacking
from raykd.soft_targets.columns import STAMP, check_stamp
from raykd.soft_targets.spec import CodecSpec
from raykd.store.scoring import KeptScorer

if TYPE_CHECKING:
    from raykd.pipeline.models import Models

Ask = Callable[[CodecSpec, int], Score | None]
"""The running teacher asked for a form of soft targets, of the model of that number."""


@dataclass(frozen=True)
class OfTeacher:
    """One teacher asked.

    Attributes:
        score: The store before it, or itself.
        stamp: Of the soft targets that it gives.
    """

    score: Score
    stamp: int


@dataclass(frozen=True)
class BySlice:
    """Rows to their soft targets and `teacher_s`, row for row; small enough to travel.

    Attributes:
        rows_directory: The prepared set that rows are of.
        teachers: By number.
        stamp: Of the run's soft targets.
    """

    rows_directory: Path
    teachers: tuple[OfTeacher, ...]
    stamp: int

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Ask one teacher after the other, so that a block has one request on its way at a time.

        Args:
            rows: n rows with the columns of `schema.PREPARED` and `source_row`.

        Raises:
            SoftTargetError: An answer is another teacher's.
            StoreError: Rows are missing and there is no teacher; or the store fails.
        """
        teachers = teachers_of(self.rows_directory, rows.column("source_row").to_numpy())
        answers, places = [], []
        for number in np.unique(teachers):
            own = np.flatnonzero(teachers == number)
            part = rows if len(own) == rows.num_rows else rows.take(pa.array(own))
            answers.append(await self._asked(self.teachers[number], part))
            places.append(own)
        if len(answers) == 1:
            return answers[0]
        return pa.concat_tables(answers).take(pa.array(np.argsort(np.concatenate(places))))

    async def _asked(self, teacher: OfTeacher, rows: pa.Table) -> pa.Table:
        answer = await teacher.score(rows)
        assert answer.num_rows == rows.num_rows, "an answer has a row for each row asked"
        check_stamp(answer, teacher.stamp)
        stamps = pa.array(np.full(rows.num_rows, self.stamp, np.uint32))
        return answer.set_column(answer.column_names.index(STAMP), STAMP, stamps)

    @property
    def stores(self) -> tuple[KeptScorer, ...]:
        """What is read before teachers are asked."""
        return tuple(one.score for one in self.teachers if isinstance(one.score, KeptScorer))

    def flush(self) -> None:
        """Publish what the stores hold back."""
        for one in self.teachers:
            held: object = one.score
            if isinstance(held, HoldsBack):
                held.flush()


def scoring(
    job: Job, models: Models, kept: Kept | None, spec: CodecSpec, rows_directory: Path, ask: Ask
) -> Score | None:
    """Whom to ask for soft targets of a set: stores before teachers; None where nobody can be.

    Args:
        job: The run's.
        models: The run's.
        kept: The run's store; None where nothing is kept.
        spec: The form that is wanted.
        rows_directory: Of the set.
        ask: The running teacher, if there is one.
    """
    if not models.of_slices:
        return one_teacher.scoring(kept, spec, ask(spec, 0))
    teachers = []
    for number, identity in enumerate(_identities(job, models)):
        own = replace(spec, fingerprint=identity)
        store = None if kept is None else replace(kept, teacher=identity)
        score = one_teacher.scoring(store, own, ask(own, number))
        if score is None:
            return None
        teachers.append(OfTeacher(score, own.stamp))
    return BySlice(rows_directory, tuple(teachers), spec.stamp)


def count_lacking(
    job: Job,
    models: Models,
    kept: Kept,
    spec: CodecSpec,
    rows_directory: Path,
    order: RowOrder | None = None,
    places: range = range(0),
) -> Lacking:
    """Look up rows in the store, each in the section of its teacher; see `kept.count_lacking`."""
    if not models.of_slices:
        return one_teacher.count_lacking(kept, spec, rows_directory, order, places)
    found = [
        one_teacher.count_lacking(
            replace(kept, teacher=identity),
            replace(spec, fingerprint=identity),
            rows_directory,
            order,
            places,
            teacher=number,
        )
        for number, identity in enumerate(_identities(job, models))
    ]
    return Lacking(sum(one.rows for one in found), sum(one.of for one in found))


def of_first(job: Job, models: Models, spec: CodecSpec) -> CodecSpec:
    """The form of the first teacher's own answers, as they are kept."""
    return replace(spec, fingerprint=_identities(job, models)[0]) if models.of_slices else spec


def _identities(job: Job, models: Models) -> list[str]:
    """Of each teacher's soft targets, by number, as a run with it alone has them."""
    weights = [models.teacher_identity, *(one.identity for one in models.of_slices)]
    return [targets_identity(job, one) for one in weights]
