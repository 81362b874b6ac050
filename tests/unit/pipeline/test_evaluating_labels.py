"""What `raykd eval` measures of a classifier, without Ray, the engine called directly."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd.config.corpus import CorpusConfig
from raykd.config.student import FromPretrained
from raykd.data.gold import GoldOf
from raykd.data.samples import read_origins
from raykd.evaluation.label_scores import LOOKED_INTO
from raykd.evaluation.report_data import Report
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource, load_tokenizer
from raykd.pipeline import evaluating, stages
from raykd.pipeline.evaluating import Looked
from raykd.pipeline.evaluating_labels import inspect_labels
from raykd.pipeline.models import find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec
from raykd.teacher.encoder_engine import EncoderEngine
from raykd.teacher.engine import EngineSpec, ShardPlace

LABELS = ("wind", "stone", "light")
NUM_TEXTS, NUM_MEASURED = 30, 20
TIMED = ("single_label", "embedding")


def record(task: str, number: int) -> dict[str, Any]:
    draw = random.Random(f"{task} {number}")
    words = draw.choices(["the", "a", "river", "moves", "over", "no", "slow"], k=3 + number % 5)
    found = [LABELS[number % 3], *(["slow"] if number % 2 else [])]
    label: Any = {"single_label": found[0], "multi_label": found[:1], "regression": number / 10}
    known = None if number % 10 == 9 else label.get(task)
    told: dict[str, Any] = {"text": " ".join([*words, *found]), "kind": "ab"[number % 2]}
    if task == "tokens":
        return told | {"text": words, "y": [draw.choice([*LABELS, None]) for _ in words]}
    return told | {"other": " ".join(words[::-1]), "y": known}


def encoder(task: Any, base: Path, seed: int, directory: Path) -> ModelSource:
    labels = LABELS if task in ("single_label", "multi_label", "tokens") else ()
    init = FromPretrained(start="pretrained", model=str(base))
    source = ModelSource(str(base))
    return write_encoder(init, source, source, EncoderSpec(task, labels, 2), seed, directory, False)


class Sample:
    """A run's sample, scored by the teacher."""

    def __init__(self, task: str, tmp_path: Path, make_job: Any, save_bert: Any) -> None:
        bases = [save_bert(tmp_path / f"base-{seed}", seed) for seed in (0, 1)]
        teacher = encoder(task, bases[0], 0, tmp_path / "teacher")
        self.student = encoder(task, bases[1], 1, tmp_path / "student")
        data = tmp_path / "texts.jsonl"
        lines = [json.dumps(record(task, number)) + "\n" for number in range(NUM_TEXTS)]
        data.write_text("".join(lines))
        pair = {"text": "text", "text_pair": "other"}
        columns = {
            "embedding": pair,
            "masked": {"text": "text"},
        }.get(task, {"text": "text", "label": "y"})
        corpus = {"source": str(data), "columns": columns}
        self.job = make_job(
            {
                "method": "classifier",
                "classifier": {"task": task},
                "data.corpus": corpus,
                "data.sequence_length_tokens": 32,
                "data.packing": "pad",
                "data.long_documents": "cut",
                "teacher.model": teacher.path,
                "student.init": {"start": "teacher", "layers": 1},
                "soft_targets": {"top_k": 4} if task == "masked" else {},
                "evaluation": {"heldout_fraction": 0.3, "max_rows": 40, "top_k": 4},
            }
        )
        run = RunDirectory(tmp_path / "run")
        self.models = find_models(self.job, run)
        stages.prepare_rows(self.job, run, self.models)
        place = run.root / "rows"
        self.told, chosen = evaluating.prepare_chosen(
            self.job,
            self.models,
            CorpusConfig.model_validate(corpus),
            place,
            NUM_MEASURED,
            ["kind"],
        )
        self.scored = run.root / "scored.arrow"
        self.at = Looked(run.data, place, self.scored, chosen, 0, True)

    def score(self, asked: bool = True) -> None:
        """As the service would."""
        spec = EngineSpec(
            self.models.teacher, "fp32", False, 1, 512, 1, encoder=self.models.encoder
        )
        engine = EncoderEngine(spec, ShardPlace(0, 1, "", 0)) if asked else None

        async def ask(rows: Any) -> Any:
            assert engine is not None
            return engine.score(rows, heldout_spec(self.job, self.models))

        stages.score_set(ask if asked else None, self.at.sample, self.scored, None, self.at.chosen)

    def look(self, job: Any = None, **changed: Any) -> evaluating.Found:
        at = replace(self.at, **changed)
        student = Path(self.student.path)
        untrained = ModelSource(self.models.teacher.path)
        return inspect_labels(job or self.job, self.models, untrained, student, at)


@pytest.fixture
def sample(
    request: Any, tmp_path: Path, make_job: Callable[..., Any], save_bert: Callable[..., Path]
) -> Sample:
    made = Sample(request.param, tmp_path, make_job, save_bert)
    made.score()
    return made


