"""What runs as one task on the cluster: rows prepared and scored, a student exported, measured.

The driver only starts these and waits, so that its own memory stays flat.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raykd import schema
from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords
from raykd.data.gold import with_gold
from raykd.data.pack import PackingStats
from raykd.data.prepare import open_rows, prepare, prepare_set
from raykd.data.stream import Score
from raykd.errors import CorpusError, ModelError
from raykd.evaluation import compare
from raykd.evaluation.report_data import STUDENT, UNTRAINED, ModelFacts, ModelScores, SetScores
from raykd.models.load import ModelSource, load_tokenizer
from raykd.pipeline import encoder_measure, encoders
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec
from raykd.student.checkpoint import latest, newest_good
from raykd.student.notes import add_note

ROWS_A_REQUEST = 4
"""Held-out rows in one request to the teacher."""


def first_document(corpus: CorpusConfig, field: str) -> str:
    """Where the first readable document is.

    Raises:
        CorpusError: There is none.
    """
    for document in read_documents(corpus, BadRecords.of(corpus, field, None)):
        return document.place
    raise CorpusError(f"{field}: no document")


def prepare_rows(job: Job, run: RunDirectory, models: Models) -> dict[str, Any]:
    """Read, tokenize and pack every corpus; returns statistics by set."""
    if models.encoder is not None:
        told = encoders.prepare_rows(job, run, models)
        return {name: _told(one) for name, one in told.items()}
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    begun = latest(run.checkpoints) is not None
    stats = prepare(job, tokenizer, run.data, run.logs, must_exist=begun)
    return {name: _told(one) for name, one in stats.items()}


def _told(stats: PackingStats) -> dict[str, Any]:
    return {**stats.as_dict(), "sentence": stats.sentence()}


def prepare_other(
    job: Job, models: Models, corpus: CorpusConfig, directory: Path, max_rows: int
) -> dict[str, Any]:
    """The first rows of a corpus, packed as the job's; returns its statistics."""
    if models.encoder is not None:
        return _told(encoders.prepare_other(job, models, corpus, directory, max_rows))
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    return _told(prepare_set(corpus, job.data, tokenizer, directory, max_rows))


def score_set(
    score: Score | None,
    rows: Path,
    target: Path,
    max_rows: int | None = None,
    chosen: list[int] | None = None,
) -> int:
    """Have the teacher score rows and keep them, with what it says, in a file.

    Args:
        score: Whom to ask; None keeps the text alone, which no teacher can score.
        rows: Prepared rows.
        target: The file; it appears whole.
        max_rows: Only the first ones; None is all.
        chosen: Only these rows, in this order; None is the first ones.

    Returns:
        Rows scored; 0 where they had been scored before.
    """
    from raykd.store.scoring import close_all

    if target.is_file():
        return 0
    prepared = open_rows(rows)
    first = _all_rows(min(prepared.num_rows, max_rows or prepared.num_rows))
    numbers = first if chosen is None else _rows_numbered(chosen)
    table = prepared.take(numbers)
    try:
        scored = table if score is None else asyncio.run(_score_all(score, table, numbers))
        scored = with_gold(scored, rows, numbers)
    finally:
        close_all()
    aside = target.with_suffix(".aside")
    with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, scored.schema) as writer:
        writer.write_table(scored)
    aside.rename(target)
    return int(table.num_rows)


def _all_rows(num_rows: int) -> Any:
    import numpy as np

    return np.arange(num_rows, dtype=np.int64)


def _rows_numbered(rows: list[int]) -> Any:
    import numpy as np

    return np.array(rows, dtype=np.int64)


async def _score_all(score: Score, table: pa.Table, numbers: Any) -> pa.Table:
    gate = asyncio.Semaphore(8)
    asked = table.append_column("source_row", pa.array(numbers, pa.int64()))

    async def one(part: pa.Table) -> pa.Table:
        async with gate:
            return await score(part)

    parts = [asked.slice(at, ROWS_A_REQUEST) for at in range(0, table.num_rows, ROWS_A_REQUEST)]
    targets = pa.concat_tables(await asyncio.gather(*(one(part) for part in parts)))
    names = [*schema.PREPARED.names, *targets.column_names]
    return pa.table([*table.columns, *targets.columns], names=names)


def export_student(
    job: Job, run: RunDirectory, models: Models, initial: ModelSource, directory: Path
) -> int:
    """Write the newest checkpoint as a Hugging Face directory; returns the steps it has done."""
    from raykd.student.export import export

    if models.encoder is not None:
        return encoders.export(job, run, models, initial, directory)
    found = newest_good(run.checkpoints, partial(add_note, run.logs))
    if found is None:
        raise ModelError(f"{run.checkpoints}: there is no checkpoint to export")
    export(job, initial, models.teacher, found, directory)
    return int(found.mark.step)


@dataclass(frozen=True)
class Measured:
    """Every model on every set."""

    models: dict[str, ModelFacts]
    sets: dict[str, SetScores]


def measure(
    job: Job,
    models: Models,
    initial: ModelSource,
    student: Path,
    sets: dict[str, Path],
) -> Measured:
    """Measure the untrained student and the student on held-out rows with targets.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        sets: Name of each set to its scored rows.
    """
    import torch

    if models.encoder is not None:
        return encoder_measure.measure(job, models, initial, student, sets)
    torch.set_num_threads(job.student.threads)
    rows = {name: compare.read_scored(file) for name, file in sets.items()}
    spec = heldout_spec(job, models)
    facts: dict[str, ModelFacts] = {}
    scores: dict[str, dict[str, ModelScores]] = {}
    for role, source in ((UNTRAINED, initial), (STUDENT, ModelSource(str(student)))):
        facts[role], scores[role] = compare.measure_model(
            role, source, rows, spec, job.student.dtype, job.student.device
        )
    return Measured(
        facts,
        {
            name: compare.set_scores(
                table, spec.top_k, {role: scores[role][name] for role in scores}
            )
            for name, table in rows.items()
        },
    )
