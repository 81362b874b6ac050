"""The reward model of a job: found before anything is written, asked when all is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config.job import Job
from raykd.models.load import ModelSource, locate

if TYPE_CHECKING:
    from raykd.generation.scorer import Score
    from raykd.pipeline.models import Models


def find_scorer(job: Job, cache: Path) -> ModelSource | None:
    """The reward model that a job names; None where it names none.

    Args:
        job: The run's.
        cache: Where converted weights go.

    Raises:
        ModelError: It is not there, or is no reward model.
    """
    from raykd.generation.scorer import FIELD, require_chats, require_scorer

    if job.generation is None or job.generation.scorer is None:
        return None
    source = locate(job.generation.scorer, FIELD, cache)
    require_scorer(source)
    asked = job.generation
    if asked.as_chat or job.data.corpus.columns.messages is not None:
        require_chats(source, bool(asked.system_prompt) and asked.keep_system_prompt)
    return source


def reward_model(job: Job, models: Models) -> Score | None:
    """What judges completions for `keep_best`; None without a `generation.scorer`."""
    from raykd.generation.scorer import RewardModel

    if models.scorer is None:
        return None
    assert job.generation is not None
    assert job.generation.scorer is not None
    return RewardModel(models.scorer, job.generation.scorer)


def gpus_to_choose(job: Job) -> float:
    """GPUs of the task that judges."""
    scorer = job.generation and job.generation.scorer
    return 1.0 if scorer and scorer.device == "gpu" else 0.0
