"""A job's inner states, as far as configurations tell: which layers, whether they can be taken."""

from __future__ import annotations

from typing import Any

from raykd.config.job import Job
from raykd.models.alignment import Alignment, InnerShape, align


def alignment_of(job: Job, teacher: Any, student: Any) -> Alignment | None:
    """Both models side by side; None where no inner states are compared.

    Args:
        job: The job.
        teacher: Its `transformers` configuration.
        student: The same of the student.

    Raises:
        ModelError: The layer map or the heads do not fit, or a side's states cannot be taken.
    """
    if job.representations is None:
        return None
    from raykd.models.states import require_states

    found = align(job.representations, InnerShape.of(student), InnerShape.of(teacher))
    attention = found.last if found.relations else (None, None)
    require_states(student, found.student_layers, attention[0], "student.init")
    require_states(teacher, found.teacher_layers, attention[1], "teacher.model")
    return found
