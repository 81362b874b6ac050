"""What a job may not ask where several models give distributions over the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykd.config.job import Job


def check_distributions(job: Job, field: str, does: str) -> None:
    """Refuse what only one model can be asked for.

    Args:
        job: The job.
        field: The key that names several models.
        does: What it does with distributions, for the message.

    Raises:
        ValueError: Names both keys.
    """
    asks = {
        f"method: {job.method}": job.method != "logits",
        "generation": job.generation is not None,
        "representations": job.representations is not None,
    }
    for other, asked in asks.items():
        if asked:
            raise ValueError(
                f"{field} {does}; `{other}` asks one model for something else: remove one of the "
                "two"
            )
    if job.soft_targets.codec in ("hidden", "auto"):
        raise ValueError(
            f"soft_targets.codec: {job.soft_targets.codec} sends one model's hidden states, and "
            f"`{field}` has several models; choose top_k, sampled or full"
        )
