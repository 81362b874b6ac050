"""From prompts to rows of generated text, without Ray: a stand-in writes, the rest is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd import schema
from raykd.config.job import Job
from raykd.data.prepare import open_rows, prepare
from raykd.errors import GenerationError
from raykd.evaluation.report_data import Generated
from raykd.evaluation.report_page import render_page
from raykd.models.load import ModelSource
from raykd.pipeline.choosing import choose, read_summary
from raykd.pipeline.generating import as_learned, sentence, told_of
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.writing import count_lacking, write

THOUGHT = "<think>no and then</think> "
PROMPTS = 30


class Client:
    """Says a thought and the prompt's last word; of prompt 3 nothing."""

    def __init__(self) -> None:
        self.requests: list[int] = []

    async def generate(self, prompts: pa.Table, sampling: Any) -> pa.Table:
        self.requests.append(prompts.num_rows)
        rows = []
        for row in prompts.to_pylist():
            asked = row["messages"][-1]["content"] if row["messages"] else row["text"]
            text = "" if asked.endswith("stone3") else THOUGHT + asked.split()[-1]
            rows.append({"completion": text, "finish_reason": "stop", "completion_tokens": 4})
        return pa.Table.from_pylist(rows, schema=schema.COMPLETIONS)


class Case:
    """A job, its run directory and its models, as tasks get them."""

    def __init__(self, job: Job, teacher: Path) -> None:
        self.job, self.run, self.client = job, RunDirectory.of(job), Client()
        self.run.logs.mkdir(parents=True, exist_ok=True)
        self.models: Any = SimpleNamespace(
            teacher=ModelSource(str(teacher)),
            teacher_identity="t",
            tokenizer_identity="v",
            scorer=None,
        )

    def written(self) -> dict[str, Any]:
        found = count_lacking(self.job, self.run, self.models)
        if found.lacking:
            client: Any = self.client
            write(self.job, self.run, self.models, client, found)
        return choose(self.job, self.run, self.models)


MakeCase = Callable[..., Case]


@pytest.fixture
def case(make_job: Callable[..., Job], tmp_path: Path, teacher_dir: Path) -> MakeCase:
    source = tmp_path / "prompts.jsonl"
    # Every prompt stands there twice.
    texts = [f"the river and stone{i % PROMPTS}" for i in range(2 * PROMPTS)]
    source.write_text("".join(json.dumps({"q": text}) + "\n" for text in texts))

    def make(generation: dict[str, Any], teacher: Path = teacher_dir, **more: Any) -> Case:
        corpus = {"source": str(source), "columns": {"prompt": "q"}}
        section = {"sampling": {"max_new_tokens": 16}, **generation}
        changes = {"method": "sequence", "loss": {}, "data.corpus": corpus, **more}
        return Case(make_job({**changes, "generation": section}), teacher)

    return make


def test_equal_prompts_are_written_once(case: MakeCase) -> None:
    one = case({})
    assert count_lacking(one.job, one.run, one.models).lacking == PROMPTS
    told = one.written()
    assert sum(one.client.requests) == PROMPTS
    assert told["completions"] == 2 * PROMPTS
    assert told["dropped"] == {"answered": 2}
    assert told["kept"] == 2 * PROMPTS - 2
    assert sentence(told) == (
        "generated: 60 completions of 60 prompts, 58 to learn from; dropped: answered 2"
    )
    assert json.loads(one.run.generating.read_text()) == [PROMPTS, PROMPTS]


def test_as_many_rows_as_a_batch_holds(case: MakeCase) -> None:
    one = case({}, **{"teacher.micro_batch_tokens": 150})
    one.written()
    # 16 tokens to write after prompts of a dozen.
    assert max(one.client.requests) < 150 / 16
    assert sum(one.client.requests[:-1]) == (len(one.client.requests) - 1) * one.client.requests[0]


def test_the_same_job_chooses_once(case: MakeCase) -> None:
    one = case({})
    first = one.written()
    before = one.run.learned.stat().st_mtime_ns
    assert one.written() == first
    assert one.run.learned.stat().st_mtime_ns == before
    # The same prompts in a file of another time make the same text: its rows stay valid.
    source = Path(one.job.data.corpus.source)  # type: ignore[arg-type]
    source.write_bytes(source.read_bytes())
    assert one.written()["fingerprint"] != first["fingerprint"]
    assert one.run.learned.stat().st_mtime_ns == before
    other = case({"filters": [{"duplicates": {}}]})
    told = other.written()
    assert other.client.requests == []
    assert told["dropped"] == {"answered": 2, "duplicates": PROMPTS - 1}
    assert one.run.learned.stat().st_mtime_ns > before
    drawn = case({"sampling": {"max_new_tokens": 16, "temperature": 1.0}})
    assert count_lacking(drawn.job, drawn.run, drawn.models).lacking == PROMPTS


