"""Masked language models' whole way: one trained on text, then one of half its layers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.long,
    *RAY_WARNINGS,
]

MakeJob = Callable[..., Any]


@pytest.fixture
def base(tmp_path: Path, save_bert: Callable[..., Path]) -> Path:
    """An encoder without a head."""
    return save_bert(tmp_path / "base")


@pytest.fixture
def masked_job(make_job: MakeJob, tmp_path: Path, base: Path) -> MakeJob:
    """Jobs on texts of which one half follows from the other."""
    draw = random.Random(0)
    halves = {"wind": "moves over", "stone": "slow river", "light": "no teacher"}
    lines = []
    for _ in range(120):
        words = draw.choices(list(halves), k=3)
        lines.append({"text": " ".join(f"{word} {halves[word]}" for word in words)})
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(changes: dict[str, Any]) -> Any:
        return make_job(
            {
                "method": "classifier",
                "data.corpus": {"source": str(path), "columns": {"text": "text"}},
                "data.sequence_length_tokens": 32,
                "data.packing": "pad",
                "data.long_documents": "cut",
                "soft_targets": {"top_k": 8},
                "evaluation": {"heldout_fraction": 0.2, "max_rows": 64, "top_k": 8},
                "train.epochs": 6,
                "train.global_batch": 8,
                "train.micro_batch": 4,
                "train.optimizer": {"lr": 0.003, "schedule": "constant"},
                "train.max_steps": None,
                "student.init": {"start": "pretrained", "model": str(base)},
                **changes,
            }
        )

    return make


def test_text_alone_then_a_student_of_what_came_out(
    distil: Distil, masked_job: MakeJob, base: Path
) -> None:
    alone = masked_job(
        {
            "name": "text-alone",
            "classifier": {"task": "masked", "maskings": 2},
            "teacher": {"model": str(base), "engine": "none"},
            "soft_targets": {},
            "loss": {"alpha": 1.0},
        }
    )
    ran = distil(alone)
    scores = ran.report.evaluation["heldout"]
    assert scores.task == "masked"
    assert set(scores.models) == {"untrained", "student"}
    of_teacher = scores.models["student"].metrics
    assert of_teacher["perplexity"] < 0.3 * scores.models["untrained"].metrics["perplexity"]

    job = masked_job(
        {
            "name": "triple-loss",
            "classifier": {"task": "masked", "cosine": 1.0, "maskings": 2},
            "teacher.model": str(ran.root / "student"),
            "student.init": {"start": "teacher", "layers": 1},
            "loss": {"alpha": 0.3, "temperature": 2.0},
        }
    )
    ran = distil(job)
    assert_each_step_once(ran.root, len(ran.steps), 8)
    found = ran.report.evaluation["heldout"].models
    # The same masks: what the teacher is measured at is what it was measured at as a student.
    assert found["teacher"].metrics == pytest.approx(of_teacher, rel=0.02)
    assert found["student"].kl_to_teacher < found["untrained"].kl_to_teacher
    assert found["student"].metrics["perplexity"] < found["untrained"].metrics["perplexity"]
    card = (ran.root / "student" / "README.md").read_text()
    assert "| heldout | student | " in card
    assert "nats a masked token" in card
    fill = pipeline("fill-mask", str(ran.root / "student"))
    assert fill("stone slow river [MASK] moves over")[0]["token_str"]

    # Everything is kept: another student asks nobody.
    again = job.model_copy(
        update={
            "name": "from-the-store",
            "soft_targets": job.soft_targets.model_copy(update={"store_mode": "only"}),
        }
    )
    losses = distil(again).losses
    assert losses == pytest.approx(ran.losses, rel=1e-3)
