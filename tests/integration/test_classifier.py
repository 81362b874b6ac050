"""A classifier's whole way: from labelled texts to an export that a pipeline opens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from raykd.config.student import FromPretrained
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]

LABELS = ("wind", "stone", "light")
MakeJob = Callable[..., Any]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that say their label; every third one has none."""
    draw = random.Random(0)
    lines = []
    for number in range(90):
        words = draw.choices(["the", "a", "river", "moves", "over", "no", "slow"], k=6)
        label = LABELS[number % 3]
        words[draw.randrange(6)] = label
        known = None if number % 9 < 3 else label
        lines.append({"text": " ".join(words), "y": known})
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, save_bert: Callable[..., Path]) -> ModelSource:
    """An encoder without a head."""
    return ModelSource(str(save_bert(tmp_path_factory.mktemp("encoder") / "base")))


@pytest.fixture
def classifier_job(make_job: MakeJob, texts: Path, base: ModelSource) -> MakeJob:
    def make(changes: dict[str, Any]) -> Any:
        return make_job(
            {
                "method": "classifier",
                "classifier": {"task": "single_label", "labels": list(LABELS)},
                "data.corpus": {"source": str(texts), "columns": {"text": "text", "label": "y"}},
                "data.sequence_length_tokens": 32,
                "data.packing": "pad",
                "data.long_documents": "cut",
                "soft_targets": {},
                "evaluation": {"heldout_fraction": 0.3, "max_rows": 64},
                "train.epochs": 3,
                "train.global_batch": 8,
                "train.micro_batch": 4,
                "train.optimizer": {"lr": 0.003, "schedule": "constant"},
                "train.max_steps": None,
                **changes,
            }
        )

    return make


def test_labels_alone_then_a_student_of_what_came_out(
    distil: Distil, classifier_job: MakeJob, base: ModelSource
) -> None:
    alone = classifier_job(
        {
            "name": "labels-alone",
            "teacher": {"model": base.path, "engine": "none"},
            "student.init": {"start": "pretrained", "model": base.path},
            "loss": {"alpha": 1.0},
            "train.epochs": 12,
        }
    )
    ran = distil(alone)
    scores = ran.report.evaluation["heldout"]
    assert scores.task == "single_label"
    assert set(scores.models) == set(ran.report.models) == {"untrained", "student"}
    accuracy = scores.models["student"].metrics["accuracy"]
    assert accuracy > max(0.8, scores.models["untrained"].metrics["accuracy"])
    assert scores.models["student"].kl_to_teacher is None

    teacher = ran.root / "student"
    job = classifier_job(
        {
            "name": "from-the-teacher",
            "classifier": {"task": "single_label", "cosine": 0.5},
            "teacher.model": str(teacher),
            "student.init": {"start": "teacher", "layers": 1},
            "loss": {"alpha": 0.2, "temperature": 2.0},
            "train.epochs": 6,
        }
    )
    ran = distil(job)
    steps = len(ran.steps)
    assert_each_step_once(ran.root, steps, 8)
    scores = ran.report.evaluation["heldout"].models
    assert scores["teacher"].metrics["accuracy"] == pytest.approx(accuracy)
    assert scores["student"].kl_to_teacher < scores["untrained"].kl_to_teacher
    assert scores["student"].metrics["accuracy"] > 0.8
    assert "| heldout | student | " in (ran.root / "student" / "README.md").read_text()
    classify = pipeline("text-classification", str(ran.root / "student"))
    assert classify("the river light moves over")[0]["label"] == "light"


def test_other_labels_than_the_teachers(
    distil: Distil, classifier_job: MakeJob, base: ModelSource, tmp_path: Path
) -> None:
    from raykd.errors import ModelError

    init = FromPretrained(start="pretrained", model=base.path)
    spec = EncoderSpec("single_label", ("wind", "water", "light"), 2)
    teacher = write_encoder(init, base, base, spec, 0, tmp_path / "teacher", False)
    job = classifier_job({"name": "others", "teacher.model": teacher.path})
    with pytest.raises(ModelError, match=r"output 1: 'stone' here, 'water' there"):
        distil(job)
