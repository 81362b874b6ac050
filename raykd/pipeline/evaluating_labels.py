"""What `raykd eval` measures of a classifier or a sentence encoder, once its sample is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from raykd.config.classifier import LABELLED
from raykd.config.job import Job
from raykd.data.samples import NO_VALUE, Origins, read_origins
from raykd.evaluation import classify, compare
from raykd.evaluation.classify import MeasuredRows
from raykd.evaluation.inspecting import Subject
from raykd.evaluation.inspecting_labels import SeenLabels, measure_labels
from raykd.evaluation.inspection_data import Inspection, SliceTable
from raykd.evaluation.kept import kept_of_metrics
from raykd.evaluation.label_scores import LOOKED_INTO, against_gold, of_labels
from raykd.evaluation.report_data import STUDENT, TEACHER, UNTRAINED, SetScores
from raykd.evaluation.slices import slice_tables
from raykd.evaluation.worst_texts import Sides, farthest_texts, lost_texts
from raykd.models.load import ModelSource
from raykd.pipeline import stages
from raykd.pipeline.drifting import drift_of_sample
from raykd.pipeline.encoder_targets import measured_spec
from raykd.pipeline.evaluating import Found, Looked, divided_by, row_kl_of, text_of
from raykd.pipeline.models import Models

BY_LABEL: Final = "gold label"


def inspect_labels(
    job: Job, models: Models, initial: ModelSource, student: Path, at: Looked
) -> Found:
    """Measure the untrained student, the student and, if it was asked, the teacher.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        at: What to look into.
    """
    assert models.encoder is not None, "a classifier's"
    if models.encoder.task not in LOOKED_INTO:
        return _figures_alone(job, models, initial, student, at)
    import torch

    torch.set_num_threads(job.student.threads)
    asked = measured_spec(job, models) if job.teacher.is_asked else None
    rows = classify.read_rows(compare.read_scored(at.scored), models.encoder, asked)
    students = [
        Subject(UNTRAINED, initial, job.student.dtype),
        Subject(STUDENT, ModelSource(str(student)), job.student.dtype),
    ]
    teacher = Subject(TEACHER, models.teacher, job.teacher.dtype) if asked else None
    seen = measure_labels(rows, students, teacher, job.student.device, at.batch)
    scores = SetScores(
        rows=rows.table.num_rows,
        tokens=rows.num_positions,
        top_k=0,
        task=rows.spec.task,
        models=seen.scores,
    )
    return Found(seen.facts, scores, _inspection(job, models, rows, seen, at))


def _inspection(
    job: Job, models: Models, rows: MeasuredRows, seen: SeenLabels, at: Looked
) -> Inspection:
    origins, notes = read_origins(at.sample), _notes(rows, seen)
    ours, theirs = seen.labels[STUDENT], seen.labels.get(TEACHER)
    text = text_of(models) if at.texts else None
    kl_P = ours.distance_P if rows.spec.task in LABELLED else None
    row_kl = row_kl_of(kl_P, ours.row_P, at, origins)
    drift = drift_of_sample(job, models, at.data, at.sample, origins.places, row_kl, notes, text)
    found = Inspection(
        calibration={role: one.calibration for role, one in seen.labels.items() if one.calibration},
        slices=_slices(rows, seen, at, origins),
        costs=seen.costs,
        kept=kept_of_metrics({role: one.metrics for role, one in seen.scores.items()}, seen.costs),
        drift=drift,
        against_gold=against_gold(ours, theirs),
        notes=notes,
    )
    if theirs is None:
        return found
    sides = Sides(rows, ours, theirs, [origins.places[row] for row in at.chosen], text)
    worst = {"worst_texts": farthest_texts(sides), "lost_texts": lost_texts(sides)}
    return found.model_copy(update=worst)


def _notes(rows: MeasuredRows, seen: SeenLabels) -> list[str]:
    """What could not be measured, and why."""
    notes = list(seen.notes)
    if rows.teacher_PC is None:
        notes.append(
            "teacher.engine: none, so there is nobody to compare with: no divergence, no worst "
            "texts, no cost ratio"
        )
    elif seen.labels[STUDENT].distance_P is None:
        notes.append("the student's vectors have another width than the teacher's")
    if rows.spec.task in LABELLED and seen.labels[STUDENT].calibration is None:
        notes.append("no text has a gold label: no accuracy and no calibration")
    return notes


def _slices(rows: MeasuredRows, seen: SeenLabels, at: Looked, origins: Origins) -> list[SliceTable]:
    divided = divided_by(rows.table, at, origins)
    if rows.spec.task == "single_label" and rows.gold_PW is not None:
        names = (*rows.spec.labels, NO_VALUE)
        numbers_P = np.nan_to_num(rows.gold_PW[:, 0], nan=-1).astype(np.int64)
        of_row = dict(zip(seen.labels[STUDENT].row_P.tolist(), numbers_P.tolist(), strict=True))
        labels = [names[of_row.get(row, -1)] for row in range(rows.table.num_rows)]
        divided = {BY_LABEL: labels, **divided}
    return slice_tables(divided, of_labels(rows, seen.labels[STUDENT], seen.labels.get(TEACHER)))


def _figures_alone(
    job: Job, models: Models, initial: ModelSource, student: Path, at: Looked
) -> Found:
    """The figures of the run itself, and the drift of the texts."""
    name = "sample"
    alone = "of `task: masked` figures and drift are told: no model is timed, no rows divided"
    measured = stages.measure(job, models, initial, student, {name: at.scored})
    scores, notes, places = measured.sets[name], [alone], read_origins(at.sample).places
    text = text_of(models) if at.texts else None
    drift = drift_of_sample(job, models, at.data, at.sample, places, None, notes, text)
    metrics = {role: one.metrics for role, one in scores.models.items()}
    found = Inspection(kept=kept_of_metrics(metrics, {}), drift=drift, notes=notes)
    return Found(measured.models, scores, found)
