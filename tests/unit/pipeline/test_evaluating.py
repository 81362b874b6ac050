"""What `raykd eval` measures, in one process: no Ray, the teacher's engine called directly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.data.prepare import prepare
from raykd.evaluation.harness import Harness
from raykd.evaluation.report_data import Report
from raykd.models.load import ModelSource, load_tokenizer
from raykd.pipeline import drifting, evaluating, stages
from raykd.pipeline.evaluating import Looked
from raykd.pipeline.models import find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

WORDS = "the a one river stone light wind teacher student learns sees keeps".split()  # noqa: SIM905


class Prepared:
    """A run as far as its data, and a sample that the teacher has scored."""

    def __init__(self, job: Any, run: RunDirectory, data: Path, max_rows: int) -> None:
        self.job = job
        self.models = find_models(job, run)
        tokenizer = load_tokenizer(self.models.teacher, "teacher.model")
        prepare(job, tokenizer, run.data, run.logs)
        corpus = job.data.corpus.model_copy(update={"source": str(data)})
        self.place = run.root / "evaluations" / "x" / "rows"
        self.stats, self.chosen = evaluating.prepare_chosen(
            job, self.models, corpus, self.place, max_rows, ["kind"]
        )
        self.run = run

    def score(self) -> Path:
        """As the service would."""
        engine = TransformersEngine(
            EngineSpec(self.models.teacher, "fp32", False, 1, 256, 64), ShardPlace(0, 1, "", 0)
        )
        spec = heldout_spec(self.job, self.models)

        async def ask(rows: Any) -> Any:
            return engine.score(rows, spec)

        target = self.run.root / "scored.arrow"
        stages.score_set(ask, self.place, target, None, self.chosen)
        return target

    def alone(self) -> Path:
        """Without a teacher."""
        target = self.run.root / "scored.arrow"
        stages.score_set(None, self.place, target, None, self.chosen)
        return target

    def look(self, scored: Path, **changed: Any) -> evaluating.Found:
        at = Looked(self.run.data, self.place, scored, self.chosen, 2, True)
        fields = {name: getattr(at, name) for name in at.__dataclass_fields__}
        student = Path(self.job.student.init.model)
        return evaluating.inspect(
            self.job,
            self.models,
            ModelSource(str(student)),
            student,
            Looked(**{**fields, **changed}),
        )


@pytest.fixture
def prepared(make_job: Callable[..., Any], tmp_path: Path) -> Prepared:
    sample = tmp_path / "sample.jsonl"
    lines = [
        {"text": " ".join(WORDS[(i + j) % len(WORDS)] for j in range(8 + i)), "kind": "ab"[i >= 6]}
        for i in range(10)
    ]
    lines.append({"text": "QUITE OTHER: 0123456789 +-*/ 9876543210", "kind": "b"})
    sample.write_text("".join(json.dumps(line) + "\n" for line in lines))
    job = make_job({"evaluation.heldout_fraction": 0.3, "evaluation.max_rows": 20})
    return Prepared(job, RunDirectory(tmp_path / "run"), sample, max_rows=6)


def test_everything_is_looked_into(prepared: Prepared) -> None:
    assert (prepared.stats["rows"], prepared.stats["rows_measured"]) == (11, 6)
    assert prepared.chosen == sorted(set(prepared.chosen))
    found = prepared.look(prepared.score())
    assert set(found.models) == {"untrained", "student"}
    assert found.scores.rows == 6
    scores = found.scores.models
    assert scores["student"] == scores["untrained"].model_copy(
        update={"tokens_per_s": scores["student"].tokens_per_s}
    ), "both are the same weights here"
    inspection = found.inspection
    assert (
        set(inspection.calibration)
        == set(inspection.costs)
        == {*("teacher", "untrained", "student")}
    )
    assert {len(costs) for costs in inspection.costs.values()} == {2}
    assert inspection.costs["teacher"][0].peak_bytes > inspection.costs["student"][0].peak_bytes
    kept = inspection.kept
    assert kept is not None
    assert kept.cost_ratio == pytest.approx(
        inspection.costs["teacher"][1].written_tokens_per_s
        / inspection.costs["student"][1].written_tokens_per_s
    )
    assert kept.gap_closed in (None, 0.0)
    tables = {table.by: table for table in inspection.slices}
    assert "kind" in tables
    assert "file" not in tables, "one file is no slice"
    for table in tables.values():
        assert sum(one.tokens for one in table.slices) == found.scores.tokens
        assert sum(one.rows for one in table.slices) == 6
    assert inspection.notes == []
    chosen = prepared.chosen
    assert chosen != list(range(6)), "not simply the first ones"
    kinds = Counter("ab"[row >= 6] for row in chosen)
    assert {one.value: one.rows for one in tables["kind"].slices} == kinds
    kl_at = {int(row.place.rsplit(":")[-1]) - 1: row.kl_to_teacher for row in inspection.worst}
    assert sorted(kl_at) == chosen
    assert len(inspection.worst) == 6
    assert inspection.worst[0].kl_to_teacher >= inspection.worst[-1].kl_to_teacher
    assert inspection.worst[0].teacher_goes_on
    drift = inspection.drift
    assert drift is not None
    assert drift.sample_pieces == 11, "drift is of the whole sample"
    assert drift.compared == "whole documents"
    assert drift.farthest[0].place.endswith(":11")
    for row in drift.farthest:
        number = int(row.place.rsplit(":")[-1]) - 1
        known = kl_at.get(number)
        assert row.kl_to_teacher == (None if known is None else pytest.approx(known))
    assert {drift.kl_far, drift.kl_near} != {None}
    assert "QUITE OTHER" in (drift.farthest[0].text or "")
    Report.model_validate_json(  # what is found can be kept and read again
        Report(
            raykd_version="0",
            name="x",
            job={},
            started="",
            finished="",
            hardware={},
            data={},
            models=found.models,
            evaluation={"x": found.scores},
            inspections={"x": inspection},
        ).model_dump_json()
    )


def test_scores_are_those_of_a_plain_forward_pass(prepared: Prepared) -> None:
    from transformers import AutoModelForCausalLM

    found = prepared.look(prepared.score(), batch=0)
    model = AutoModelForCausalLM.from_pretrained(prepared.job.student.init.model)
    table = stages.compare.read_scored(prepared.run.root / "scored.arrow")
    total, num = 0.0, 0
    for row in table.to_pylist():
        length = max(i for i, p in enumerate(row["position_ids"]) if p) + 1
        ids = torch.tensor([row["input_ids"][:length]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        num += length - 1
    student = found.scores.models["student"]
    assert found.scores.tokens == num
    assert student.perplexity == pytest.approx(torch.tensor(total / num).exp().item(), rel=1e-4)
    assert student.tokens_per_s is None
    assert found.inspection.costs == {}


def test_without_a_scoring_teacher(prepared: Prepared) -> None:
    found = prepared.look(prepared.alone(), batch=0)
    assert set(found.scores.models) == {"untrained", "student"}
    assert found.scores.models["student"].kl_to_teacher is None
    assert "gives no distributions" in found.inspection.notes[0]
    assert found.inspection.worst == []
    assert set(found.inspection.calibration) == {"untrained", "student"}
    assert found.inspection.drift is not None
    assert found.inspection.drift.kl_far is None


def test_tasks_are_run_on_every_model(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_tasks(model: Any, tokenizer: Any, asked: Harness, batch: int) -> Any:
        assert (len(tokenizer), asked.tasks, batch) == (model.config.vocab_size, ("t",), 1)
        return {("t", "acc"): float(model.config.num_hidden_layers)}

    monkeypatch.setattr(evaluating.inspecting, "run_tasks", run_tasks)
    found = prepared.look(prepared.score(), batch=0, harness=Harness(("t",)))
    (metric,) = found.inspection.tasks
    assert metric.scores == {"untrained": 2.0, "student": 2.0, "teacher": 4.0}
    assert found.inspection.costs == {}


def test_texts_are_left_out(prepared: Prepared) -> None:
    found = prepared.look(prepared.score(), batch=0, texts=False)
    told = found.inspection.model_dump_json()
    assert "QUITE OTHER" not in told
    assert "river" not in told


def test_a_run_without_its_rows_has_no_drift(prepared: Prepared, tmp_path: Path) -> None:
    found = prepared.look(prepared.alone(), data=tmp_path / "gone", batch=0)
    assert found.inspection.drift is None
    assert any("drift was not measured" in note for note in found.inspection.notes)


def test_training_rows_are_read_evenly(prepared: Prepared) -> None:
    whole, all_of_it = drifting._read(prepared.run.data / "train", 10**9, False)
    part, share = drifting._read(prepared.run.data / "train", len(whole.ids_N) // 4, False)
    assert all_of_it == 1.0
    assert 0.15 < share < 0.35
    assert set(part.row_P.tolist()) < set(whole.row_P.tolist())
    assert part.row_P.max() == whole.row_P.max()
