"""Which soft targets a run keeps, what of its rows is there already, and so whom it has to ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.config.job import Job
from raykd.config.soft_targets import StoreMode
from raykd.data.of_slices import teachers_of
from raykd.data.order import RowOrder
from raykd.data.prepare import open_rows
from raykd.data.stream import Score
from raykd.pipeline.at_hand import targets_identity
from raykd.soft_targets.spec import STATES, CodecSpec
from raykd.soft_targets.states import whole_documents
from raykd.store.scoring import KeptScorer
from raykd.store.section import Section
from raykd.store.sections import sections
from raykd.store.store import SoftTargetStore

if TYPE_CHECKING:
    from raykd.pipeline.models import Models

DIRECTORY: Final = ".soft_targets"
"""Of a storage path's own store."""
ROWS_AT_ONCE: Final = 1024


def location_of(job: Job) -> str | None:
    """Where the job's soft targets are kept; None where nothing is."""
    text_only = job.teacher.endpoint is not None and not job.targets_are_given
    if job.soft_targets.store_mode == "off" or text_only:
        return None
    default = Path(job.storage_path).expanduser().resolve() / DIRECTORY
    return job.soft_targets.store or str(default)


def holds_anything(job: Job) -> bool:
    """Whether the store has soft targets of any teacher, so that this one may not be needed."""
    location = location_of(job)
    # What an endpoint said is laid there once its text is chosen: nothing is looked up before.
    return location is not None and not job.targets_are_given and bool(sections(location))


@dataclass(frozen=True)
class Kept:
    """The store of a run; small enough to travel."""

    location: str
    mode: StoreMode
    teacher: str
    tokenizer: str

    @classmethod
    def of(cls, job: Job, models: Models) -> Kept | None:
        """The job's store; None where nothing is kept."""
        location = location_of(job)
        if location is None:
            return None
        teacher = targets_identity(job, models.teacher_identity)
        return cls(location, job.soft_targets.store_mode, teacher, models.tokenizer_identity)

    def section(self, spec: CodecSpec) -> Section:
        """Where targets of this form lie."""
        return Section(self.teacher, self.tokenizer, spec)

    def scorer(self, spec: CodecSpec, ask: Score | None) -> KeptScorer:
        """Reads what is kept, asks for the rest and keeps that; without `ask` all must be there."""
        return KeptScorer(self.location, self.section(spec), ask, write=ask is not None)


def scoring(kept: Kept | None, spec: CodecSpec, ask: Score | None) -> Score | None:
    """Whom to ask for soft targets: the store before the teacher, where there is one."""
    return ask if kept is None else kept.scorer(spec, ask)


@dataclass(frozen=True)
class Lacking:
    """How many rows of a set have no soft targets yet."""

    rows: int
    of: int


def count_lacking(
    kept: Kept,
    spec: CodecSpec,
    rows_directory: Path,
    order: RowOrder | None = None,
    places: range = range(0),
    teacher: int | None = None,
) -> Lacking:
    """Look up rows in the store; one task on the cluster.

    Args:
        kept: The store.
        spec: The form that is wanted.
        rows_directory: Prepared rows.
        order: Of the run; None looks at all rows.
        places: Of the run, whose rows are looked at.
        teacher: Only rows of this one of several teachers (`data.of_slices`); None looks at all.
    """
    rows = open_rows(rows_directory)
    wanted = _sources(rows.num_rows, order, places)
    if teacher is not None:
        wanted = wanted[teachers_of(rows_directory, wanted) == teacher]
    store = SoftTargetStore.open(kept.location, kept.section(spec), write=False)
    held = sum(
        int(store.holds(_keyed(rows.take(wanted[at : at + ROWS_AT_ONCE]), spec)).sum())
        for at in range(0, len(wanted), ROWS_AT_ONCE)
    )
    return Lacking(len(wanted) - held, len(wanted))


def _keyed(rows: pa.Table, spec: CodecSpec) -> pa.Table:
    """Rows as the store knows them."""
    return whole_documents(rows) if spec.codec == STATES else rows


def _sources(num_rows: int, order: RowOrder | None, places: range) -> npt.NDArray[np.int64]:
    if order is None or len(places) >= num_rows:
        return np.arange(num_rows, dtype=np.int64)
    sources = np.unique(order.source_rows(places.start, places.stop))
    return sources[sources >= 0]
