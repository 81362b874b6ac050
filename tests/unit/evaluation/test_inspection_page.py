"""What the page and the terminal say of `raykd eval`'s findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import page, parsed, report

from raykd.evaluation.calibration import calibration_of
from raykd.evaluation.drift import warnings_of
from raykd.evaluation.drift_data import Drift, DriftMeasure, DriftToken, FarRow, Lengths
from raykd.evaluation.inspection_data import (
    BatchCost,
    GateResult,
    Inspection,
    Kept,
    NextToken,
    SliceScores,
    SliceTable,
    TaskMetric,
    WorstRow,
)
from raykd.evaluation.report import read_report, terminal_lines, write_report

BAD = "<script>alert(1)</script>"


def drift(drifted: bool, **changed: Any) -> Drift:
    measure = DriftMeasure(
        key="drift_ngrams",
        name="Never seen: share of runs",
        sample=0.42,
        heldout=0.11,
        noise=0.03,
        p_value=0.002,
        drifted=drifted,
    )
    fields = {
        "compared": "whole documents",
        "ngram": 3,
        "training_tokens": 110_000,
        "training_read": 1.0,
        "heldout_pieces": 24,
        "sample_pieces": 40,
        "divisions": 499,
        "measures": [measure],
        "lengths": {"training": Lengths(p5=10, p50=200, p95=256)},
        "tokens": [DriftToken(text=BAD, in_sample=0.02, in_training=0.0001)],
        "far_above": 0.3,
        "far_share": 0.25,
        "kl_far": 1.5,
        "kl_near": 0.5,
        "farthest": [
            FarRow(place=BAD, tokens=9, unseen=0.9, kl_to_teacher=2.0, text=BAD),
            FarRow(place="b:2", tokens=9, unseen=0.8),
        ],
    }
    return Drift(**{**fields, **changed})


def inspection(**changed: Any) -> Inspection:
    draw = np.random.default_rng(0)
    sure = draw.random(500)
    calibrated = calibration_of(sure, draw.random(500) < 0.8 * sure)
    cost = BatchCost(
        batch=1,
        prompt_tokens=64,
        new_tokens=16,
        read_tokens_per_s=4_321.0,
        written_tokens_per_s=17.5,
        peak_bytes=345_000_000,
    )
    fields: dict[str, Any] = {
        "calibration": {"teacher": calibrated, "student": calibrated},
        "slices": [
            SliceTable(
                by="kind",
                slices=[
                    SliceScores(
                        value=value,
                        rows=7,
                        tokens=1_234,
                        perplexity=21.5,
                        accuracy=0.4,
                        kl_to_teacher=kl,
                        top1_agreement=0.55,
                    )
                    for value, kl in ((BAD, 0.2), ("news", 0.7))
                ],
            )
        ],
        "worst": [
            WorstRow(
                place="a.jsonl:7",
                tokens=44,
                kl_to_teacher=2.5,
                kl_there=6.0,
                before=BAD,
                follows=" river",
                teacher_next=[NextToken(text="\n\n", probability=0.75)],
                student_next=[NextToken(text=BAD, probability=0.5)],
                teacher_goes_on=" stone by stone",
                student_goes_on=" light",
            ),
            WorstRow(place="a.jsonl:9", tokens=4, kl_to_teacher=2.0, kl_there=3.0),
        ],
        "costs": {"teacher": [cost], "student": [cost]},
        "kept": Kept(accuracy_kept=0.93, gap_closed=0.876, cost_ratio=0.52),
        "drift": drift(True),
        "tasks": [TaskMetric(task="arc", metric="acc", scores={"teacher": 0.75, "student": 0.5})],
        "gates": [
            GateResult(key="agreement", limit=0.7, at_least=True, value=0.65),
            GateResult(key="kl", limit=0.7, at_least=False, value=0.5),
            GateResult(key="cost_ratio", limit=0.7, at_least=False, value=None),
        ],
    }
    return Inspection(**{**fields, **changed})


def test_everything_stands_on_the_page(tmp_path: Path) -> None:
    told = report(inspections={"heldout": inspection()})
    text = page(tmp_path, told)
    parsed(text)
    assert "<script" not in text
    for shown in (
        "Kept: 93 % of the teacher's next-token accuracy, 88 % of the way from the untrained "
        "student to the teacher, a written token takes 52 % of the teacher's time.",
        "too sure by",
        "Farthest from the teacher on news: KL 0.700",
        "Drift beyond sampling noise: Never seen: share of runs 0.420 (held-out rows 0.110)",
        "25 % of the sample's rows",
        "4.32k",
        "345 MB",
        "agreement</th><td>at least 0.700</td><td>0.650</td>",
        "<mark> river</mark>",
        "arc</th><td>acc</td><td>0.750</td><td>—</td><td>0.500</td>",
        "arc, acc: teacher 0.750, student 0.500.",
        " stone by stone …",
        "<code>⏎⏎</code> 75 %",
        "left out",
        "10.0 · 200 · 256 tokens",
    ):
        assert shown in text.replace("&#39;", "'"), shown
    assert text.count(">no</td>") == 2, "two limits are not kept"
    assert read_report(tmp_path) == told


def test_a_bare_inspection(tmp_path: Path) -> None:
    text = page(tmp_path, report(inspections={"heldout": Inspection()}))
    parsed(text)
    assert "Looked into: heldout" in text


def test_reports_without_an_inspection_have_no_trace_of_it(tmp_path: Path) -> None:
    assert "Looked into" not in page(tmp_path, report())


def test_the_terminal_has_it_in_a_few_lines(tmp_path: Path) -> None:
    lines = list(terminal_lines(report(inspections={"heldout": inspection()})))
    assert len(lines) == 8
    assert lines[-3:] == [
        "FAILED   agreement at least 0.7: 0.65",
        "held     kl at most 0.7: 0.5",
        "FAILED   cost_ratio at most 0.7: not measured",
    ]
    assert list(terminal_lines(report())) == []


def test_warnings_are_for_drift_only() -> None:
    assert warnings_of(drift(False)) == []
    assert "never seen" in warnings_of(drift(True))[0]
    assert "25% of its rows" in warnings_of(drift(True))[1]
    assert len(warnings_of(drift(True, far_share=0.01))) == 1


def test_an_old_report_can_still_be_read(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    file = tmp_path / "report.json"
    tree = json.loads(file.read_text())
    del tree["inspections"]
    file.write_text(json.dumps(tree))
    assert read_report(tmp_path).inspections == {}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_figure_that_is_none_keeps_no_limit(value: float | None) -> None:
    assert not GateResult(key="kl", limit=1.0, at_least=False, value=value).held
