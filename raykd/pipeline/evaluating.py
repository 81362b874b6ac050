"""What `raykd eval` runs on the cluster: a sample prepared, and everything measured on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raykd.config.corpus import CorpusConfig
from raykd.config.job import Job
from raykd.config.method import ABILITIES, Ability
from raykd.data.masked import MaskingSpec
from raykd.data.of_slices import SliceTeachers
from raykd.data.samples import Origins, prepare_sample, read_origins
from raykd.evaluation import compare, inspecting, slices
from raykd.evaluation.harness import Harness, metrics_of
from raykd.evaluation.inspection_data import Inspection
from raykd.evaluation.kept import kept_of
from raykd.evaluation.pieces import pieces_of
from raykd.evaluation.report_data import (
    STUDENT,
    TEACHER,
    UNTRAINED,
    ModelFacts,
    ModelScores,
    SetScores,
)
from raykd.evaluation.token_scores import mean, row_means
from raykd.evaluation.worst_rows import Text
from raykd.models.load import ModelSource, load_tokenizer
from raykd.pipeline import encoders
from raykd.pipeline.drifting import drift_of_sample
from raykd.pipeline.models import Models
from raykd.pipeline.targets import heldout_spec

DRIFT_ROWS: Final = 2000
"""Rows of the sample that drift is measured on; those that the models run on are among them."""


@dataclass(frozen=True)
class Looked:
    """What to look into.

    Attributes:
        data: Prepared sets of the run, `train` and `heldout` among them.
        sample: The prepared sample.
        scored: The chosen rows, with the teacher's targets if it can score.
        chosen: Rows of the sample that the models run on.
        batch: The larger of the two batch sizes that models are timed at; 0 times none.
        texts: Whether excerpts of the sample are told.
        harness: Tasks of `lm-eval`; None is none.
    """

    data: Path
    sample: Path
    scored: Path
    chosen: list[int]
    batch: int
    texts: bool
    harness: Harness | None = None


@dataclass(frozen=True)
class Found:
    """What came of it."""

    models: dict[str, ModelFacts]
    scores: SetScores
    inspection: Inspection


def can_score(job: Job) -> bool:
    """Whether the teacher says what it makes of the sample."""
    needed: Ability = "classify" if job.method == "classifier" else "score"
    return needed in ABILITIES[job.teacher.engine]


def prepare_chosen(
    job: Job,
    models: Models,
    corpus: CorpusConfig,
    directory: Path,
    max_rows: int,
    columns: Sequence[str],
) -> tuple[dict[str, Any], list[int]]:
    """Prepare a sample; returns its statistics and the rows that the models will run on.

    Args:
        job: The run's.
        models: The run's.
        corpus: The text.
        directory: Where the rows go.
        max_rows: Rows for the models: all, or so many drawn at random.
        columns: Kept beside the rows, to divide them by.
    """
    tokenizer = load_tokenizer(models.teacher, "teacher.model")
    most = max(max_rows, DRIFT_ROWS)
    taught = encoders.taught(job, models) if models.encoder is not None else None
    if isinstance(taught, MaskingSpec):
        taught = replace(taught, maskings=1)  # another masking is no other text
    teachers = SliceTeachers.of(job)
    stats = prepare_sample(corpus, job.data, tokenizer, directory, most, columns, taught, teachers)
    chosen = _drawn(read_origins(directory).places, max_rows, job)
    told = {**stats.as_dict(), "rows_measured": len(chosen), "sentence": stats.sentence()}
    return told, chosen


def _drawn(places: Sequence[str], max_rows: int, job: Job) -> list[int]:
    """Rows drawn at random; of an embedding's pairs both texts or none."""
    draw = np.random.default_rng(job.seed)
    if job.classifier is None or job.classifier.task != "embedding":
        return sorted(draw.permutation(len(places))[:max_rows].tolist())
    of_place: dict[str, list[int]] = {}
    for row, place in enumerate(places):
        of_place.setdefault(place, []).append(row)
    pairs = list(of_place.values())
    order = [pairs[i] for i in draw.permutation(len(pairs))]
    fits = np.cumsum([len(rows) for rows in order]) <= max(2, max_rows)
    return sorted(row for rows, fit in zip(order, fits, strict=True) if fit for row in rows)


