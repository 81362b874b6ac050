"""Memory of shards and ranks: against the code that it reckons for, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raykd.losses.head import chunk_size_tokens
from raykd.planning.families import shape_of
from raykd.planning.lora import trained_and_frozen
from raykd.planning.memory import (
    LOSS_BLOCK_NUMBERS,
    TEACHER_BLOCK_NUMBERS,
    loss_chunk_tokens,
    student_memory,
    target_bytes,
    teacher_memory,
)
from raykd.soft_targets.teacher_output import block_tokens

MakeJob = Callable[..., Any]
TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("tokens", [10, 2_000, 100_000])
@pytest.mark.parametrize(("vocab", "hidden"), [(320, 32), (151_936, 2048), (256_000, 8192)])
@pytest.mark.parametrize("buffers", [1, 2])
def test_chunks_are_those_of_the_loss(tokens: int, vocab: int, hidden: int, buffers: int) -> None:
    for dtype, width in ((torch.bfloat16, 2), (torch.float32, 4)):
        weight_VD = torch.empty(vocab, hidden, dtype=dtype, device="meta")
        expected = chunk_size_tokens(tokens, weight_VD, vocab, buffers)
        found = loss_chunk_tokens(tokens, hidden, vocab, width, buffers, device="gpu")
        assert found == expected


def test_blocks_are_those_of_the_code() -> None:
    from raykd.losses import blocks

    assert blocks._BLOCK_ELEMENTS["cpu"] == LOSS_BLOCK_NUMBERS["cpu"]
    assert LOSS_BLOCK_NUMBERS["gpu"] == blocks._BLOCK_ELEMENTS_GPU
    for kind, device in (("cpu", "cpu"), ("gpu", "cuda")):
        assert TEACHER_BLOCK_NUMBERS[kind] == block_tokens(1, torch.device(device))


@pytest.mark.parametrize("wanted", ["all-linear", ["q_proj", "down_proj"], ["self_attn.v_proj"]])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters_are_those_of_peft(name: str, wanted: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    from raykd.config.student import LoraConfig as Ours

    fields = (
        TINY if name == "llama" else {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}
    )
    if name == "gpt2" and wanted != "all-linear":
        wanted = ["c_attn", "mlp.c_proj"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields))
    model.requires_grad_(False)
    # GPT-2's layers are stored the other way round, and peft warns that it has seen it.
    settings = LoraConfig(
        r=4, target_modules=wanted, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2"
    )
    inject_adapter_in_model(settings, model)
    expected = sorted(tuple(p.shape) for p in model.parameters() if p.requires_grad)
    lora = Ours(r=4, target_modules=wanted)
    trained, frozen = trained_and_frozen(shape_of({"model_type": name, **fields}, "student"), lora)
    assert sorted(p.shape for p in trained) == expected
    assert sum(p.size for p in frozen) == sum(
        p.numel() for p in model.parameters() if not p.requires_grad
    )


def test_a_shard_holds_its_part(make_gpu_job: MakeJob, models: Any) -> None:
    whole = teacher_memory(
        make_gpu_job({"teacher.tensor_parallel": 1}), models.teacher, models.vocab_size
    )
    half = teacher_memory(make_gpu_job(), models.teacher, models.vocab_size)
    assert whole.kept["weights"] == 2 * 8_190_735_360
    # All but the norms is cut.
    norms = sum(p.size for p in models.teacher.parameters if p.role == "norm")
    assert half.kept["weights"] == (whole.kept["weights"] - 2 * norms) // 2 + 2 * norms
    assert whole.passing["activations"] > half.passing["activations"]


def test_fewer_tokens_at_once_take_less(make_gpu_job: MakeJob, models: Any) -> None:
    job = make_gpu_job({"teacher.micro_batch_tokens": 4096, "teacher.head_chunk_tokens": 256})
    small = teacher_memory(job, models.teacher, models.vocab_size)
    large = teacher_memory(make_gpu_job(), models.teacher, models.vocab_size)
    assert small.passing["activations"] == large.passing["activations"] // 8
    assert small.device < large.device


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_stays_by_stage(stage: int, make_gpu_job: MakeJob, models: Any) -> None:
    """Mixed precision with Adam: 2 + 2 + 12 bytes a parameter (ZeRO, figure 1), over 8 ranks."""
    found = student_memory(make_gpu_job({"student.zero_stage": stage}), models).kept
    parameters = models.student.num_parameters
    eighth = pytest.approx(1 / 8, rel=1e-3)
    assert found["weights"] / parameters == (2 if stage < 3 else pytest.approx(2 / 8, rel=1e-3))
    gradients = found["gradients"] / parameters
    if stage == 2:
        # A parameter that lies on several ranks keeps all of its gradient on each: the embedding.
        assert 2 / 8 < gradients < 2 / 8 + 2 * models.student.parameters[0].size / parameters
    else:
        assert gradients == (2 if stage < 2 else pytest.approx(2 / 8, rel=1e-3))
    optimizer = (found["fp32 masters"] + found["Adam moments"]) / (12 * parameters)
    assert optimizer == (1 if stage == 0 else eighth)


def test_savings_save(make_gpu_job: MakeJob, models: Any) -> None:
    plain = make_gpu_job({"student.activation_checkpointing": False})
    at = student_memory(plain, models).device
    assert student_memory(make_gpu_job(), models).device < at
    one_row = make_gpu_job({"student.activation_checkpointing": False, "train.micro_batch": 1})
    assert student_memory(one_row, models).device < at
    offloaded = student_memory(make_gpu_job({"student.offload": "optimizer"}), models)
    assert offloaded.device < student_memory(make_gpu_job(), models).device
    assert offloaded.host >= 12 * models.student.num_parameters // 8
    everything = {"student.offload": "all", "student.zero_stage": 3}
    assert "weights" in student_memory(make_gpu_job(everything), models).offloaded
    adapters = student_memory(make_gpu_job({"student.lora": {"r": 16}}), models)
    assert (
        adapters.kept["Adam moments"] < student_memory(make_gpu_job(), models).kept["weights"] / 9
    )


@pytest.mark.parametrize("codec", ["top_k", "sampled", "hidden", "full"])
def test_soft_targets_of_every_codec(codec: str, make_gpu_job: MakeJob, models: Any) -> None:
    job = make_gpu_job({"soft_targets": {"codec": codec}})
    found = target_bytes(job, models)
    bounds = {
        "top_k": (512, 600),
        "sampled": (400, 700),
        "hidden": (8192, 8192),
        "full": (2 * 151_936, 2 * 151_936 + 8),
    }
    assert bounds[codec][0] <= found <= bounds[codec][1]
    assert student_memory(job, models).passing["soft targets"] == found * 4 * 4096
    assert target_bytes(make_gpu_job({"loss.alpha": 1.0}), models) == 0


def test_a_mixture_holds_all_of_its_models(make_gpu_job: MakeJob, models: Any) -> None:
    job = make_gpu_job()
    alone = teacher_memory(job, models.teacher, models.vocab_size)
    mixed = teacher_memory(job, models.teacher, models.vocab_size, (models.student,))
    shards = job.teacher.tensor_parallel
    assert mixed.kept["weights"] - alone.kept["weights"] == 2 * models.student.shard_parameters(
        shards
    )
    assert mixed.passing["head chunk"] > alone.passing["head chunk"]


def test_models_of_slices_are_all_held_and_work_one_by_one(
    make_gpu_job: MakeJob, models: Any
) -> None:
    job = make_gpu_job()
    shards = job.teacher.tensor_parallel
    alone = teacher_memory(job, models.teacher, models.vocab_size)
    sliced = teacher_memory(
        job, models.teacher, models.vocab_size, of_slices=(models.student, models.teacher)
    )
    both = models.student.shard_parameters(shards) + models.teacher.shard_parameters(shards)
    assert sliced.kept["weights"] - alone.kept["weights"] == 2 * both
    assert sliced.passing == alone.passing
    # A wider one among them is what the room has to be for.
    small_first = teacher_memory(
        job, models.student, models.vocab_size, of_slices=(models.teacher,)
    )
    assert small_first.passing == alone.passing
    assert small_first.device - small_first.kept["weights"] == alone.device - alone.kept["weights"]
