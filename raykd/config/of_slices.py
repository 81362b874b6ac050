"""`teacher.of_slices`: models that teach slices of the data, each its own, alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from raykd.config.model import ModelConfig
from raykd.config.rules_distributions import check_distributions

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.config.teacher import TeacherConfig


class OfSliceConfig(ModelConfig):
    """A model with the teacher's tokenizer, which teaches one slice of the data alone."""


class SharedModel(NamedTuple):
    """A model of `of_slices`, and the slices that name it."""

    slices: tuple[str, ...]
    config: OfSliceConfig

    @property
    def field(self) -> str:
        """Its section in the job file; of several, the first."""
        return f"teacher.of_slices.{self.slices[0]}"


def shared_models(of_slices: Mapping[str, OfSliceConfig]) -> list[SharedModel]:
    """The models of slices, each once, in an order that the job file's does not change."""
    slices: dict[OfSliceConfig, list[str]] = {}
    for name in sorted(of_slices):
        slices.setdefault(of_slices[name], []).append(name)
    return [SharedModel(tuple(names), config) for config, names in slices.items()]


def teacher_numbers(of_slices: Mapping[str, OfSliceConfig]) -> dict[str, int]:
    """The number of the teacher of each slice: its place among the models, from 1.

    0 is `teacher.model`, which teaches all that is not named.
    """
    models = shared_models(of_slices)
    return {name: number for number, one in enumerate(models, 1) for name in one.slices}


def check_teacher(teacher: TeacherConfig) -> None:
    """Refuse slices that no engine can divide.

    Raises:
        ValueError: Another engine, or a mixture beside them.
    """
    if not teacher.of_slices:
        return
    if teacher.engine != "transformers":
        raise ValueError(
            "of_slices is for `engine: transformers`, which holds several models; found "
            f"{teacher.engine}"
        )
    if teacher.mixed_in:
        raise ValueError(
            "of_slices gives each slice one teacher, mixed_in averages several for all of them: "
            "remove one of the two"
        )
    if "" in teacher.of_slices:
        raise ValueError("of_slices: a slice without a name; give the value that its records have")


def check_job(job: Job) -> None:
    """Refuse what teachers of slices cannot give, and slices that nobody looks at.

    Raises:
        ValueError: Names the field.
    """
    corpora = {"data.corpus": job.data.corpus} | {
        f"evaluation.sets.{name}": corpus for name, corpus in job.evaluation.sets.items()
    }
    if not job.teacher.of_slices:
        for field, corpus in corpora.items():
            if corpus.columns.slice is not None:
                raise ValueError(
                    f"{field}.columns.slice: nothing looks at it, since no slice has a teacher of "
                    "its own: name them in `teacher.of_slices`, or remove it"
                )
        return
    does = "divides rows by whose distributions over the next token they are learned with"
    check_distributions(job, "teacher.of_slices", does)
    if not job.needs_teacher_for_training:
        raise ValueError(
            "teacher.of_slices: with `loss.alpha: 1` no teacher is learned from; remove it"
        )
    if job.data.corpus.columns.slice is None:
        raise ValueError(
            "teacher.of_slices: which slice is a document of? Name the column that says it in "
            "`data.corpus.columns.slice`"
        )
