"""What the page and the terminal say of a classifier that was looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import page, parsed, report

from raykd.evaluation.calibration import calibration_of
from raykd.evaluation.inspection_data import (
    AgainstGold,
    BatchCost,
    Inspection,
    Kept,
    LabelGuess,
    SliceScores,
    SliceTable,
    WorstText,
)
from raykd.evaluation.report import read_report, terminal_lines
from raykd.evaluation.report_data import ModelScores, SetScores

BAD = "<script>alert(1)</script>"


def worst(**changed: Any) -> WorstText:
    told: dict[str, Any] = {
        "place": "a.jsonl:7",
        "distance": 1.25,
        "text": f"{BAD} the river",
        "gold": ["stone", BAD],
        "teacher": [LabelGuess(label="stone", probability=0.75)],
        "student": [LabelGuess(label="light", probability=0.5)],
    }
    return WorstText(**{**told, **changed})


def inspection(**changed: Any) -> Inspection:
    draw = np.random.default_rng(0)
    sure = draw.random(500)
    calibrated = calibration_of(sure, draw.random(500) < 0.8 * sure)
    cost = BatchCost(batch=8, prompt_tokens=60, read_tokens_per_s=4_320.0, peak_bytes=345_000_000)
    some = [
        SliceScores(value=name, rows=rows, tokens=rows, accuracy=0.4, kl_to_teacher=kl)
        for name, rows, kl in (("wind", 7, 0.2), ("stone", 9, 0.7))
    ]
    told: dict[str, Any] = {
        "calibration": {"teacher": calibrated, "student": calibrated},
        "slices": [SliceTable(by="gold label", slices=some)],
        "costs": {"teacher": [cost], "student": [cost]},
        "kept": Kept(accuracy_kept=0.93, metric_kept=0.93, cost_ratio=0.52),
        "worst_texts": [worst(), worst(place="b", text=None, gold=None, distance=1.0)],
        "lost_texts": [worst(place="c", gold=[])],
        "against_gold": AgainstGold(both_right=90, teacher_alone=6, student_alone=3, both_wrong=1),
    }
    return Inspection(**{**told, **changed})


def told_of(task: str, **changed: Any) -> Any:
    scores = SetScores(
        rows=100,
        tokens=100,
        top_k=0,
        task=task,
        models={"student": ModelScores(metrics={"recall_at_1": 0.9})},
    )
    return report(evaluation={"heldout": scores}, inspections={"heldout": inspection(**changed)})


def test_everything_stands_on_the_page(tmp_path: Path) -> None:
    told = told_of("single_label")
    text = page(tmp_path, told)
    parsed(text)
    assert "<script" not in text
    for shown in (
        "Kept: 93.0 % of the teacher's accuracy, a text takes 52 % of the teacher's time.",
        "Of 100 texts with a gold label the student is wrong on 6 where the teacher is right, and "
        "right on 3 where it is wrong; both are wrong on 1.",
        "Farthest from the teacher on stone: KL 0.700, top-1 agreement — (9 texts).",
        "confidence in the likeliest label",
        "share of texts where it is right",
        "Teacher: texts</th>",
        "<th>Texts/s</th><th>Tok/s</th><th>Peak</th>",
        "<td>72</td><td>4.32k</td><td>345 MB</td>",
        "Texts of 60 tokens, one forward pass.",
        "<th>Gold label</th><th>Texts</th><th>KL to teacher</th><th>Accuracy</th></tr>",
        '<td class="words">wind</td><td>7</td><td>0.200</td><td>40 %</td></tr>',
        "KL 1.25 · gold stone, &lt;script",
        "gold no label",
        "<code>light</code> 50 %",
        "Texts where the teacher is right and the student wrong",
    ):
        assert shown in text.replace("&#39;", "'"), shown
    assert read_report(tmp_path) == told
    for of_text in ("Perplexity", "ritten", "next token", "next-token"):
        assert of_text not in text[text.index("Looked into") :], of_text


def test_words_numbers_and_vectors(tmp_path: Path) -> None:
    at_word = worst(words=4, text="a ", word="stone", after=" b")
    text = page(tmp_path, told_of("tokens", worst_texts=[at_word]))
    assert "a <mark>stone</mark> b</p>" in text
    assert "KL 1.25 over 4 words" in text
    assert "Of 100 words with a gold label" in text
    number = worst(teacher=[], student=[], teacher_number=2.5, student_number=3.75, gold=["2"])
    text = page(tmp_path, told_of("regression", worst_texts=[number], against_gold=None))
    assert "difference 1.25 · gold 2<" in text
    assert "<b>Teacher</b> 2.50</div>" in text
    assert "<b>Student</b> 3.75</div>" in text
    vector = worst(teacher=[], student=[], gold=None)
    kept = Kept(metric_kept=0.987)
    told = told_of("embedding", worst_texts=[vector], lost_texts=[], kept=kept)
    text = page(tmp_path, told)
    assert "Kept: 98.7 % of the teacher&#39;s recall@1." in text
    assert "1 - cosine 1.25</span>" in text
    assert "teacher is right and the student wrong" not in text
    assert "<b>Teacher</b>" not in text
    assert "confidence in a label, or that it is none" in page(tmp_path, told_of("multi_label"))


def test_the_terminal_has_it_in_a_few_lines() -> None:
    lines = list(terminal_lines(told_of("single_label")))
    assert len(lines) == 4
    assert lines[1].startswith("Of 100 texts with a gold label")


@pytest.mark.parametrize("task", ["masked", "regression"])
def test_a_bare_inspection(tmp_path: Path, task: str) -> None:
    scores = SetScores(rows=1, tokens=1, top_k=0, task=task, models={"student": ModelScores()})
    told = report(evaluation={"x": scores}, inspections={"x": Inspection()})
    parsed(page(tmp_path, told))
