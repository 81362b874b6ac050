"""Rows, steps and tokens; operations and rates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from raykd.config.load import dump_job
from raykd.errors import JobError
from raykd.pipeline.run_dir import RunDirectory
from raykd.planning import speed as rates_module
from raykd.planning.accelerators import read_accelerators
from raykd.planning.amount import amount
from raykd.planning.families import shape_of
from raykd.planning.model_files import Models
from raykd.planning.speed import (
    Rates,
    probe_file,
    rank_rate,
    read_probe_rates,
    replica_rate,
    student_flops,
    teacher_flops,
)

MakeJob = Callable[..., Any]


def prepare(job: Any, **train: Any) -> None:
    """What a run leaves behind once its rows are prepared."""
    run = RunDirectory.of(job)
    run.data.mkdir(parents=True)
    run.job_file.write_text(dump_job(job))
    stats = {"rows": 50, "tokens": 2880, "tokens_padded": 320, "tokens_learned": 1600, **train}
    (run.data / "prepared.json").write_text(json.dumps({"sets": {"train": stats}}))


def test_prepared_rows_are_counted(make_job: MakeJob) -> None:
    job = make_job({"train.max_steps": None})
    prepare(job)
    found = amount(job)
    assert (found.rows, found.steps, found.row_tokens, found.learned_share) == (50, 13, 64.0, 0.5)
    assert found.tokens(job) == 13 * 4 * 64
    assert "prepared in" in found.source
    assert amount(job, 8).steps == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"data.sequence_length_tokens": 32},
        {"generation": {}},
    ],
)
def test_another_jobs_rows_are_not(changes: dict[str, Any], make_job: MakeJob) -> None:
    prepare(make_job({"train.max_steps": None}))
    found = amount(make_job({"train.max_steps": None, **changes}))
    assert found.rows is found.steps is None
    assert "give --rows N" in found.source


def test_nothing_is_guessed(make_job: MakeJob) -> None:
    documents = {"data.corpus": {"source": "x", "max_documents": 100}}
    found = amount(make_job({"train.max_steps": None, **documents}))
    assert found.rows is found.tokens(make_job()) is None
    bounded = amount(make_job(documents))
    assert (bounded.rows, bounded.steps) == (None, 4)
    one_each = {**documents, "data.packing": "pad", "data.long_documents": "cut"}
    found = amount(make_job({"train.max_steps": None, **one_each}))
    assert (found.rows, found.steps) == (90, 23)
    assert found.source.startswith("at most")


def test_broken_summaries_are_no_rows(make_job: MakeJob) -> None:
    job = make_job()
    prepare(job, rows="many")
    assert amount(job).rows is None


def test_later_epochs(make_job: MakeJob) -> None:
    job = make_job({"train.epochs": 4, "train.max_steps": None})
    assert amount(job, 100).first_epoch_share(job) == pytest.approx(0.25)


def counted_flops(config: dict[str, Any], tokens: int) -> tuple[int, int]:
    """Operations of one forward and one backward pass, as torch counts matrix products."""
    fields = dict(config)
    made = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager")
    ids_BT = torch.zeros(1, tokens, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        logits = model(input_ids=ids_BT, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_operations_are_those_that_torch_counts(name: str, make_job: MakeJob) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if name == "gpt2":
        sizes = {"vocab_size": 500, "n_embd": 64, "n_layer": 3, "n_head": 4}
    config = {"model_type": name, **sizes}
    shape = shape_of(config, "student")
    models = Models(shape, shape, "", "")
    job = make_job()
    tokens = job.data.sequence_length_tokens
    forward, backward = counted_flops(config, tokens)
    assert tokens * teacher_flops(job, models) == pytest.approx(forward, rel=0.01)
    assert tokens * student_flops(job, models) == pytest.approx(forward + backward, rel=0.01)


def test_recomputing_and_adapters(make_gpu_job: MakeJob, models: Any) -> None:
    plain = student_flops(make_gpu_job({"student.activation_checkpointing": False}), models)
    head = 2 * models.student.vocab_size * models.student.hidden_size
    body = (plain - 3 * head) / 3
    assert student_flops(make_gpu_job(), models) == pytest.approx(4 * body + 3 * head)
    lora = {"student.activation_checkpointing": False, "student.lora": {"r": 8}}
    assert student_flops(make_gpu_job(lora), models) == pytest.approx(2 * body + 2 * head)
    hidden = {"student.activation_checkpointing": False, "soft_targets": {"codec": "hidden"}}
    theirs = 2 * models.teacher.vocab_size * models.teacher.hidden_size
    assert student_flops(make_gpu_job(hidden), models) == pytest.approx(plain + theirs)


def test_rates_from_operations(make_gpu_job: MakeJob, models: Any) -> None:
    job, gpu = make_gpu_job(), read_accelerators()["H100"]
    rates = Rates(teacher_mfu=0.5, student_mfu=0.25)
    assert replica_rate(job, models, rates, gpu) == pytest.approx(
        2 * 989e12 * 0.5 / teacher_flops(job, models)
    )
    assert rank_rate(job, models, rates, gpu) == pytest.approx(
        989e12 * 0.25 / student_flops(job, models)
    )
    assert replica_rate(job, models, rates, None) is None
    on_cpu = make_gpu_job({"teacher.device": "cpu", "student.device": "cpu"})
    assert replica_rate(on_cpu, models, rates, gpu) is rank_rate(on_cpu, models, rates, gpu) is None


def test_what_a_probe_measured(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job()
    assert probe_file(job) is None
    file = RunDirectory.of(job).root.parent / ".probes" / job.name / "probe.json"
    file.parent.mkdir(parents=True)
    codec = {"label": "top_k 8 int8", "wire_bytes": 40.5}
    tree = {"teacher_tokens_per_s": 900.0, "student_tokens_per_s": 300.0, "codecs": [codec]}
    file.write_text(json.dumps(tree))
    assert probe_file(job) == file
    rates = read_probe_rates(file)
    assert (rates.teacher_tokens_per_s, rates.student_tokens_per_s) == (900.0, 300.0)
    assert rates.wire_bytes == {"top_k 8 int8": 40.5}
    own = RunDirectory.of(job).probe
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps(tree))
    assert probe_file(job) == own


@pytest.mark.parametrize("text", ["{", "{}", '{"teacher_tokens_per_s": 0}', "[]"])
def test_what_is_no_probe(text: str, tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    file.write_text(text)
    with pytest.raises(JobError, match="not an answer of `raykd probe`"):
        read_probe_rates(file)
    with pytest.raises(JobError, match="cannot be read"):
        read_probe_rates(tmp_path / "none.json")


def test_probes_lie_where_probe_leaves_them() -> None:
    from raykd.pipeline import probe

    assert probe.PROBES == rates_module.PROBES


@pytest.mark.parametrize(
    "text",
    [
        "H9: {memory_gib: 1}",
        "H9: {memory_gib: 1, bf16_tflops: -1, memory_gb_per_s: 1}",
        "H9: {memory_gib: 1, bf16_tflops: 1, memory_gb_per_s: true}",
        "H9: 3",
        "- H9",
        "a: [",
    ],
)
def test_gpus_are_checked(text: str, tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(text)
    with pytest.raises(JobError, match=r"gpus\.yaml"):
        read_accelerators(file)


def test_own_gpus_come_first(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text("H100: {memory_gib: 10, bf16_tflops: 5, memory_gb_per_s: 3}")
    found = read_accelerators(file)
    assert found["H100"].memory_bytes == 10 * 2**30
    assert found["A100-80G"].bf16_flops == 312e12


def test_slices_ask_one_model_and_a_mixture_all(make_gpu_job: MakeJob, models: Any) -> None:
    job = make_gpu_job()
    teacher, student = models.teacher, models.student
    large, small = (teacher_flops(job, Models(one, one, "", "")) for one in (teacher, student))
    mixed = Models(teacher, student, "", "", mixed_in=(student,))
    assert teacher_flops(job, mixed) == large + small
    for first, other in ((teacher, student), (student, teacher)):
        sliced = Models(first, student, "", "", of_slices=(other,))
        assert teacher_flops(job, sliced) == large
