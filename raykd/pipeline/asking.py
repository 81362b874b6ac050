"""Whom a run asks for what its rows bring: the store before the teacher, if there is one."""

from __future__ import annotations

from dataclasses import replace

from raykd.config.job import Job
from raykd.data.stream import Score
from raykd.pipeline import by_slice
from raykd.pipeline.kept import Kept
from raykd.pipeline.metered import Delivered, FromTeacher
from raykd.pipeline.models import Models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import states_spec, training_spec
from raykd.pipeline.teacher import Teacher
from raykd.pipeline.with_states import Teachers, with_states
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.client import Representer
from raykd.teacher.service import Scorer


def score_of(
    job: Job,
    models: Models,
    run: RunDirectory,
    kept: Kept | None,
    teacher: Teacher,
    spec: CodecSpec,
    name: str = "train",
) -> Score | None:
    """Whom to ask for soft targets of a set's rows; None where nobody can be asked.

    Args:
        job: The run's.
        models: The run's.
        run: Its directory.
        kept: Its store, if it has one.
        teacher: Asked where it runs.
        spec: The form that is wanted.
        name: Of the set.
    """
    if not job.teacher.is_asked:
        return None

    def ask(form: CodecSpec, which: int) -> Score | None:
        asked = Scorer(teacher.client, form, which) if teacher.is_running else None
        return FromTeacher(job.name, asked) if asked else None

    score = by_slice.scoring(job, models, kept, spec, run.data / name, ask)
    return None if score is None else Delivered(job.name, score)


def training_score(
    job: Job, models: Models, run: RunDirectory, kept: Kept | None, teacher: Teacher
) -> Score | None:
    """Whom to ask for what training rows bring; None where they bring text alone.

    Args:
        job: The run's.
        models: The run's.
        run: Its directory.
        kept: Its store, if it has one.
        teacher: Asked where it runs.
    """
    spec, states = training_spec(job, models), states_spec(job, models)
    if states is None:
        needed = job.learns_from_logits
        return score_of(job, models, run, kept, teacher, spec) if needed else None
    ask = Teachers(None, None, None)
    if teacher.is_running:
        both = Representer(teacher.client, states, spec if job.learns_from_logits else None)
        alone, targets = replace(both, codec=None), Scorer(teacher.client, spec)
        ask = Teachers(*(FromTeacher(job.name, one) for one in (both, alone, targets)))
    return Delivered(job.name, with_states(job, models, kept, ask))
