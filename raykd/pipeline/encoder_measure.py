"""The last stage of `method: classifier`: teacher and students measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config.job import Job
from raykd.evaluation import classify, fill_masks
from raykd.evaluation.report_data import (
    STUDENT,
    TEACHER,
    UNTRAINED,
    ModelFacts,
    ModelScores,
    SetScores,
)
from raykd.models.load import ModelSource
from raykd.pipeline.encoder_targets import measured_spec

if TYPE_CHECKING:
    from raykd.pipeline.models import Models
    from raykd.pipeline.stages import Measured


def measure(
    job: Job, models: Models, initial: ModelSource, student: Path, sets: dict[str, Path]
) -> Measured:
    """Measure teacher, untrained student and student on held-out rows with what is known of them.

    Args:
        job: The run's.
        models: The run's.
        initial: The student before training.
        student: The export.
        sets: Name of each set to its rows, scored where there is a teacher.
    """
    import torch

    from raykd.evaluation.compare import read_scored
    from raykd.pipeline.stages import Measured

    assert models.encoder is not None
    torch.set_num_threads(job.student.threads)
    asked = measured_spec(job, models) if job.teacher.is_asked else None
    by_task: Any = fill_masks if models.encoder.masking is not None else classify
    rows = {
        name: by_task.read_rows(read_scored(file), models.encoder, asked)
        for name, file in sets.items()
    }
    facts: dict[str, ModelFacts] = {}
    scores: dict[str, dict[str, ModelScores]] = {name: {} for name in rows}
    for name, found in rows.items():
        if (of_teacher := by_task.teacher_scores(found)) is not None:
            scores[name][TEACHER] = of_teacher
    for role, source in ((UNTRAINED, initial), (STUDENT, ModelSource(str(student)))):
        facts[role], measured = by_task.measure_model(
            role, source, rows, models.encoder, job.student.dtype, job.student.device
        )
        for name, one in measured.items():
            scores[name][role] = one
    return Measured(
        facts,
        {
            name: SetScores(
                rows=found.table.num_rows,
                tokens=found.num_positions,
                top_k=job.evaluation.top_k if models.encoder.masking is not None else 0,
                task=models.encoder.task,
                models=scores[name],
            )
            for name, found in rows.items()
        },
    )
