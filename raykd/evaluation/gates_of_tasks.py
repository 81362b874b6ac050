"""Which figures can be limited: of models of text, and of each task of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from raykd.config.classifier import Task
from raykd.errors import JobError
from raykd.evaluation.gates import KEYS, Gate

_ALWAYS: Final = frozenset({key for key in KEYS if key.startswith("drift_")} | {"far_rows"})
_TIMED: Final = _ALWAYS | {"cost_ratio", "peak_bytes", "metric_kept"}
_OF_LABELS: Final = _TIMED | {
    *("accuracy", "accuracy_kept", "macro_f1", "agreement", "kl", "ece"),
    *("worst_slice_agreement", "worst_slice_kl"),
}
MEASURED: Final[Mapping[Task, frozenset[str]]] = {
    "single_label": _OF_LABELS,
    "multi_label": _OF_LABELS | {"micro_f1"},
    "tokens": _OF_LABELS,
    "regression": _TIMED | {"pearson", "spearman", "mse", "mse_to_teacher"},
    "embedding": _TIMED | {"recall_at_1", "mrr", "spearman", "cosine_to_teacher"},
    "masked": _ALWAYS
    | {"accuracy", "accuracy_kept", "metric_kept", "perplexity", "agreement", "kl"},
}
"""By task."""
OF_TEXT: Final = frozenset(KEYS) - {
    *("metric_kept", "macro_f1", "micro_f1", "pearson", "spearman", "mse", "mse_to_teacher"),
    *("recall_at_1", "mrr", "cosine_to_teacher"),
}


def require_measurable(gates: Sequence[Gate], task: Task | None) -> None:
    """Refuse limits for figures that the models have not, before anything is run.

    Args:
        gates: Limits; those of `lm-eval` tasks are taken as they are.
        task: Of a classifier; None of models of text.

    Raises:
        JobError: Names the figure, and those that can be limited.
    """
    known = OF_TEXT if task is None else MEASURED[task]
    wrong = [gate for gate in gates if not (gate.is_of_task or gate.key in known)]
    if not wrong:
        return
    first = wrong[0]
    option = "--fail-under" if first.at_least else "--fail-over"
    whose = "a model of text" if task is None else f"`classifier.task: {task}`"
    there_are = ", ".join(key for key in KEYS if key in known)
    raise JobError(
        f"{option} {first.key}={first.limit:g}: {whose} has no such figure; there are {there_are}"
    )
