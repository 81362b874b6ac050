"""Text that the teacher writes, from prompts to a student: asked for once, judged, learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.errors import GenerationError, TeacherError
from raykd.pipeline import generating
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.teacher import Parts
from raykd.teacher.transformers_tp import TransformersEngine

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.chaos, *RAY_WARNINGS]

PROMPTS = 24
COUNT_FILE = "asked.txt"


@pytest.fixture
def sequence(
    make_job: Callable[..., Any], corpus_file: Path, tmp_path: Path
) -> Callable[[dict[str, Any]], Any]:
    texts = [json.loads(line)["text"] for line in corpus_file.read_text().splitlines()]
    source = tmp_path / "prompts.jsonl"
    questions = [" ".join(text.split()[:5]) for text in texts[:PROMPTS]]
    source.write_text("".join(json.dumps({"q": q}) + "\n" for q in questions))

    def make(changes: dict[str, Any]) -> Any:
        return make_job(
            {
                "method": "sequence",
                "loss": {},
                "data.corpus": {"source": str(source), "columns": {"prompt": "q"}},
                "generation": {
                    "sampling": {"max_new_tokens": 12, "temperature": 0.8},
                    "as_chat": True,
                    "system_prompt": "Say something.",
                    "num_samples": 2,
                    "unfinished": "keep",
                    "filters": [{"length": {"min_characters": 4}}, {"duplicates": {}}],
                },
                "train.max_steps": 3,
                "checkpoint": {"every_steps": None},
                **changes,
            }
        )

    return make


class CountingEngine(TransformersEngine):
    """Writes a line a request: the seeds of its prompts; breaks after some where a file says so."""

    def generate(self, prompts: pa.Table, sampling: Any) -> pa.Table | None:
        told = super().generate(prompts, sampling)
        notes = Path(self._spec.source.path).parent / COUNT_FILE
        with notes.open("a") as file:
            file.write(" ".join(map(str, prompts.column("seed").to_pylist())) + "\n")
        limit = notes.with_name("limit.txt")
        if limit.is_file() and len(notes.read_text().splitlines()) > int(limit.read_text()):
            raise RuntimeError("the engine breaks here")
        return told


def test_prompts_are_paid_for_once_and_learned_from(
    one_teacher: None,
    sequence: Callable[[dict[str, Any]], Any],
    distil: Distil,
    save_llama: Callable[..., Path],
    tmp_path: Path,
) -> None:
    teacher = save_llama(tmp_path / "own" / "teacher", 1, num_hidden_layers=4)
    notes, limit = teacher.parent / COUNT_FILE, teacher.parent / "limit.txt"
    parts = Parts(engine_class=CountingEngine)
    # A few rows a request, so that some are kept when the engine breaks.
    asked_of = {
        "teacher.model": str(teacher),
        "teacher.micro_batch_tokens": 96,
        "teacher.max_retries": 0,
    }
    job = sequence(
        {
            **asked_of,
            "stream.requests_in_flight": 1,
        }
    )
    limit.write_text("4")
    with pytest.raises(TeacherError, match=r"on prompts .*the engine breaks here"):
        distil(job, parts=parts)
    *answered, _ = notes.read_text().splitlines()
    kept_before = " ".join(answered).split()
    assert len(answered) == 4
    limit.unlink()
    notes.write_text("")
    ran = distil(job, resume=True, parts=parts)
    # The request that broke was not answered; nothing else is asked again.
    asked = notes.read_text().split()
    assert len(asked) == 2 * PROMPTS - len(kept_before)
    assert not set(kept_before) & set(asked)

    table = pq.read_table(ran.root / "generated.parquet")
    assert table.num_rows == 2 * PROMPTS
    rows = table.to_pylist()
    assert {row["system"] for row in rows} == {"Say something."}
    assert all(json.loads(row["sampling"])["max_new_tokens"] == 12 for row in rows)
    kept = [row for row in rows if row["kept"]]
    assert all(row["verdict_length"] == "passed" for row in kept)
    told = json.loads((ran.root / "generated.json").read_text())
    assert told["completions"] == len(rows)
    assert told["kept"] == len(kept)
    assert sum(told["dropped"].values()) == len(rows) - len(kept)

    assert_each_step_once(ran.root, 3, global_batch=4)
    for step in ran.steps:
        assert step["divergence"] is None
        assert 0 < step["tokens"] < step["tokens_seen"]  # prompts are read only
    # The teacher still says how far from it the student is, on its own text.
    assert ran.report.evaluation["heldout"].models["student"].kl_to_teacher > 0

    # Another run of other filters, and of soft targets on the same text, asks for nothing written.
    notes.write_text("")
    other = sequence(
        {
            "name": "other",
            "method": "logits",
            "loss": {"alpha": 0.0},
            **asked_of,
            "generation.filters": [],
            "train.max_steps": 1,
        }
    )
    again = distil(other, parts=parts)
    assert notes.read_text() == ""
    assert again.steps[0]["divergence"] > 0
    assert json.loads((again.root / "generated.json").read_text())["kept"] > told["kept"] - 1

    strict = sequence(
        {
            "name": "strict",
            **asked_of,
            "generation.filters": [{"regex": {"must_match": "^Z{9}$"}}],
        }
    )
    with pytest.raises(GenerationError, match=r"none is left.*\n.*regex dropped") as caught:
        distil(strict, parts=parts)
    assert str(caught.value).count("`must_match` is not found in it") == 3
    assert generating.read_summary(RunDirectory.of(strict)) is None
