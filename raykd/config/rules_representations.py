"""Rules between `representations` and the rest of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raykd.config.method import lacking

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.config.section import Section

_OF_DIVERGENCES: Final = ("divergence", "temperature", "beta", "skew", "head_mass")
_STORE: Final = ("store", "store_mode")


def check(job: Job) -> None:
    """Refuse what does not go together.

    Raises:
        ValueError: Names the key and what to do.
    """
    if job.representations is None:
        if job.method == "representations":
            raise ValueError(
                "method: representations needs a section `representations` that says which layers "
                "are compared and how"
            )
        return
    if job.method not in ("logits", "representations"):
        raise ValueError(
            f"representations goes with `method: representations` or `method: logits`, not with "
            f"`method: {job.method}`: remove the section, or change the method"
        )
    asks = "method: representations" if job.method == "representations" else "representations"
    if (complaint := lacking(job.teacher.engine, "represent", asks)) is not None:
        raise ValueError(complaint)
    if job.method == "representations":
        _nothing_of_logits(job)


def _nothing_of_logits(job: Job) -> None:
    """Keys of a divergence would change nothing."""
    given = [f"loss.{name}" for name in _OF_DIVERGENCES if _is_given(job.loss, name)]
    given += [
        f"soft_targets.{name}"
        for name in type(job.soft_targets).model_fields
        if name not in _STORE and _is_given(job.soft_targets, name)
    ]
    weights = job.loss.token_weights
    given += [
        f"loss.token_weights.{name}"
        for name in ("teacher_confidence", "drop_documents_below")
        if getattr(weights, name) > 0
    ]
    if weights.position_ramp_tokens > 0 and job.loss.alpha == 0:
        given.append("loss.token_weights.position_ramp_tokens")
    if given:
        raise ValueError(
            f"{given[0]}: with `method: representations` nothing is learned from the teacher's "
            "distributions, and it would change nothing: remove it, or choose `method: logits`, "
            "which adds `representations` to the divergence"
        )


def _is_given(section: Section, name: str) -> bool:
    default = type(section).model_fields[name].get_default(call_default_factory=True)
    return bool(getattr(section, name) != default)
