"""Limits for CI: how they are read, and when they hold."""

from __future__ import annotations

import pytest

from raykd.errors import JobError, QualityError
from raykd.evaluation.drift_data import Drift, DriftMeasure
from raykd.evaluation.gates import KEYS, Gate, read_gates, require_held, results_of
from raykd.evaluation.harness import Harness, require_known
from raykd.evaluation.inspection_data import (
    BatchCost,
    Calibration,
    Inspection,
    Kept,
    SliceScores,
    SliceTable,
    TaskMetric,
)
from raykd.evaluation.kept import kept_of_metrics
from raykd.evaluation.report_data import ModelScores, SetScores

SCORES = SetScores(
    rows=10,
    tokens=100,
    top_k=16,
    models={
        "teacher": ModelScores(perplexity=5.0),
        "student": ModelScores(perplexity=8.0, kl_to_teacher=0.4, top1_agreement=0.65),
    },
)


OF_LABELS = (
    *("macro_f1", "micro_f1", "spearman", "pearson", "recall_at_1", "mrr"),
    *("cosine_to_teacher", "mse", "mse_to_teacher"),
)


def slice_of(rows: int, agreement: float, kl: float) -> SliceScores:
    return SliceScores(
        value=str(agreement),
        rows=rows,
        tokens=rows,
        perplexity=1.0,
        accuracy=0.5,
        kl_to_teacher=kl,
        top1_agreement=agreement,
    )


def cost(batch: int, rate: float, peak: int) -> BatchCost:
    return BatchCost(
        batch=batch,
        prompt_tokens=8,
        new_tokens=8,
        read_tokens_per_s=1.0,
        written_tokens_per_s=rate,
        peak_bytes=peak,
    )


def found() -> Inspection:
    measures = [
        DriftMeasure(key=key, name=key, sample=at, heldout=0.1, noise=0.1, p_value=p, drifted=False)
        for key, at, p in (
            ("drift_tokens", 0.2, 0.5),
            ("drift_lengths", 0.3, 0.04),
            ("drift_ngrams", 0.4, 0.3),
        )
    ]
    return Inspection(
        calibration={"student": Calibration(ece=0.05, confidence=0.6, accuracy=0.55, bins=[])},
        slices=[SliceTable(by="x", slices=[slice_of(9, 0.6, 0.5), slice_of(4, 0.1, 9.0)])],
        costs={"student": [cost(1, 20.0, 100), cost(8, 90.0, 300)]},
        kept=Kept(accuracy_kept=0.9, gap_closed=0.8, cost_ratio=0.5),
        drift=Drift(
            compared="prompts",
            ngram=3,
            training_tokens=1,
            training_read=1.0,
            heldout_pieces=1,
            sample_pieces=1,
            divisions=1,
            measures=measures,
            lengths={},
            far_above=0.5,
            far_share=0.07,
        ),
    )


def test_every_key_reads_its_figure() -> None:
    expected = {
        "agreement": 0.65,
        "accuracy": 0.55,
        "accuracy_kept": 0.9,
        "gap_closed": 0.8,
        "worst_slice_agreement": 0.6,
        "written_tokens_per_s": 90.0,
        "written_tokens_per_s_batch_1": 20.0,
        "drift_p": 0.04,
        "kl": 0.4,
        "perplexity": 8.0,
        "ece": 0.05,
        "worst_slice_kl": 0.5,
        "cost_ratio": 0.5,
        "peak_bytes": 300,
        "drift_tokens": 0.2,
        "drift_lengths": 0.3,
        "drift_ngrams": 0.4,
        "far_rows": 0.07,
    }
    read = {key: one.read(SCORES, found()) for key, one in KEYS.items()}
    assert read.pop("metric_kept") is None
    assert {key: value for key, value in read.items() if key not in OF_LABELS} == expected
    assert {read[key] for key in OF_LABELS} == {None}


def test_a_classifiers_own_figures() -> None:
    metrics = {name: i / 10 for i, name in enumerate(OF_LABELS)} | {"accuracy": 0.9}
    theirs = {name: 2 * value for name, value in metrics.items()}
    scores = SCORES.model_copy(update={"models": {"student": ModelScores(metrics=metrics)}})
    kept = kept_of_metrics({"student": {"accuracy": 0.9, **metrics}, "teacher": theirs}, {})
    read = {key: one.read(scores, Inspection(kept=kept)) for key, one in KEYS.items()}
    expected = metrics | {"accuracy_kept": 0.5, "metric_kept": 0.5}
    assert {key: value for key, value in read.items() if value is not None} == expected
    assert kept_of_metrics({"student": {"mse": 0.5}, "teacher": {"mse": 0.1}}, {}) == Kept()


def test_nothing_measured_is_none_for_every_key() -> None:
    nothing = SetScores(rows=0, tokens=0, top_k=1, models={})
    assert {one.read(nothing, Inspection()) for one in KEYS.values()} == {None}


def test_limits_hold_at_the_limit() -> None:
    gates = read_gates(["agreement=0.65", "gap_closed=.8"], ["kl=0.4", "perplexity=8"])
    results = results_of(gates, SCORES, found())
    assert [result.held for result in results] == [True] * 4
    require_held(results)
    require_held([])


def test_what_fell_short_is_named_with_by_how_much() -> None:
    gates = read_gates(["agreement=0.7", "accuracy=0.5"], ["kl=0.25"])
    with pytest.raises(QualityError) as raised:
        require_held(results_of(gates, SCORES, found()))
    assert str(raised.value) == (
        "the student falls short: agreement 0.65 is under 0.7 by 0.05; kl 0.4 is over 0.25 by 0.15"
    )
    assert raised.value.exit_code == 1


def test_what_was_not_measured_does_not_hold() -> None:
    results = results_of([Gate("cost_ratio", 0.5, False)], SCORES, Inspection())
    with pytest.raises(QualityError, match="cost_ratio was not measured"):
        require_held(results)


def test_not_a_number_does_not_hold() -> None:
    scores = SCORES.model_copy(update={"models": {"student": ModelScores(perplexity=float("nan"))}})
    with pytest.raises(QualityError, match="perplexity is not a number"):
        require_held(results_of([Gate("perplexity", 10.0, False)], scores, found()))


def test_limits_of_tasks() -> None:
    metric = TaskMetric(task="arc", metric="acc_norm", scores={"student": 0.4, "teacher": 0.9})
    gates = read_gates(["arc/acc_norm=0.3"], ["arc/acc_norm=0.3", "arc/acc=1"])
    results = results_of(gates, SCORES, Inspection(tasks=[metric]))
    assert [(one.value, one.held) for one in results] == [(0.4, True), (0.4, False), (None, False)]
    require_known(gates, Harness(("arc",)))
    with pytest.raises(JobError, match="add --lm-eval arc"):
        require_known(gates, None)


@pytest.mark.parametrize(
    ("under", "over", "said"),
    [
        (["agreement"], [], "must be KEY=VALUE"),
        (["agrement=0.5"], [], "did you mean 'agreement'.*--fail-over takes kl, perplexity"),
        (["agreement=high"], [], "'high' is not a number"),
        (["agreement=nan"], [], "'nan' is not a number"),
        (["kl=0.5"], [], "lower is better there; use --fail-over kl=0.5"),
        ([], ["agreement=0.5"], "higher is better there; use --fail-under agreement=0.5"),
    ],
)
def test_wrong_limits_are_refused(under: list[str], over: list[str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        read_gates(under, over)
