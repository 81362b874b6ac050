"""Limits that a student has to keep, for CI: which there are, and whether they hold.

Nothing here imports anything heavy: limits are read before a cluster is looked for.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raykd.errors import JobError, QualityError

if TYPE_CHECKING:
    from raykd.evaluation.inspection_data import GateResult, Inspection, TaskMetric
    from raykd.evaluation.report_data import ModelScores, SetScores

Read = Callable[["SetScores", "Inspection"], float | None]


@dataclass(frozen=True)
class Key:
    """A figure that can be limited.

    Attributes:
        higher_is_better: It takes `--fail-under`; else `--fail-over`.
        meaning: For people.
        read: Takes it out of what was measured; None where it was not.
    """

    higher_is_better: bool
    meaning: str
    read: Read


@dataclass(frozen=True)
class Gate:
    """A limit for one figure.

    Attributes:
        key: Of `KEYS`, or TASK/METRIC of `lm-eval`.
        limit: The least or the most that is allowed.
        at_least: Whether it is the least.
    """

    key: str
    limit: float
    at_least: bool

    @property
    def is_of_task(self) -> bool:
        """Whether `lm-eval` measures it."""
        return "/" in self.key

    def read(self, scores: SetScores, found: Inspection) -> float | None:
        """What was measured; None where it was not."""
        if not self.is_of_task:
            return KEYS[self.key].read(scores, found)
        values = (one.scores.get("student") for one in found.tasks if _name(one) == self.key)
        return next(values, None)


def _name(metric: TaskMetric) -> str:
    return f"{metric.task}/{metric.metric}"


def _student(name: str) -> Read:
    def read(scores: SetScores, _: Inspection) -> float | None:
        student: ModelScores | None = scores.models.get("student")
        value: float | None = None if student is None else getattr(student, name)
        return value

    return read


def _calibrated(name: str) -> Read:
    def read(_: SetScores, found: Inspection) -> float | None:
        student = found.calibration.get("student")
        value: float | None = None if student is None else getattr(student, name)
        return value

    return read


def _metric(name: str) -> Read:
    """A classifier's own figure."""

    def read(scores: SetScores, _: Inspection) -> float | None:
        student = scores.models.get("student")
        return None if student is None else student.metrics.get(name)

    return read


def _accuracy(scores: SetScores, found: Inspection) -> float | None:
    of_labels = _metric("accuracy")(scores, found)
    return _calibrated("accuracy")(scores, found) if of_labels is None else of_labels


def _kept(name: str) -> Read:
    def read(_: SetScores, found: Inspection) -> float | None:
        value: float | None = None if found.kept is None else getattr(found.kept, name)
        return value

    return read


def _cost(name: str, batch: int) -> Read:
    """`batch` 0 is batch 1, -1 the larger one."""

    def read(_: SetScores, found: Inspection) -> float | None:
        costs = found.costs.get("student")
        return float(getattr(costs[batch], name)) if costs else None

    return read


def _drift(key: str) -> Read:
    def read(_: SetScores, found: Inspection) -> float | None:
        measures = found.drift.measures if found.drift else []
        return next((measure.sample for measure in measures if measure.key == key), None)

    return read


def _drift_p(_: SetScores, found: Inspection) -> float | None:
    return min(measure.p_value for measure in found.drift.measures) if found.drift else None


def _far(_: SetScores, found: Inspection) -> float | None:
    return found.drift.far_share if found.drift else None


def _of_worst_slice(name: str, worst: Callable[[list[float]], float]) -> Read:
    def read(_: SetScores, found: Inspection) -> float | None:
        from raykd.evaluation.slices import weighty

        values = [getattr(one, name) for one in weighty(found.slices)]
        known = [value for value in values if value is not None]
        return worst(known) if known else None

    return read


