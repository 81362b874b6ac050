"""A teacher for each slice of the data: rows have the soft targets of their own, and no other's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos, *RAY_WARNINGS]


@pytest.fixture(scope="module")
def code_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """Another size, other weights."""
    return save_llama(tmp_path_factory.mktemp("models") / "code", 7, num_hidden_layers=3)


@pytest.fixture
def sliced(corpus_file: Path, tmp_path: Path) -> Path:
    """Every third document is of slice `code`, every tenth of one that no teacher is named for."""
    texts = [json.loads(line)["text"] for line in corpus_file.read_text().splitlines()][:60]
    records = [
        {"text": text, "kind": "code" if i % 3 == 0 else "rare" if i % 10 == 1 else "prose"}
        for i, text in enumerate(texts)
    ]
    path = tmp_path / "sliced.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def logprobs_alone(directory: Path, rows: pa.Table) -> list[Any]:
    """Log probabilities at the learned positions of each row [t, V], by the model as it is."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    for row in rows.to_pylist():
        ids, places = torch.tensor([row["input_ids"]]), torch.tensor([row["position_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, position_ids=places, use_cache=False).logits[0]
        learned = torch.tensor(row["loss_mask"]).bool()
        found.append(logits[learned].double().log_softmax(-1))
    return found


def test_each_row_is_taught_by_the_teacher_of_its_slice(
    make_job: Callable[..., Any],
    distil: Distil,
    sliced: Path,
    teacher_dir: Path,
    code_dir: Path,
) -> None:
    import torch

    from raykd.data.rows import open_rows
    from raykd.evaluation.compare import read_scored
    from raykd.pipeline import by_slice
    from raykd.pipeline.kept import Kept, count_lacking
    from raykd.pipeline.models import find_models
    from raykd.pipeline.run_dir import RunDirectory
    from raykd.pipeline.targets import heldout_spec, training_spec
    from raykd.soft_targets.codec import decode

    changes = {
        "data.corpus": {"source": str(sliced), "columns": {"text": "text", "slice": "kind"}},
        "teacher.of_slices": {"code": {"model": str(code_dir)}},
        "soft_targets": {"top_k": 6, "values": "fp32"},
        "evaluation.max_rows": 64,
        "train.max_steps": None,
        "train.epochs": 1,
    }
    job = make_job(changes)
    ran = distil(job)
    assert_each_step_once(ran.root, len(ran.steps), global_batch=4)

    run = RunDirectory.of(job)
    models = find_models(job, run)
    kept, specs = Kept.of(job, models), (training_spec(job, models), heldout_spec(job, models))
    for name, spec in zip(("train", "heldout"), specs, strict=True):
        rows = open_rows(run.data / name)
        numbers = np.arange(rows.num_rows)
        table = rows.take(numbers)
        teachers = np.load(run.data / name / "teachers.npy")
        assert set(teachers.tolist()) == {0, 1}
        score = by_slice.scoring(job, models, kept, spec, run.data / name, lambda *_: None)
        assert score is not None
        read = asyncio.run(score(table.append_column("source_row", pa.array(numbers))))
        if name == "heldout":
            scored = read_scored(run.targets(name)).select(read.column_names[:-1])
            assert scored.equals(read.select(read.column_names[:-1]))
        found = decode(read, spec, torch.device("cpu"))
        alone = [logprobs_alone(directory, table) for directory in (teacher_dir, code_dir)]
        own = torch.cat([alone[teacher][row] for row, teacher in enumerate(teachers)])
        other = torch.cat([alone[1 - teacher][row] for row, teacher in enumerate(teachers)])
        ids = found.ids_TK.long()
        torch.testing.assert_close(
            found.logprobs_TK.double(), own.gather(1, ids), rtol=0, atol=1e-4
        )
        assert (found.logprobs_TK - other.gather(1, ids)).abs().mean() > 0.1

    told = ran.report.data["train"]["rows_taught"]
    assert told == {
        f"others ({teacher_dir})": int((np.load(run.data / "train/teachers.npy") == 0).sum()),
        f"code ({code_dir})": int((np.load(run.data / "train/teachers.npy") == 1).sum()),
    }

    # What is kept is each teacher's own: alone, it need not be asked again.
    again = distil(make_job({**changes, "name": "again", "soft_targets.store_mode": "only"}))
    assert "no teacher" in again.printed
    assert again.losses == ran.losses
    for number, directory in enumerate((teacher_dir, code_dir)):
        single = make_job(
            {
                **changes,
                "data.corpus": {"source": str(sliced)},
                "teacher.model": str(directory),
                "teacher.of_slices": {},
            }
        )
        its = find_models(single, run)
        looked = (Kept.of(single, its), training_spec(single, its), run.data / "train")
        mine = count_lacking(*looked, teacher=number)
        others = count_lacking(*looked, teacher=1 - number)
        assert (mine.rows, others.rows) == (0, others.of)
