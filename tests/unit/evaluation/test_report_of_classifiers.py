"""A classifier's figures on the page, in the terminal and on the model card."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from raykd.evaluation.report import terminal_table
from raykd.evaluation.report_data import ModelFacts, ModelScores, Report, SetScores
from raykd.evaluation.report_headline import tiles
from raykd.evaluation.report_page import render_page
from raykd.pipeline.outcome import figures


def facts(parameters: int) -> ModelFacts:
    return ModelFacts(name="x", parameters=parameters, bytes=2 * parameters, dtype="bf16")


@pytest.fixture
def report() -> Report:
    def scores(accuracy: float, f1: float, **fields: Any) -> ModelScores:
        return ModelScores(metrics={"accuracy": accuracy, "macro_f1": f1}, **fields)

    return Report(
        raykd_version="0",
        name="topics",
        job={"method": "classifier", "evaluation": {"top_k": 256}},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
        hardware={},
        data={},
        models={"teacher": facts(200), "untrained": facts(80), "student": facts(80)},
        evaluation={
            "heldout": SetScores(
                rows=40,
                tokens=40,
                top_k=0,
                task="single_label",
                models={
                    "teacher": scores(0.96, 0.95),
                    "untrained": scores(0.2, 0.1, kl_to_teacher=1.5, top1_agreement=0.21),
                    "student": scores(0.936, 0.93, kl_to_teacher=0.04, top1_agreement=0.97),
                },
            )
        },
    )


def test_the_page_has_the_tasks_figures(report: Report) -> None:
    page = render_page(report)
    assert "<th>Accuracy</th><th>Macro F1</th>" in page
    assert "Perplexity" not in page
    assert "over the labels" in page


def test_the_headline_says_what_was_kept(report: Report) -> None:
    told = {tile.label: tile for tile in tiles(report)}
    assert told["Accuracy"].detail.startswith("97.5 % of the teacher's, teacher 96")
    assert "nats a text" in told["KL to the teacher"].detail


def test_the_terminal_has_a_column_a_figure(report: Report) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(terminal_table(report))
    assert "accuracy" in out.getvalue()
    assert "perplexity" not in out.getvalue()


def test_the_terminal_leaves_out_what_nobody_measured(report: Report) -> None:
    alone = report.evaluation["heldout"].models["teacher"]
    scores = report.evaluation["heldout"].model_copy(update={"models": {"student": alone}})
    out = io.StringIO()
    told = report.model_copy(update={"evaluation": {"unseen_topic": scores}})
    Console(file=out, width=80).print(terminal_table(told))
    assert "unseen_topic" in out.getvalue()
    assert "top-1" not in out.getvalue()


def test_the_card_has_them_too(report: Report) -> None:
    lines = figures(report).splitlines()
    assert lines[0] == (
        "| held-out set | model | accuracy | macro F1 | KL to teacher | top-1 agreement |"
    )
    assert lines[2].startswith("| heldout | teacher | 96")
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_text_to_be_continued_has_perplexity_still(report: Report) -> None:
    plain = report.model_copy(
        update={
            "job": {"method": "logits", "evaluation": {"top_k": 256}},
            "evaluation": {
                "heldout": SetScores(
                    rows=1,
                    tokens=1,
                    top_k=256,
                    models={"student": ModelScores(perplexity=12.5, kl_to_teacher=0.1)},
                )
            },
        }
    )
    assert "<th>Perplexity</th>" in render_page(plain)
    assert "| heldout | student | 12.50 " in figures(plain)


def test_masked_tokens_have_accuracy_and_perplexity(report: Report) -> None:
    def scores(accuracy: float, perplexity: float, **fields: Any) -> ModelScores:
        both = {"accuracy": accuracy, "perplexity": perplexity}
        return ModelScores(perplexity=perplexity, metrics=both, **fields)

    heldout = SetScores(
        rows=40,
        tokens=240,
        top_k=256,
        task="masked",
        models={
            "teacher": scores(0.5, 20.0),
            "student": scores(0.4, 41.25, kl_to_teacher=0.3, top1_agreement=0.6),
        },
    )
    masked = report.model_copy(update={"evaluation": {"heldout": heldout}})
    page = render_page(masked)
    assert "<th>Accuracy</th><th>Perplexity</th>" in page
    assert "a masked token" in page
    assert "| heldout | student | 40.0 % | 41.25 | 0.3000 |" in figures(masked)
    assert "a masked token" in figures(masked)
    told = {tile.label: tile for tile in tiles(masked)}
    assert told["Accuracy"].detail.startswith("80.0 % of the teacher's")
    assert told["Perplexity"].detail.startswith("teacher 20")
    assert sum("Perplexity" in label for label in told) == 1
    assert "masked token" in told["KL to the teacher"].detail