@pytest.mark.parametrize("sample", [*LOOKED_INTO, "masked"], indirect=True)
def test_everything_is_looked_into(sample: Sample) -> None:
    task = sample.job.classifier.task
    found = sample.look(batch=2 if task in TIMED else 0)
    inspection, scores = found.inspection, found.scores
    assert sample.told["rows_measured"] == scores.rows == NUM_MEASURED
    assert set(scores.models) == {"teacher", "untrained", "student"}
    assert inspection.drift is not None
    assert [note for note in inspection.notes if "no model is timed" not in note] == []
    assert bool(inspection.notes) == (task == "masked")
    told = Report(
        raykd_version="0",
        name="x",
        job={},
        started="",
        finished="",
        hardware={},
        data={},
        models=found.models,
        evaluation={"x": scores},
        inspections={"x": inspection},
    )
    assert Report.model_validate_json(told.model_dump_json()) == told
    if task == "masked":
        assert (inspection.costs, inspection.slices, inspection.worst_texts) == ({}, [], [])
        return
    assert set(inspection.costs) == (set(scores.models) if task in TIMED else set())
    assert inspection.kept is not None
    assert (inspection.kept.cost_ratio is not None) == (task in TIMED)
    of_labels = task in ("single_label", "multi_label", "tokens")
    assert set(inspection.calibration) == (set(scores.models) if of_labels else set())
    tables = {table.by: table.slices for table in inspection.slices}
    assert {"kind", "length"} >= set(tables) - {"gold label"}
    assert ("gold label" in tables) == (task == "single_label")
    assert sum(one.rows for one in tables["kind"]) == NUM_MEASURED
    worst = inspection.worst_texts
    assert len(worst) == 10
    assert [one.distance for one in worst] == sorted((one.distance for one in worst), reverse=True)
    assert all("texts.jsonl:" in one.place and one.text is not None for one in worst)
    if of_labels:
        assert scores.models["student"].kl_to_teacher == pytest.approx(
            np.average(
                [one.kl_to_teacher for one in tables["kind"]],  # type: ignore[arg-type]
                weights=[one.tokens for one in tables["kind"]],
            )
        )
        assert inspection.drift.kl_near is not None
    # The untrained student here is the teacher itself.
    assert scores.models["untrained"].metrics.get("accuracy") == scores.models[
        "teacher"
    ].metrics.get("accuracy")


@pytest.mark.parametrize("sample", ["single_label"], indirect=True)
def test_figures_are_those_of_a_plain_forward_pass(sample: Sample) -> None:
    from transformers import AutoModelForSequenceClassification

    found = sample.look()
    places = read_origins(sample.at.sample).places
    numbers = [int(places[row].rsplit(":")[-1]) - 1 for row in sample.at.chosen]
    assert numbers != list(range(NUM_MEASURED)), "not simply the first ones"
    texts = [record("single_label", number) for number in numbers]
    tokenizer: Any = load_tokenizer(sample.models.teacher, "x")
    sides = {}
    for role, path in (("teacher", sample.models.teacher.path), ("student", sample.student.path)):
        model = AutoModelForSequenceClassification.from_pretrained(path)
        with torch.no_grad():
            sides[role] = torch.cat(
                [model(**tokenizer(one["text"], return_tensors="pt")).logits for one in texts]
            ).log_softmax(1)
    kl = (sides["teacher"].exp() * (sides["teacher"] - sides["student"])).sum(1)
    worst = found.inspection.worst_texts
    order = kl.argsort(descending=True)[:10].tolist()
    assert [one.place for one in worst] == [places[sample.at.chosen[i]] for i in order]
    assert [one.distance for one in worst] == pytest.approx(kl[order].tolist(), rel=1e-3)
    read = [tokenizer(texts[i]["text"], add_special_tokens=False)["input_ids"] for i in order]
    assert [one.text for one in worst] == [tokenizer.decode(ids) for ids in read]
    assert [one.gold and one.gold[0] for one in worst] == [texts[i]["y"] for i in order]
    right = [
        LABELS[int(row.argmax())] == one["y"]
        for row, one in zip(sides["student"], texts, strict=True)
        if one["y"] is not None
    ]
    assert found.inspection.calibration["student"].accuracy == pytest.approx(np.mean(right))
    by_label = {table.by: table.slices for table in found.inspection.slices}["gold label"]
    wanted = {name: sum(one["y"] == name for one in texts) for name in LABELS}
    wanted["(none)"] = sum(one["y"] is None for one in texts)
    assert {one.value: one.rows for one in by_label} == wanted


@pytest.mark.parametrize("sample", ["single_label"], indirect=True)
def test_what_is_not_asked_for(sample: Sample) -> None:
    found = sample.look(texts=False).inspection
    assert found.costs == {}
    assert found.kept is not None
    assert found.kept.cost_ratio is None
    assert {one.text for one in found.worst_texts} == {None}
    assert "river" not in found.model_dump_json()


@pytest.mark.parametrize("task", ["single_label"])
def test_without_a_teacher(
    task: str, tmp_path: Path, make_job: Callable[..., Any], save_bert: Callable[..., Path]
) -> None:
    sample = Sample(task, tmp_path, make_job, save_bert)
    sample.score(asked=False)
    alone = sample.job.model_copy(
        update={"teacher": sample.job.teacher.model_copy(update={"engine": "none"})}
    )
    found = sample.look(alone, batch=1)
    assert set(found.scores.models) == {"untrained", "student"}
    inspection = found.inspection
    assert set(inspection.calibration) == set(inspection.costs) == {"untrained", "student"}
    assert (inspection.worst_texts, inspection.lost_texts) == ([], [])
    assert inspection.against_gold is None
    assert "nobody to compare with" in inspection.notes[0]


@pytest.mark.parametrize("sample", ["embedding"], indirect=True)
def test_pairs_are_drawn_whole(sample: Sample) -> None:
    gold = GoldOf(sample.at.sample)(np.array(sample.at.chosen))
    pairs: dict[float, set[float]] = {}
    for number, side, _ in gold.tolist():
        pairs.setdefault(number, set()).add(side)
    assert len(pairs) == NUM_MEASURED // 2
    assert set(map(frozenset, pairs.values())) == {frozenset({0.0, 1.0})}
    assert sorted(pairs) != [float(i) for i in range(NUM_MEASURED // 2)]
    cosine = sample.look().scores.models["student"].metrics["cosine_to_teacher"]
    assert math.isfinite(cosine)