def inspect(job: Job, models: Models, initial: ModelSource, student: Path, at: Looked) -> Found:
    """Measure the untrained student, the student and, as far as it can be had, the teacher.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        at: What to look into.
    """
    import torch

    torch.set_num_threads(job.student.threads)
    origins = read_origins(at.sample)
    text = text_of(models) if at.texts else None
    task = _task(job, models, at, origins, text)
    students = [
        inspecting.Subject(UNTRAINED, initial, job.student.dtype),
        inspecting.Subject(STUDENT, ModelSource(str(student)), job.student.dtype),
    ]
    notes: list[str] = []
    bare = _bare_teacher(job, models, task, notes)
    seen = inspecting.measure(task, students, bare)
    ours = seen.tokens[STUDENT]
    row_kl = row_kl_of(ours.kl_T, ours.row_T, at, origins)
    drift = drift_of_sample(job, models, at.data, at.sample, origins.places, row_kl, notes, text)
    labels = divided_by(task.rows, at, origins)
    inspection = Inspection(
        calibration={role: tokens.calibration for role, tokens in seen.tokens.items()},
        slices=slices.slice_tables(labels, slices.of_tokens(ours, seen.tokens.get(TEACHER))),
        worst=seen.worst,
        costs=seen.costs,
        kept=kept_of(seen.tokens, seen.costs),
        drift=drift,
        tasks=metrics_of(seen.tasks),
        notes=[*notes, *seen.notes],
    )
    return Found(seen.facts, _scores(job, task, seen), inspection)


def _bare_teacher(
    job: Job, models: Models, task: inspecting.Task, notes: list[str]
) -> inspecting.Subject | None:
    """The teacher to load without its service; None, and a note, where it cannot be."""
    teacher = job.teacher
    if not task.scored:
        notes.append(
            f"teacher.engine: {teacher.engine} gives no distributions to compare with: no "
            "divergence, no agreement, no calibration of the teacher"
        )
        return None
    if not (task.batch or task.harness):
        return None
    if teacher.num_shards > 1:
        notes.append(
            f"the teacher is sharded over {teacher.num_shards} devices: it was not loaded "
            "whole, so it was not timed and the cost ratio is not known"
        )
        return None
    if teacher.mixed_in or teacher.of_slices:
        notes.append("the teacher is several models: times and tasks are of `teacher.model` alone")
    return inspecting.Subject(TEACHER, models.teacher, teacher.dtype)


def _task(
    job: Job, models: Models, at: Looked, origins: Origins, text: Text | None
) -> inspecting.Task:
    rows = compare.read_scored(at.scored)
    return inspecting.Task(
        rows=rows,
        scored=compare.is_scored(rows),
        spec=heldout_spec(job, models),
        places=[origins.places[row] for row in at.chosen],
        device=job.student.device,
        batch=at.batch,
        text=text,
        harness=at.harness,
        tokenizer=load_tokenizer(models.teacher, "teacher.model") if at.harness else None,
    )


def text_of(models: Models) -> Text:
    """What turns ids into text, special tokens shown."""
    tokenizer = load_tokenizer(models.teacher, "teacher.model")

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    return text


def divided_by(rows: pa.Table, at: Looked, origins: Origins) -> dict[str, list[str]]:
    """What the measured rows are divided by: columns asked for, file, length."""
    lengths = pieces_of(rows).lengths.tolist()
    chosen = {**origins.slices, "file": origins.files}
    return {
        **{by: [values[row] for row in at.chosen] for by, values in chosen.items()},
        "length": slices.length_labels(lengths),
    }


def _scores(job: Job, task: inspecting.Task, seen: inspecting.Seen) -> SetScores:
    """The table of all reports, from tokens."""
    models: dict[str, ModelScores] = {}
    if task.scored:
        models[TEACHER] = compare.teacher_scores(task.rows)[1]
    for role in (UNTRAINED, STUDENT):
        tokens, costs = seen.tokens[role], seen.costs.get(role)
        models[role] = ModelScores(
            perplexity=slices.perplexity_of(tokens),
            kl_to_teacher=mean(tokens.kl_T),
            top1_agreement=mean(tokens.agreed_T),
            tokens_per_s=costs[-1].read_tokens_per_s if costs else None,
        )
    return SetScores(
        rows=task.rows.num_rows,
        tokens=seen.tokens[STUDENT].num_tokens,
        top_k=job.evaluation.top_k,
        models=models,
    )


def row_kl_of(
    kl_T: npt.NDArray[np.float64] | None,
    row_T: npt.NDArray[np.int64],
    at: Looked,
    origins: Origins,
) -> npt.NDArray[np.float64] | None:
    """The student's mean divergence in each row of the sample; NaN where it was not measured.

    Args:
        kl_T: At each learned position of the measured rows; None without a teacher.
        row_T: The measured row that each stands in.
        at: Which rows were measured.
        origins: Of all rows of the sample.
    """
    if kl_T is None:
        return None
    of_row = np.full(len(origins.places), np.nan)
    of_row[at.chosen] = row_means(kl_T, row_T, len(at.chosen))
    return of_row
