"""The student under DeepSpeed, one rank in this process, against a plain PyTorch loop."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from dense_reference import dense_sums, make_scored, plain_training
from transformers import AutoModelForCausalLM, AutoTokenizer
from zero_cases import (
    CHANGES,
    DOCUMENTS,
    OPTIMIZER,
    STEPS,
    TOP_K,
    VOCAB,
    Batch,
    make_batches,
    student_of,
)

from raykd.errors import DivergenceError, StorageError
from raykd.models.load import ModelSource
from raykd.student.checkpoint import CheckpointMark, aside, latest, publish
from raykd.student.engine import ZeroStudent
from raykd.student.export import MEASURED, export
from raykd.student.protocol import Wish
from raykd.student.zero import learning_rate

pytestmark = pytest.mark.usefixtures("group_of_one")

MakeJob = Callable[..., Any]


@pytest.fixture
def batches(packed_rows: Callable[..., pa.Table]) -> list[Batch]:
    return make_batches(packed_rows)


def weights_of(student: ZeroStudent) -> dict[str, torch.Tensor]:
    model = student._engine.module.causal_lm
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def save_as_checkpoint(student: ZeroStudent, job: Any, root: Path, step: int) -> None:
    directory = aside(root, step)
    directory.mkdir(parents=True)
    student.save(directory)
    mark = CheckpointMark(step, step * job.train.global_batch, 1, job.student.zero_stage)
    publish(root, mark, keep=2)


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def plain(job: Any, source: Path, batches: list[Batch]) -> tuple[Any, list[dict[str, float]]]:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    lrs = [learning_rate(i, STEPS, job.train.optimizer) for i in range(STEPS)]
    return model, plain_training(model, batches, lrs, job)


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
def test_steps_are_those_of_a_plain_loop(
    micro_batch: int, make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    job = make_job({**CHANGES, "train.micro_batch": micro_batch})
    reference, told = plain(job, student_dir, batches)
    student = student_of(job, student_dir)
    for step, (rows, dense) in enumerate(batches):
        result = student.train_step(rows, step, 0.25, Wish.SAVE)
        assert result.tokens == len(dense)
        assert result.loss == pytest.approx(told[step]["loss"], rel=1e-5)
        assert result.grad_norm == pytest.approx(told[step]["norm"], rel=1e-4)
        assert result.lr == pytest.approx(OPTIMIZER["lr"] * (1 - step / STEPS))
        assert (result.wait_s, result.wish) == (0.25, Wish.SAVE)
    assert any(one["norm"] > 0.7 for one in told), "clipping took part"
    assert_close(weights_of(student), reference.state_dict())


def test_parts_of_the_loss_are_told(
    make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    rows, dense = batches[0]
    job = make_job(CHANGES)
    result = student_of(job, student_dir).train_step(rows, 0, 0.0, Wish.GO_ON)
    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    _, divergence, cross_entropy = dense_sums(
        model, rows, dense, divergence="forward_kl", temperature=2.0, alpha=0.3, top_k=TOP_K
    )
    assert result.divergence == pytest.approx(divergence.item() / len(dense), rel=1e-5)
    assert result.cross_entropy == pytest.approx(cross_entropy.item() / len(dense), rel=1e-5)
    # padding to the longest row of each micro-batch of two: 21 and 16
    assert result.tokens_seen == 2 * 21 + 2 * 16


def test_hard_labels_alone_need_no_targets(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], packed_rows: Any
) -> None:
    job = make_job({**CHANGES, "loss.alpha": 1.0, "loss.temperature": 1.0})
    reference, told = plain(job, student_dir, batches)
    student = student_of(job, student_dir)
    for step, documents in enumerate(DOCUMENTS):
        result = student.train_step(packed_rows(documents, seed=step), step, 0.0, Wish.GO_ON)
        assert result.divergence is None
        assert result.loss == pytest.approx(told[step]["loss"], rel=1e-5)
    assert_close(weights_of(student), reference.state_dict())


def test_a_last_step_filled_up_with_empty_rows(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], packed_rows: Any
) -> None:
    """Fillers are rows with nothing to learn; they leave the mean alone."""
    job = make_job(CHANGES)
    full, dense = batches[0]
    fillers, _ = make_scored(packed_rows([[8], [5]], learned=0.0), VOCAB, TOP_K, (1.0, 2.0), 9)
    part = pa.concat_tables([full.slice(0, 2), fillers])
    kept = len(make_scored(full.slice(0, 2), VOCAB, TOP_K, (1.0,), 0)[1])
    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    total, _, _ = dense_sums(
        model,
        full.slice(0, 2),
        dense[:kept],
        divergence="forward_kl",
        temperature=2.0,
        alpha=0.3,
        top_k=TOP_K,
    )
    result = student_of(job, student_dir).train_step(part, 0, 0.0, Wish.GO_ON)
    assert result.tokens == kept
    assert result.loss == pytest.approx(total.item() / kept, rel=1e-5)


def test_activation_checkpointing_changes_nothing(
    make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    job = make_job({**CHANGES, "student.activation_checkpointing": True})
    reference, _ = plain(job, student_dir, batches)
    student = student_of(job, student_dir)
    for step, (rows, _) in enumerate(batches):
        student.train_step(rows, step, 0.0, Wish.GO_ON)
    assert_close(weights_of(student), reference.state_dict())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_every_stage_trains_and_exports_the_same_model(
    stage: int,
    tied: bool,
    make_job: MakeJob,
    save_llama: Callable[..., Path],
    batches: list[Batch],
    tmp_path: Path,
) -> None:
    source = save_llama(tmp_path / "m", 2, tie_word_embeddings=tied)
    job = make_job({**CHANGES, "student.zero_stage": stage})
    reference, told = plain(job, source, batches)
    student = student_of(job, source)
    losses = [
        student.train_step(rows, step, 0.0, Wish.GO_ON) for step, (rows, _) in enumerate(batches)
    ]
    assert [r.loss for r in losses] == pytest.approx([one["loss"] for one in told], rel=1e-4)
    assert [r.grad_norm for r in losses] == pytest.approx([t["norm"] for t in told], rel=1e-3)
    save_as_checkpoint(student, job, tmp_path / "checkpoints", STEPS)
    del student
    gc.collect()  # ZeRO 3 loading ends with the student
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    export(job, ModelSource(str(source)), ModelSource(str(source)), found, tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert exported.config.use_cache
    assert exported.config.tie_word_embeddings is tied
    assert_close(exported.state_dict(), reference.state_dict())


def test_nothing_is_compiled(make_job: MakeJob, student_dir: Path) -> None:
    # A build that was killed leaves a lock for which every later run would wait.
    from deepspeed.comm import comm

    student_of(make_job(CHANGES), student_dir)
    assert comm.cdb.shm_comm_op is None


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("stage", [0, 1])
def test_the_first_step_is_the_first(
    stage: int, dtype: str, make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    job = make_job({**CHANGES, "student.dtype": dtype, "student.zero_stage": stage})
    student = student_of(job, student_dir)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    wrapped = student._engine.optimizer
    adam = getattr(wrapped, "optimizer", wrapped)
    assert {float(state["step"]) for state in adam.state.values()} == {1.0}


@pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (3, "all")])
def test_offload_changes_nothing(
    stage: int, offload: str, make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    job = make_job({**CHANGES, "student.zero_stage": stage, "student.offload": offload})
    _, told = plain(job, student_dir, batches)
    student = student_of(job, student_dir)
    results = [
        student.train_step(rows, step, 0.0, Wish.GO_ON) for step, (rows, _) in enumerate(batches)
    ]
    assert [r.loss for r in results] == pytest.approx([one["loss"] for one in told], rel=1e-4)
    assert [r.grad_norm for r in results] == pytest.approx([t["norm"] for t in told], rel=1e-3)
    del student
    gc.collect()


def test_the_strongest_wish_of_all_ranks_wins(
    make_job: MakeJob, student_dir: Path, batches: list[Batch]
) -> None:
    student = student_of(make_job(CHANGES), student_dir)
    for wish in Wish:
        assert student.train_step(batches[0][0], 0, 0.5, wish).wish is wish


def test_adapters_are_merged_in_the_export(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], tmp_path: Path
) -> None:
    lora = {"r": 4, "alpha": 16.0}
    job = make_job({**CHANGES, "student.lora": lora, "student.zero_stage": 2})
    student = student_of(job, student_dir)
    model = student._engine.module.causal_lm
    frozen = model.model.embed_tokens.weight.clone()
    for step, (rows, _) in enumerate(batches):
        student.train_step(rows, step, 0.0, Wish.GO_ON)
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        expected = model.eval()(ids).logits
    assert torch.equal(model.model.embed_tokens.weight, frozen)
    save_as_checkpoint(student, job, tmp_path / "checkpoints", STEPS)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    source = ModelSource(str(student_dir))
    export(job, source, source, found, tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    first = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32).eval()
    assert exported.state_dict().keys() == first.state_dict().keys()
    assert not any("adapter" in path.name for path in (tmp_path / "out").iterdir())
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert (first(ids).logits - expected).abs().max() > 1e-2


def test_an_export_is_a_whole_directory(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], tmp_path: Path
) -> None:
    job = make_job({**CHANGES, "student.dtype": "bf16"})
    student = student_of(job, student_dir)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    save_as_checkpoint(student, job, tmp_path / "checkpoints", 1)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    source = ModelSource(str(student_dir))
    export(job, source, source, found, out)
    assert not (out / "old").exists()
    assert not (tmp_path / "out.aside").exists()
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tokenizer = AutoTokenizer.from_pretrained(out)
    prompt = tokenizer("The river", return_tensors="pt").input_ids
    written = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False
    )
    assert written.shape[1] > prompt.shape[1]
    card = (out / "README.md").read_text()
    assert MEASURED in card
    assert "# tiny" in card
    assert "4 rows in 1 steps of 4" in card
    assert "forward_kl at temperature 2.0 over the teacher's 8 likeliest tokens" in card
    assert str(job.storage_path) in card


def test_a_checkpoint_of_another_student_is_not_exported(
    make_job: MakeJob,
    student_dir: Path,
    teacher_dir: Path,
    batches: list[Batch],
    tmp_path: Path,
) -> None:
    job = make_job(CHANGES)
    student = student_of(job, student_dir)
    student.train_step(batches[0][0], 0, 0.0, Wish.GO_ON)
    save_as_checkpoint(student, job, tmp_path / "checkpoints", 1)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    other = ModelSource(str(teacher_dir))
    with pytest.raises(StorageError, match="does not fit the job's student"):
        export(job, other, other, found, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops_before_the_step(
    make_job: MakeJob, student_dir: Path, batches: list[Batch], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(student_dir, broken)
    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    rows = batches[0][0]
    with torch.no_grad():
        model.model.embed_tokens.weight[rows.column("input_ids")[2][0].as_py()] = float("nan")
    model.save_pretrained(broken)
    student = student_of(make_job(CHANGES), broken)
    before = weights_of(student)
    with pytest.raises(DivergenceError, match=r"^loss is nan at step 6$"):
        student.train_step(rows, 5, 0.0, Wish.GO_ON)
    after = weights_of(student)
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)


def test_held_out_rows_are_measured(make_job: MakeJob, student_dir: Path, packed_rows: Any) -> None:
    rows, dense = make_scored(
        packed_rows([[9], [4, 6], [3], [12], [5]], seed=8), VOCAB, TOP_K, (1.0,), seed=8
    )
    model = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    with torch.no_grad():
        _, divergence, cross_entropy = dense_sums(
            model, rows, dense, divergence="forward_kl", temperature=1.0, alpha=0.0, top_k=TOP_K
        )
        from dense_reference import own_logits

        agreed = (own_logits(model, rows)[0].argmax(1) == dense.argmax(1)).sum().item()
    sums = student_of(make_job({"train.micro_batch": 2}), student_dir).heldout(rows)
    assert sums.tokens == len(dense)
    assert sums.agreed == agreed
    assert sums.kl == pytest.approx(divergence.item(), rel=1e-5)
    assert sums.cross_entropy == pytest.approx(cross_entropy.item(), rel=1e-5)
