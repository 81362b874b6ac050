"""`teacher.mixed_in`: other models whose distributions are averaged with the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raykd.config.model import ModelConfig
from raykd.config.rules_distributions import check_distributions

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.config.teacher import TeacherConfig


class MixedInConfig(ModelConfig):
    """A model with the teacher's tokenizer, and its share of the mixture."""

    weight: float = Field(
        gt=0, lt=1, description="Its share of every distribution; `teacher.model` has the rest."
    )


def check_teacher(teacher: TeacherConfig) -> None:
    """Refuse a mixture that is none.

    Raises:
        ValueError: Another engine, or shares that leave the teacher nothing.
    """
    if not teacher.mixed_in:
        return
    if teacher.engine != "transformers":
        raise ValueError(
            f"mixed_in is for `engine: transformers`, which has all logits; found {teacher.engine}"
        )
    taken = sum(each.weight for each in teacher.mixed_in)
    if taken >= 1:
        raise ValueError(
            f"mixed_in: the weights add up to {taken:g} and leave `model` nothing; they must stay "
            "below 1"
        )


def check_job(job: Job) -> None:
    """Refuse what an average of distributions cannot give.

    Raises:
        ValueError: Names the field.
    """
    if not job.teacher.mixed_in:
        return
    does = "averages distributions over the next token"
    check_distributions(job, "teacher.mixed_in", does)