def texts_of(directory: Path, tokenizer: Any) -> tuple[list[str], list[str]]:
    """All documents of prepared rows, and what is learned of them."""
    rows = open_rows(directory)
    documents: list[str] = []
    learned: list[str] = []
    for row in rows.take(np.arange(rows.num_rows)).to_pylist():
        ids, positions, mask = row["input_ids"], row["position_ids"], row["loss_mask"]
        starts = [i for i, position in enumerate(positions) if position == 0]
        for a, b in zip(starts, [*starts[1:], len(ids)], strict=True):
            if b - a > 1:
                documents.append(tokenizer.decode(ids[a:b]))
                learned.append(tokenizer.decode([ids[i + 1] for i in range(a, b) if mask[i]]))
    return documents, learned


@pytest.mark.parametrize(
    ("generation", "document", "learned"),
    [
        ({}, f"{{q}}{THOUGHT}{{a}}<eos>", f"{THOUGHT}{{a}}<eos>"),
        ({"reasoning": "mask"}, f"{{q}}{THOUGHT}{{a}}<eos>", " {a}<eos>"),
        ({"reasoning": "drop"}, "{q}{a}<eos>", "{a}<eos>"),
        (
            {"as_chat": True, "system_prompt": "say", "reasoning": "mask"},
            f"<|system|>say<|end|><|user|>{{q}}<|end|><|assistant|>{THOUGHT}{{a}}<|end|>",
            " {a}<|end|>",
        ),
        (
            {"as_chat": True, "system_prompt": "say", "keep_system_prompt": False},
            f"<|user|>{{q}}<|end|><|assistant|>{THOUGHT}{{a}}<|end|>",
            f"{THOUGHT}{{a}}<|end|>",
        ),
    ],
)
def test_rows_hold_what_was_written(
    generation: dict[str, Any],
    document: str,
    learned: str,
    case: MakeCase,
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    one = case(generation, **{"data.sequence_length_tokens": 128, "evaluation.max_rows": 60})
    one.written()
    job = as_learned(one.job, one.run)
    prepare(job, tiny_tokenizer, tmp_path / "rows", tmp_path / "logs")
    sides = {
        name: texts_of(tmp_path / "rows" / name, tiny_tokenizer) for name in ("train", "heldout")
    }
    answers = [f"stone{i % PROMPTS}" for i in range(2 * PROMPTS) if i % PROMPTS != 3]
    for at, form in ((0, document), (1, learned)):
        expected = [form.format(q=f"the river and {a}", a=a) for a in answers]
        assert sorted(sides["train"][at] + sides["heldout"][at]) == sorted(expected)
    # Prompts of one content are on one side.
    assert sides["heldout"][0]
    assert not set(sides["train"][0]) & set(sides["heldout"][0])


def test_a_template_without_reasoning_stops_the_run(
    case: MakeCase, save_llama: Callable[..., Path], tmp_path: Path
) -> None:
    teacher = save_llama(tmp_path / "m", 1)
    template = teacher / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("m.content", "m.content.split('</think>')[-1]")
    )
    with pytest.raises(GenerationError, match=r"reasoning: keep, but .* set `reasoning: drop`"):
        case({"as_chat": True}, teacher).written()
    assert case({"as_chat": True, "reasoning": "drop"}, teacher).written()["kept"] > 0


def test_a_prompt_that_is_too_long_is_named_before_any_is_asked(case: MakeCase) -> None:
    one = case({"sampling": {"max_new_tokens": 250}})
    with pytest.raises(GenerationError, match=r"prompt 0 \('the river and stone0'\) has .* 256"):
        one.written()
    assert one.client.requests == []


def test_nothing_left_leaves_the_table_to_look_at(case: MakeCase) -> None:
    one = case({"filters": [{"regex": {"must_match": "Z"}}]})
    with pytest.raises(GenerationError, match="none is left to learn from"):
        one.written()
    assert read_summary(one.run) is None
    table = pq.read_table(one.run.generated)
    assert table.num_rows == 2 * PROMPTS
    assert not any(table.column("kept").to_pylist())


def test_the_report_tells_of_it(case: MakeCase, make_job: Callable[..., Job]) -> None:
    one = case({})
    told = one.written()
    found = told_of(one.job, one.run)
    assert found is not None
    assert found.kept == told["kept"]
    assert told_of(make_job(), one.run) is None
    page = render_page(_report(found))
    assert "Generated text" in page
    assert "dropped: answered" in page


def _report(generated: Generated) -> Any:
    from raykd.evaluation.report_data import Report

    return Report(
        raykd_version="1",
        name="n",
        job={},
        started="",
        finished="",
        hardware={},
        data={},
        models={},
        evaluation={},
        generated=generated,
    )
