"""What is left of the teacher's quality, and what a token costs beside the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.evaluation.inspection_data import BatchCost, Kept
from raykd.evaluation.report_data import STUDENT, TEACHER, UNTRAINED
from raykd.evaluation.token_scores import TokenScores, mean


def kept_of(tokens: Mapping[str, TokenScores], costs: Mapping[str, Sequence[BatchCost]]) -> Kept:
    """Quality kept and cost ratio, as far as both sides were measured.

    Args:
        tokens: By role, all on the same tokens.
        costs: By role, the same batch sizes.
    """
    return Kept(
        accuracy_kept=_accuracy_kept(tokens), gap_closed=_gap(tokens), cost_ratio=_cost(costs)
    )


def kept_of_metrics(
    metrics: Mapping[str, Mapping[str, float]], costs: Mapping[str, Sequence[BatchCost]]
) -> Kept:
    """Quality kept by a task's own figures: `accuracy` where there is one, and the first of them.

    Args:
        metrics: By role; more of each is better but for errors, of which no share is told.
        costs: By role, the same batch sizes.
    """
    theirs, ours = metrics.get(TEACHER, {}), metrics.get(STUDENT, {})
    shares = {
        name: value / theirs[name]
        for name, value in ours.items()
        if theirs.get(name, 0.0) > 0 and not name.startswith("mse")
    }
    first = next(iter(ours), "")
    return Kept(
        accuracy_kept=shares.get("accuracy"), metric_kept=shares.get(first), cost_ratio=_cost(costs)
    )


def _accuracy_kept(tokens: Mapping[str, TokenScores]) -> float | None:
    if TEACHER not in tokens:
        return None
    theirs, ours = mean(tokens[TEACHER].correct_T), mean(tokens[STUDENT].correct_T)
    return ours / theirs if ours is not None and theirs else None


def _gap(tokens: Mapping[str, TokenScores]) -> float | None:
    """None where the untrained student is no worse than the teacher: there was no gap."""
    if TEACHER not in tokens or UNTRAINED not in tokens:
        return None
    start, end, best = (mean(tokens[role].nll_T) for role in (UNTRAINED, STUDENT, TEACHER))
    if start is None or end is None or best is None or not start > best:
        return None
    return (start - end) / (start - best)


def _cost(costs: Mapping[str, Sequence[BatchCost]]) -> float | None:
    theirs, ours = costs.get(TEACHER), costs.get(STUDENT)
    if not theirs or not ours:
        return None
    written = theirs[-1].written_tokens_per_s, ours[-1].written_tokens_per_s
    if written[0] is not None and written[1] is not None:
        return written[0] / written[1]
    return theirs[-1].read_tokens_per_s / ours[-1].read_tokens_per_s
