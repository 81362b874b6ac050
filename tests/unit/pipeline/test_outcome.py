from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raykd.evaluation.report_data import ModelScores, SetScores
from raykd.pipeline.outcome import figures, write_figures
from raykd.student.export import MEASURED


def scores(perplexity: float, kl: float | None = None, top1: float | None = None) -> ModelScores:
    return ModelScores(perplexity=perplexity, kl_to_teacher=kl, top1_agreement=top1)


def report() -> Any:
    models = {
        "teacher": scores(12.3456),
        "untrained": scores(54321.0, 7.5, 0.01),
        "student": scores(20.0, 0.12345, 0.789),
    }
    sets = {
        name: SetScores(rows=2, tokens=9, top_k=16, models=models) for name in ("heldout", "news")
    }
    return SimpleNamespace(evaluation=sets, job={"evaluation": {"top_k": 16}})


def test_a_row_for_every_model_on_every_set() -> None:
    lines = figures(report()).splitlines()
    assert lines[0].startswith("| held-out set | model | perplexity |")
    assert lines[2:5] == [
        "| heldout | teacher | 12.35 |  |  |",
        "| heldout | untrained | 54,321.00 | 7.5000 | 1.0% |",
        "| heldout | student | 20.00 | 0.1235 | 78.9% |",
    ]
    assert sum(line.startswith("| news |") for line in lines) == 3
    assert "top 16 ids" in lines[-1]


def test_figures_go_where_the_card_marks_them(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"# name\n\n{MEASURED}\n\nThe licences apply.\n")
    write_figures(tmp_path, report())
    text = card.read_text()
    assert MEASURED not in text
    assert text == f"# name\n\n{figures(report())}\n\nThe licences apply.\n"