KEYS: Final[dict[str, Key]] = {
    "agreement": Key(True, "share of tokens with the teacher's top-1", _student("top1_agreement")),
    "accuracy": Key(True, "share of tokens, or labels, that are right", _accuracy),
    "accuracy_kept": Key(True, "the student's accuracy by the teacher's", _kept("accuracy_kept")),
    "gap_closed": Key(True, "share of the way from untrained to teacher", _kept("gap_closed")),
    "worst_slice_agreement": Key(
        True, "agreement of the slice with the least", _of_worst_slice("top1_agreement", min)
    ),
    "written_tokens_per_s": Key(True, "at the larger batch", _cost("written_tokens_per_s", -1)),
    "written_tokens_per_s_batch_1": Key(True, "at batch 1", _cost("written_tokens_per_s", 0)),
    "drift_p": Key(True, "the least p-value of the drift measures", _drift_p),
    "metric_kept": Key(True, "a classifier's first figure, share kept", _kept("metric_kept")),
    **{
        name: Key(True, "a classifier's own figure", _metric(name))
        for name in (
            *("macro_f1", "micro_f1", "spearman", "pearson"),
            *("recall_at_1", "mrr", "cosine_to_teacher"),
        )
    },
    "kl": Key(False, "mean KL to the teacher, nats a token", _student("kl_to_teacher")),
    "perplexity": Key(False, "the student's", _student("perplexity")),
    "ece": Key(False, "expected calibration error", _calibrated("ece")),
    "worst_slice_kl": Key(
        False, "KL of the slice with the most", _of_worst_slice("kl_to_teacher", max)
    ),
    "mse": Key(False, "a classifier's own figure", _metric("mse")),
    "mse_to_teacher": Key(False, "a classifier's own figure", _metric("mse_to_teacher")),
    "cost_ratio": Key(False, "time of a written token by the teacher's", _kept("cost_ratio")),
    "peak_bytes": Key(False, "memory at the larger batch", _cost("peak_bytes", -1)),
    "drift_tokens": Key(False, "Jensen-Shannon divergence, bits", _drift("drift_tokens")),
    "drift_lengths": Key(False, "Kolmogorov-Smirnov distance", _drift("drift_lengths")),
    "drift_ngrams": Key(False, "share of n-grams never seen", _drift("drift_ngrams")),
    "far_rows": Key(False, "share of rows unlike anything learned", _far),
}
"""What can be limited, on the set that is measured."""


def read_gates(under: Sequence[str], over: Sequence[str]) -> list[Gate]:
    """Read `--fail-under KEY=VALUE` and `--fail-over KEY=VALUE`.

    Raises:
        JobError: Not of that form, an unknown key, or one that takes the other option.
    """
    return [
        _gate(text, option, is_floor)
        for option, texts, is_floor in (
            ("--fail-under", under, True),
            ("--fail-over", over, False),
        )
        for text in texts
    ]


def results_of(gates: Sequence[Gate], scores: SetScores, found: Inspection) -> list[GateResult]:
    """Each limit with what was measured."""
    from raykd.evaluation.inspection_data import GateResult

    return [
        GateResult(
            key=gate.key,
            limit=gate.limit,
            at_least=gate.at_least,
            value=gate.read(scores, found),
        )
        for gate in gates
    ]


def require_held(results: Sequence[GateResult]) -> None:
    """Stop if a limit was not kept.

    Raises:
        QualityError: Names each figure that fell short, and by how much.
    """
    failed = [_said(result) for result in results if not result.held]
    if failed:
        raise QualityError("the student falls short: " + "; ".join(failed))


def _said(result: GateResult) -> str:
    bound = "under" if result.at_least else "over"
    if result.value is None:
        return f"{result.key} was not measured (the report says why), so its limit cannot hold"
    if math.isnan(result.value):
        return f"{result.key} is not a number"
    by = abs(result.value - result.limit)
    return f"{result.key} {result.value:.4g} is {bound} {result.limit:.4g} by {by:.4g}"


def _gate(text: str, option: str, is_floor: bool) -> Gate:
    key, equals, value = text.partition("=")
    if not equals:
        raise JobError(f"{option} {text!r}: must be KEY=VALUE, such as agreement=0.7")
    if "/" not in key:
        _check_key(key, text, option, is_floor)
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit):
        raise JobError(f"{option} {text!r}: {value!r} is not a number; such as {key}=0.7")
    return Gate(key, limit, is_floor)


def _check_key(key: str, text: str, option: str, is_floor: bool) -> None:
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise JobError(f"{option} {text!r}: no such figure{hint}. {_listed()}")
    if KEYS[key].higher_is_better is not is_floor:
        better, other = ("higher", "--fail-under") if not is_floor else ("lower", "--fail-over")
        raise JobError(f"{option} {text!r}: {better} is better there; use {other} {text}")


def _listed() -> str:
    floors = ", ".join(name for name, key in KEYS.items() if key.higher_is_better)
    ceilings = ", ".join(name for name, key in KEYS.items() if not key.higher_is_better)
    both = "both take TASK/METRIC of --lm-eval"
    return f"--fail-under takes {floors}; --fail-over takes {ceilings}; {both}"
