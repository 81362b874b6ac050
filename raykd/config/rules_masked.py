"""Rules between `classifier: {task: masked}` and the other sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raykd.config.classifier import ClassifierConfig
    from raykd.config.job import Job

OF_CODECS: Final = ("store", "store_mode", "codec", "top_k", "values", "tail", "temperatures")
"""Keys of `soft_targets` that mean something here."""
OF_LOSS: Final = ("temperature", "alpha", "divergence", "beta", "skew", "head_mass")

_CODECS: Final = ("top_k", "full")


def check_masked(job: Job, section: ClassifierConfig) -> None:
    """Refuse what does not go together.

    Raises:
        ValueError: Names the key, and what to do.
    """
    codec = job.soft_targets.codec
    if codec not in _CODECS:
        raise ValueError(
            f"soft_targets.codec: {codec}; the distributions of `task: masked` travel as "
            f"{' or '.join(_CODECS)}"
        )
    if section.cosine > 0 and codec != "top_k":
        raise ValueError(
            f"soft_targets.codec: {codec}; with `classifier.cosine` hidden states travel beside "
            "the likeliest ids: choose top_k, or remove `cosine`"
        )
    sets = job.evaluation.sets.items()
    corpora = {"data.corpus": job.data.corpus} | {f"evaluation.sets.{n}": c for n, c in sets}
    for field, corpus in corpora.items():
        if corpus.columns.label is not None:
            raise ValueError(
                f"{field}.columns.label: `task: masked` learns from the text alone; remove it"
            )
