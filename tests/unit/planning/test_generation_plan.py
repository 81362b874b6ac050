"""What a plan makes of text that is yet to be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_activations import Alive

from raykd import schema
from raykd.clusters.hardware import Hardware
from raykd.models.load import ModelSource
from raykd.planning.accelerators import read_accelerators
from raykd.planning.amount import amount
from raykd.planning.memory import teacher_memory
from raykd.planning.model_files import read_models
from raykd.planning.plan_data import Plan
from raykd.planning.plan_table import show
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates
from raykd.planning.writing_memory import CACHE, with_cache
from raykd.planning.written import MOST_ROWS, best_write_rate
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

RATES = Rates(teacher_tokens_per_s=1000.0, student_tokens_per_s=400.0, source="a test")
SEQUENCE = {
    "method": "sequence",
    "loss": {},
    "data.corpus": {"source": "x", "max_documents": 100},
    "data.packing": "pad",
    "data.long_documents": "cut",
    "evaluation.heldout_fraction": 0.25,
}
DRAWN = {"sampling": {"temperature": 1.0}, "num_samples": 4}


@pytest.mark.parametrize(
    ("generation", "rows"), [({}, 75), (DRAWN, 300), ({**DRAWN, "keep_best": 2}, 150)]
)
def test_every_completion_may_be_a_row(
    generation: dict[str, Any], rows: int, make_job: Callable[..., Any]
) -> None:
    found = amount(make_job({**SEQUENCE, "generation": generation}))
    assert found.rows == rows
    assert "a row for each completion of data.corpus.max_documents" in found.source


@pytest.fixture
def plan_of(make_job: Callable[..., Any]) -> Callable[..., Plan]:
    def make(changes: dict[str, Any], rates: Rates = RATES, prompts: int | None = None) -> Plan:
        job = make_job({**SEQUENCE, "generation": {}, **changes})
        asked = Asked(read_models(job), None, read_accelerators(), rates, rows=100, prompts=prompts)
        return make_plan(job, asked)

    return make


def test_the_plan_says_what_it_leaves_out(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of({})
    assert [each.phase for each in plan.demands if each.part == "teacher replicas"] == [
        "writing",
        "scoring",
    ]
    (note,) = [note for note in plan.notes if note.startswith("generation: ")]
    assert "reading the prompts is not counted" in note
    assert plan.writing is not None
    assert plan.writing.tokens_per_s is plan.writing.hours is None
    assert plan.cost is not None
    assert plan.cost.writing_hours == 0


def test_hours_of_a_rate_that_is_known(plan_of: Callable[..., Plan]) -> None:
    """100 prompts x 4 x 50 tokens by two replicas of 500 tokens/s: 20 seconds."""
    generation = {**DRAWN, "sampling": {"temperature": 1.0, "max_new_tokens": 50}}
    rates = replace(RATES, write_tokens_per_s=500.0)
    changes = {"generation": generation, "teacher.replicas": 2}
    plan = plan_of(changes, rates)
    assert plan.writing is not None
    assert plan.cost is not None
    assert (plan.writing.completions, plan.writing.most_tokens) == (400, 20_000)
    assert plan.writing.tokens_per_s == 1000.0
    assert plan.writing.hours == plan.cost.writing_hours == pytest.approx(20 / 3600)
    without = plan_of(changes).cost
    assert without is not None
    assert without.hours is not None
    assert plan.cost.hours == pytest.approx(without.hours + 20 / 3600)
    more = plan_of(changes, rates, prompts=1000).writing
    assert more is not None
    assert more.hours == pytest.approx(200 / 3600)


def test_nodes_and_gpus_of_the_hours_of_writing(
    make_gpu_job: Callable[..., Any], models: Any, hardware: Hardware
) -> None:
    """100 prompts x 3,600 tokens by four replicas of 25 tokens/s, two GPUs each: one hour."""
    generation = {"sampling": {"max_new_tokens": 3600}}
    changes = {**SEQUENCE, "generation": generation, "teacher.micro_batch_tokens": 8192}
    labels = {"teacher.labels": {"raykd-role": "teacher"}}
    rates = replace(RATES, write_tokens_per_s=25.0)
    asked = Asked(models, hardware, read_accelerators(), rates, rows=256)
    plan = make_plan(make_gpu_job({**changes, **labels}), asked)
    assert plan.cost is not None
    assert plan.cost.writing_hours == pytest.approx(1.0)
    assert plan.cost.teacher_gpu_hours == pytest.approx(8.0)
    assert plan.cost.node_hours["teacher"] == pytest.approx(1.0)
    assert plan.cost.hours == pytest.approx(1.0 + plan.cost.node_hours["student"])


def test_no_faster_than_memory_allows(make_gpu_job: Callable[..., Any], models: Any) -> None:
    """A Qwen3-8B in two halves on H100s: by hand, from its published sizes."""
    job = make_gpu_job({**SEQUENCE, "generation": {"sampling": {"max_new_tokens": 1000}}})
    rows = 32_768 // 4096
    weights = 8_190_735_360 / 2 * 2  # bytes of half of it
    cache = rows * 4096 / 2 * 36 * 2 * 4 * 128 * 2  # half as long as they get, 4 of 8 heads
    expected = rows * 3350e9 / (weights + cache)
    gpu = read_accelerators()["H100"]
    assert best_write_rate(job, models.teacher, gpu) == pytest.approx(expected, rel=1e-3)
    assert best_write_rate(job, models.teacher, None) is None
    on_cpu = make_gpu_job({**SEQUENCE, "generation": {}, "teacher.device": "cpu"})
    assert best_write_rate(on_cpu, models.teacher, gpu) is None


def test_rows_are_those_of_a_request() -> None:
    from raykd.pipeline import writing

    assert writing.MOST_ROWS_A_REQUEST == MOST_ROWS


def test_what_an_endpoint_says(plan_of: Callable[..., Plan]) -> None:
    """100 prompts x 4: 400 requests of up to 50 tokens."""
    endpoint = {
        "base_url": "http://vllm:8000/v1",
        "requests_per_minute": 20,
        "tokens_per_minute": 1000,
        "price_per_million_tokens": {"input": 1.0, "output": 30.0},
        "max_cost_usd": 2.0,
    }
    teacher = {"engine": "openai", "model": "some", "endpoint": endpoint}
    generation = {**DRAWN, "sampling": {"temperature": 1.0, "max_new_tokens": 50}}
    found = plan_of({"teacher": teacher, "generation": generation}).writing
    assert found is not None
    assert found.least_hours == pytest.approx(20 / 60)
    assert found.hours_at_length == pytest.approx(20 / 60)
    assert found.most_dollars == pytest.approx(20_000 * 30 / 1e6)
    assert (found.cap_dollars, found.hours, found.replicas) == (2.0, None, 0)
    said: list[str] = []
    show(plan_of({"teacher": teacher, "generation": generation}), lambda table: None, said.append)
    (line,) = [one for one in said if "requests_per_minute" in one]
    assert "up to 0.60 USD, and the prompts on top; ends at max_cost_usd 2.00" in line


def test_nothing_is_written_without_the_section(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of({"method": "logits", "generation": None, "loss": {"alpha": 0.5}})
    assert plan.writing is None
    assert not [each for each in plan.demands if each.phase == "writing"]


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_a_shard_that_writes_holds_no_more_than_reckoned(
    sampling: dict[str, Any],
    save_llama: Callable[..., Path],
    tmp_path: Path,
    make_job: Callable[..., Any],
) -> None:
    """The tensors that are alive at once while a batch of long prompts is completed."""
    most, new = 512, 32
    deep = save_llama(tmp_path / "deep", 1, num_hidden_layers=12)
    job = make_job(
        {
            **SEQUENCE,
            "generation": {"sampling": {**sampling, "max_new_tokens": new}},
            "teacher.model": str(deep),
            "teacher.micro_batch_tokens": most,
        }
    )
    spec = EngineSpec(ModelSource(str(deep)), "fp32", False, 1, most, 64)
    engine = TransformersEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))
    row = {"sample": 0, "messages": None, "text": "old stone under the small green wind " * 13}
    rows = [{**row, "prompt": i, "seed": i} for i in range(6)]
    prompts = pa.Table.from_pylist(rows, schema=schema.PROMPTS)
    assert job.generation is not None
    alive = Alive()
    own = [*engine._model.parameters(), *engine._model.buffers()]
    alive._seen |= {one.untyped_storage()._cdata for one in own}
    with alive:
        engine.generate(prompts, job.generation.sampling)
    model = read_models(job).teacher
    memory = with_cache(job, model, teacher_memory(job, model, model.vocab_size))
    # Of 12 layers, 2 heads of 8 numbers in float32, for keys and values.
    assert memory.passing[CACHE] >= most * 2 * 4 * (12 * 2 * 8)
    # An upper bound: how much of a row is its prompt is not known.
    assert alive.most <= memory.device - memory.kept["weights"] <= 1.6 * alive.most


def test_what_only_scores_holds_no_cache(make_gpu_job: Callable[..., Any], models: Any) -> None:
    job = make_gpu_job()
    memory = teacher_memory(job, models.teacher, models.vocab_size)
    assert with_cache(job, models.teacher, memory) == memory
