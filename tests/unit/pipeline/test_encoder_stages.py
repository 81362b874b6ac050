"""Every task of a classifier through all its stages, without a cluster."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertModel

from raykd.config.classifier import LABELLED
from raykd.config.soft_targets import SoftTargetsConfig
from raykd.config.student import FromPretrained
from raykd.data.prepare import open_rows
from raykd.errors import JobError, ModelError
from raykd.models.encoder import EncoderSpec
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.models.sentence import read_projection
from raykd.pipeline import encoder_targets, stages
from raykd.pipeline.models import count_parameters, find_models, make_student
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec, training_spec
from raykd.pipeline.teacher import Parts, student_class
from raykd.soft_targets.codec import HiddenStates, decode
from raykd.student.checkpoint import CheckpointMark, aside, publish
from raykd.student.protocol import StudentSpec, Wish
from raykd.teacher.encoder_engine import EncoderEngine
from raykd.teacher.engine import EngineSpec, ShardPlace

MakeJob = Callable[..., Any]
LABELS = ("wind", "stone", "light")
STEPS = 4


def record(task: str, draw: random.Random) -> dict[str, Any]:
    words = draw.choices(["the", "a", "river", "moves", "over", "no", "slow"], k=5)
    found = [label for label in LABELS if draw.random() < 0.5] or [LABELS[0]]
    text = " ".join([*words, *found])
    if task == "tokens":
        return {"text": words, "y": [draw.choice([*LABELS, None]) for _ in words]}
    label: Any = {"single_label": found[0], "multi_label": found, "regression": len(found) / 2}
    return {"text": text, "other": " ".join(words[::-1]), "y": label.get(task)}


@pytest.fixture
def job(request: Any, make_job: MakeJob, tmp_path: Path, save_bert: Callable[..., Path]) -> Any:
    task: str = request.param
    labels = LABELS if task in ("single_label", "multi_label", "tokens") else ()
    draw = random.Random(task)
    lines = [json.dumps(record(task, draw)) + "\n" for _ in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    base = ModelSource(str(save_bert(tmp_path / "base")))
    spec = EncoderSpec(task, labels, 2)  # type: ignore[arg-type]
    init = FromPretrained(start="pretrained", model=base.path)
    teacher = write_encoder(init, base, base, spec, 1, tmp_path / "teacher", False)
    columns = {"text": "text"} if task == "masked" else {"text": "text", "label": "y"}
    of_vectors = task == "embedding"
    loss = {"alpha": 0.0 if of_vectors else 0.5}
    return make_job(
        {
            "method": "classifier",
            "classifier": {"task": task, "cosine": 0.0 if of_vectors else 0.5},
            "data.corpus": {
                "source": str(tmp_path / "texts.jsonl"),
                "columns": {"text": "text", "text_pair": "other"} if of_vectors else columns,
            },
            "data.sequence_length_tokens": 32,
            "data.packing": "pad",
            "data.long_documents": "cut",
            "teacher.model": teacher.path,
            "soft_targets": {"top_k": 8} if task == "masked" else {},
            "loss": loss,
            "student.init": {"start": "teacher", "layers": 1},
            "evaluation": {"heldout_fraction": 0.3, "max_rows": 40, "top_k": 8},
            "train.global_batch": 8,
            "train.micro_batch": 4,
            "train.optimizer": {"lr": 0.01, "schedule": "constant"},
        }
    )


def asking(engine: EncoderEngine, spec: Any) -> Callable[[pa.Table], Any]:
    async def score(rows: pa.Table) -> pa.Table:
        return engine.score(rows, spec)

    return score


def engine_of(job: Any, models: Any) -> EncoderEngine:
    spec = EngineSpec(models.teacher, "fp32", False, 1, 512, 1, encoder=models.encoder)
    return EncoderEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


def trained(job: Any, run: RunDirectory, models: Any, initial: ModelSource) -> list[float]:
    """A few steps on the same rows, and a checkpoint of the last."""
    spec = training_spec(job, models)
    student = student_class(job, Parts())(
        StudentSpec(
            job,
            initial,
            STEPS,
            spec,
            spec,
            encoder=models.encoder,
            gold=encoder_targets.gold_of(job, run.data / "train"),
        )
    )
    numbers = np.array([0, 1, 2, 3, 4, 5, 6, -1])  # the last is a filler
    rows = open_rows(run.data / "train").take(numbers)
    answer = engine_of(job, models).score(rows, spec)
    assert answer is not None
    table = pa.table(
        {"row": np.arange(8), "source_row": numbers}
        | {name: rows.column(name) for name in rows.column_names}
        | {name: answer.column(name) for name in answer.column_names}
    )
    losses = [student.train_step(table, step, 0.0, Wish.GO_ON).loss for step in range(STEPS)]
    directory = aside(run.checkpoints, STEPS)
    directory.mkdir(parents=True)
    student.save(directory)
    publish(run.checkpoints, CheckpointMark(STEPS, STEPS * 8, 1, job.student.zero_stage), 1)
    del student
    gc.collect()
    return losses


pytestmark = pytest.mark.usefixtures("group_of_one")

FIGURES = {
    "single_label": {"accuracy", "macro_f1"},
    "multi_label": {"micro_f1", "macro_f1", "accuracy"},
    "regression": {"pearson", "spearman", "mse", "mse_to_teacher"},
    "tokens": {"accuracy", "macro_f1"},
    "embedding": {"recall_at_1", "mrr", "cosine_to_teacher"},
    "masked": {"accuracy", "perplexity"},
}


@pytest.mark.parametrize("job", list(FIGURES), indirect=True)
def test_the_whole_way_of_a_task(job: Any) -> None:
    run = RunDirectory.of(job)
    for directory in (run.root, run.data.parent, run.logs, run.model_cache):
        directory.mkdir(parents=True, exist_ok=True)
    models = find_models(job, run)
    initial = make_student(job, run, models)
    counted = count_parameters(job, run)
    assert counted["student"] < counted["teacher"]
    told = stages.prepare_rows(job, run, models)
    assert set(told) == {"train", "heldout"}
    engine = engine_of(job, models)
    assert engine.describe()["parameters"] == counted["teacher"]
    stages.score_set(
        asking(engine, heldout_spec(job, models)), run.data / "heldout", run.targets("heldout")
    )
    losses = trained(job, run, models, initial)
    assert losses[-1] < losses[0]
    assert stages.export_student(job, run, models, initial, run.student) == STEPS
    sets = {"heldout": run.targets("heldout")}
    measured = stages.measure(job, models, initial, run.student, sets)
    task = job.classifier.task
    scores = measured.sets["heldout"]
    assert scores.task == task
    assert set(scores.models["student"].metrics) == FIGURES[task]
    assert set(scores.models["teacher"].metrics) == {
        name for name in FIGURES[task] if not name.endswith("to_teacher")
    }
    assert measured.models["student"].parameters == counted["student"]
    if task not in ("embedding", "regression"):
        assert scores.models["student"].kl_to_teacher is not None
    if task in LABELLED:
        config = json.loads((run.student / "config.json").read_text())
        assert list(config["id2label"].values()) == list(LABELS)
    if task == "embedding":
        assert (run.student / "1_Pooling" / "config.json").is_file()


@pytest.mark.parametrize("job", ["single_label"], indirect=True)
def test_what_does_not_fit_is_named(job: Any, make_job: MakeJob) -> None:
    run = RunDirectory.of(job)
    run.model_cache.mkdir(parents=True)

    def complaint(**changes: Any) -> str:
        section = job.classifier.model_copy(update=changes)
        with pytest.raises(JobError) as caught:
            find_models(job.model_copy(update={"classifier": section}), run)
        return str(caught.value)

    assert "output 0: 'stone' here, 'wind' there; output 1" in complaint(
        labels=["stone", "wind", "light"]
    )
    assert "output 3: 'sun' here, none there" in complaint(labels=[*LABELS, "sun"])
    data = job.data.model_copy(update={"sequence_length_tokens": 100})
    with pytest.raises(ModelError, match="100 is longer than the teacher's context of 64 tokens"):
        find_models(job.model_copy(update={"data": data}), run)


@pytest.mark.parametrize("job", ["masked"], indirect=True)
def test_masked_tokens_need_a_mask_token_and_enough_ids(job: Any) -> None:
    run = RunDirectory.of(job)
    run.model_cache.mkdir(parents=True)
    few = job.evaluation.model_copy(update={"top_k": 4000})
    with pytest.raises(ModelError, match=r"evaluation\.top_k: 4000 is more than the 44 tokens"):
        find_models(job.model_copy(update={"evaluation": few}), run)
    file = Path(job.teacher.model) / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["mask_token"]
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"teacher\.model: its tokenizer .* has no mask token"):
        find_models(job, run)


@pytest.mark.parametrize("job", ["masked"], indirect=True)
def test_masked_tokens_as_whole_distributions(job: Any) -> None:
    section = job.classifier.model_copy(update={"cosine": 0.0, "maskings": 2})
    whole = SoftTargetsConfig(codec="full")
    job = job.model_copy(update={"classifier": section, "soft_targets": whole})
    run = RunDirectory.of(job)
    for directory in (run.root, run.data.parent, run.logs, run.model_cache):
        directory.mkdir(parents=True, exist_ok=True)
    models = find_models(job, run)
    initial = make_student(job, run, models)
    told = stages.prepare_rows(job, run, models)
    assert sum(one["rows"] for one in told.values()) == 80  # 40 texts, each masked twice
    losses = trained(job, run, models, initial)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("job", ["embedding", "single_label", "masked"], indirect=True)
def test_a_narrower_student_learns_a_way_to_its_teachers_vectors(job: Any) -> None:
    narrow = job.student.init.model_copy(
        update={"widths": {"hidden_size": 16, "num_attention_heads": 2}}
    )
    job = job.model_copy(update={"student": job.student.model_copy(update={"init": narrow})})
    run = RunDirectory.of(job)
    for directory in (run.root, run.data.parent, run.logs, run.model_cache):
        directory.mkdir(parents=True, exist_ok=True)
    models = find_models(job, run)
    initial = make_student(job, run, models)
    stages.prepare_rows(job, run, models)
    ask = asking(engine_of(job, models), heldout_spec(job, models))
    stages.score_set(ask, run.data / "heldout", run.targets("heldout"))
    losses = trained(job, run, models, initial)
    assert losses[-1] < losses[0]
    stages.export_student(job, run, models, initial, run.student)
    source = ModelSource(str(run.student))
    measured = stages.measure(
        job, models, initial, run.student, {"heldout": run.targets("heldout")}
    ).sets["heldout"]
    if job.classifier.task != "embedding":  # the matrix is of the training alone
        assert read_projection(source) is None
        return
    matrix = read_projection(source)
    assert matrix is not None
    assert matrix.shape == (32, 16)
    assert "cosine_to_teacher" in measured.models["student"].metrics
    assert "cosine_to_teacher" not in measured.models["untrained"].metrics
    # As a teacher it gives what goes through the matrix.
    again = job.model_copy(
        update={"teacher": job.teacher.model_copy(update={"model": str(run.student)})}
    )
    as_teacher = find_models(again, run)
    assert as_teacher.teacher_hidden_size == 32
    spec = heldout_spec(again, as_teacher)
    rows = open_rows(run.data / "heldout").take(np.array([0], dtype=np.int64))
    answer = engine_of(again, as_teacher).score(rows, spec)
    found = decode(answer, spec)
    model = BertModel.from_pretrained(run.student).eval()
    length = int((np.array(rows.column("position_ids")[0].as_py()) > 0).sum()) + 1
    ids = torch.tensor([rows.column("input_ids")[0].as_py()[:length]])
    wanted = model(ids).last_hidden_state[0].mean(0) @ matrix.T
    assert isinstance(found, HiddenStates)
    torch.testing.assert_close(found.hidden_TD[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("job", ["masked"], indirect=True)
def test_masked_tokens_without_a_teacher(job: Any) -> None:
    """Nothing travels, so that nobody minds that there are fewer ids than the default `top_k`."""
    job = job.model_copy(
        update={
            "teacher": job.teacher.model_copy(update={"engine": "none"}),
            "soft_targets": SoftTargetsConfig(),
            "loss": job.loss.model_copy(update={"alpha": 1.0}),
            "classifier": job.classifier.model_copy(update={"cosine": 0.0}),
        }
    )
    run = RunDirectory.of(job)
    for directory in (run.root, run.data.parent, run.logs, run.model_cache):
        directory.mkdir(parents=True, exist_ok=True)
    models = find_models(job, run)
    initial = make_student(job, run, models)
    stages.prepare_rows(job, run, models)
    assert heldout_spec(job, models).top_k <= training_spec(job, models).top_k == 44
    stages.score_set(None, run.data / "heldout", run.targets("heldout"))
    measured = stages.measure(
        job, models, initial, Path(initial.path), {"heldout": run.targets("heldout")}
    )
    scores = measured.sets["heldout"].models
    assert set(scores) == {"untrained", "student"}
    assert scores["untrained"].metrics == scores["student"].metrics
    assert scores["student"].kl_to_teacher is None
