"""Steps that learn from inner states, under DeepSpeed, against a plain PyTorch loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from dense_reference import dense_sums, make_scored, spec_of
from inner_reference import inner_losses
from transformers import AutoModelForCausalLM

from raykd.models.alignment import Alignment, InnerShape, align
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.student.checkpoint import CheckpointMark, aside, latest, publish
from raykd.student.engine import ZeroStudent
from raykd.student.export import export, loss_in_words
from raykd.student.protocol import StudentSpec, Wish
from raykd.student.zero import learning_rate
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

pytestmark = pytest.mark.usefixtures("group_of_one")

VOCAB, TOP_K, STEPS = 320, 8, 3
ROUNDING = 5e-4
"""Three steps move a weight by up to 0.15. States travel in bf16, and one that lies between two of
its numbers may go to either, as the teacher's rows were batched."""
DOCUMENTS = [[[12, 9], [3], [2, 2], [16]], [[5], [20], [4, 4, 4], [7]], [[6], [6], [9], [2, 11]]]
OPTIMIZER = {"lr": 0.05, "warmup_steps": 0, "eps": 0.01, "weight_decay": 0.1, "schedule": "linear"}
CHANGES: dict[str, Any] = {
    "train.optimizer": OPTIMIZER,
    "train.gradient_clipping": 0.7,
    "loss.alpha": 0.3,
    "representations": {
        "layers": {0: 1, 1: 3},
        "hidden": {"weight": 0.5, "loss": "mse"},
        "attention": {"weight": 2.0},
    },
}
SAME = {**CHANGES, "representations": {"layers": "even", "hidden": {}, "attention": {"heads": 4}}}
ALONE = {**SAME, "method": "representations", "soft_targets": {}, "loss.alpha": 0.0}

MakeJob = Callable[..., Any]


@pytest.fixture(scope="module")
def narrow_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """A student narrower than its teacher, with untied weights."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 12}
    return save_llama(tmp_path_factory.mktemp("narrow") / "m", 5, **sizes)


@pytest.fixture(scope="module")
def teacher(teacher_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(teacher_dir: Path) -> TransformersEngine:
    spec = EngineSpec(ModelSource(str(teacher_dir)), "fp32", False, 1, 24, 7)
    return TransformersEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


def alignment_of(job: Any, source: Path, teacher: Any) -> Alignment:
    config = AutoModelForCausalLM.from_pretrained(source).config
    assert job.representations is not None
    return align(job.representations, InnerShape.of(config), InnerShape.of(teacher.config))


def states_of(alignment: Alignment) -> CodecSpec:
    return CodecSpec(
        "states",
        VOCAB,
        hidden_size=32,
        state_layers=alignment.teacher_layers,
        attention_layer=alignment.last[1],
        attention_widths=tuple((n, alignment.teacher.width(n)) for n in alignment.relations),
    )


def student_of(job: Any, source: Path, alignment: Alignment) -> ZeroStudent:
    targets, heldout = spec_of(VOCAB, TOP_K, (1.0,)), spec_of(VOCAB, TOP_K, (1.0,))
    states = states_of(alignment)
    return ZeroStudent(
        StudentSpec(
            job,
            ModelSource(str(source)),
            STEPS,
            targets,
            heldout,
            states=states,
            alignment=alignment,
        )
    )


@pytest.fixture
def batches(packed_rows: Callable[..., pa.Table]) -> list[tuple[pa.Table, torch.Tensor]]:
    return [
        make_scored(packed_rows(documents, seed=i), VOCAB, TOP_K, (1.0,), seed=i)
        for i, documents in enumerate(DOCUMENTS)
    ]


def with_inner(rows: pa.Table, engine: TransformersEngine, states: CodecSpec) -> pa.Table:
    answer = engine.represent(rows, states, None)
    assert answer is not None
    columns = answer.drop_columns("teacher_s")
    names = [*rows.column_names, *columns.column_names]
    return pa.table([*rows.columns, *columns.columns], names=names)


def plain(
    job: Any,
    model: Any,
    teacher: Any,
    batches: list[tuple[pa.Table, torch.Tensor]],
    alignment: Alignment,
    projections: list[torch.Tensor] | None,
) -> list[dict[str, float]]:
    """Whole batches, one process; changes model and projections."""
    trained = [*model.parameters(), *(projections or [])]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ],
        eps=OPTIMIZER["eps"],
    )
    asked, alone, told = job.representations, job.method == "representations", []
    for step, (rows, dense) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, job.train.optimizer)
        alpha = job.loss.alpha
        total, _, cross_entropy = dense_sums(
            model, rows, dense, divergence="forward_kl", temperature=1.0, alpha=alpha, top_k=TOP_K
        )
        hidden, attention = inner_losses(
            model,
            teacher,
            rows,
            list(alignment.pairs),
            alignment.heads,
            asked.hidden.loss,
            projections,
        )
        inner = asked.hidden.weight * hidden + asked.attention.weight * attention
        loss = (alpha * cross_entropy if alone else total) / len(dense) + inner
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 0.7)
        optimizer.step()
        one = {"loss": loss, "norm": norm, "hidden": hidden, "attention": attention}
        told.append({name: value.item() for name, value in one.items()})
    return told


def projections_of(student: ZeroStudent) -> list[torch.Tensor]:
    """Copies, whole under ZeRO 3 too."""
    from deepspeed import zero

    found = []
    for module in student._engine.module.representations.projections:
        with zero.GatheredParameters([module.weight]):
            found.append(module.weight.detach().clone())
    return found


@pytest.mark.parametrize(
    ("stage", "micro_batch", "anew"),
    [(0, 4, False), (1, 2, False), (1, 2, True), (2, 1, False), (3, 2, False), (3, 1, True)],
)
def test_steps_are_those_of_a_plain_loop(
    stage: int,
    micro_batch: int,
    anew: bool,
    make_job: MakeJob,
    narrow_dir: Path,
    teacher: Any,
    engine: TransformersEngine,
    batches: list[tuple[pa.Table, torch.Tensor]],
    tmp_path: Path,
) -> None:
    """Projections, attention relations and logits together; and the export has none of it."""
    job = make_job(
        {
            **CHANGES,
            "train.micro_batch": micro_batch,
            "student.zero_stage": stage,
            "student.activation_checkpointing": anew,
        }
    )
    alignment = alignment_of(job, narrow_dir, teacher)
    reference = AutoModelForCausalLM.from_pretrained(narrow_dir, dtype=torch.float32)
    student = student_of(job, narrow_dir, alignment)
    projections = [weight.requires_grad_() for weight in projections_of(student)]
    assert [tuple(weight.shape) for weight in projections] == [(32, 24), (32, 24)]
    told = plain(job, reference, teacher, batches, alignment, projections)
    for step, (rows, dense) in enumerate(batches):
        arrived = with_inner(rows, engine, states_of(alignment))
        result = student.train_step(arrived, step, 0.0, Wish.GO_ON)
        assert result.tokens == len(dense)
        assert result.loss == pytest.approx(told[step]["loss"], rel=1e-4)
        assert result.grad_norm == pytest.approx(told[step]["norm"], rel=1e-3)
        assert result.inner is not None
        assert result.inner.hidden == pytest.approx(told[step]["hidden"], rel=1e-4)
        assert result.inner.attention == pytest.approx(told[step]["attention"], rel=1e-3)
    for ours, theirs in zip(projections_of(student), projections, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=ROUNDING, rtol=1e-3)
    directory = aside(tmp_path / "checkpoints", STEPS)
    directory.mkdir(parents=True)
    student.save(directory)
    publish(tmp_path / "checkpoints", CheckpointMark(STEPS, 4 * STEPS, 1, stage), keep=2)
    del student
    gc.collect()  # ZeRO 3 loading ends with the student
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    source = ModelSource(str(narrow_dir))
    export(job, source, source, found, tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(exported.state_dict()[name], weight, atol=ROUNDING, rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("stage", [1, 3])
def test_alone_there_is_no_divergence(
    alpha: float,
    stage: int,
    make_job: MakeJob,
    student_dir: Path,
    teacher: Any,
    engine: TransformersEngine,
    batches: list[tuple[pa.Table, torch.Tensor]],
) -> None:
    job = make_job({**ALONE, "loss.alpha": alpha, "student.zero_stage": stage})
    alignment = alignment_of(job, student_dir, teacher)
    assert alignment.pairs == ((0, 1), (1, 3))
    reference = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    told = plain(job, reference, teacher, batches, alignment, None)
    student = student_of(job, student_dir, alignment)
    for step, (rows, _) in enumerate(batches):
        arrived = with_inner(rows, engine, states_of(alignment))
        result = student.train_step(arrived, step, 0.0, Wish.GO_ON)
        assert result.divergence is None
        assert result.loss == pytest.approx(told[step]["loss"], rel=1e-4)
        assert result.grad_norm == pytest.approx(told[step]["norm"], rel=1e-3)


def test_a_checkpoint_goes_on_with_its_projections(
    make_job: MakeJob,
    narrow_dir: Path,
    teacher: Any,
    engine: TransformersEngine,
    batches: list[tuple[pa.Table, torch.Tensor]],
    tmp_path: Path,
) -> None:
    job = make_job(CHANGES)
    alignment = alignment_of(job, narrow_dir, teacher)
    rows = [with_inner(one, engine, states_of(alignment)) for one, _ in batches]
    student = student_of(job, narrow_dir, alignment)
    student.train_step(rows[0], 0, 0.0, Wish.GO_ON)
    student.save(tmp_path)
    uninterrupted = student.train_step(rows[1], 1, 0.0, Wish.GO_ON)
    other = student_of(job, narrow_dir, alignment)
    other.load(tmp_path)
    assert other.train_step(rows[1], 1, 0.0, Wish.GO_ON) == uninterrupted


def test_rows_with_nothing_to_learn_leave_the_means_alone(
    make_job: MakeJob,
    student_dir: Path,
    teacher: Any,
    engine: TransformersEngine,
    packed_rows: Callable[..., pa.Table],
    batches: list[tuple[pa.Table, torch.Tensor]],
) -> None:
    job = make_job(SAME)
    alignment = alignment_of(job, student_dir, teacher)
    states = states_of(alignment)
    fillers, _ = make_scored(packed_rows([[8], [5]], learned=0.0), VOCAB, TOP_K, (1.0,), 9)
    part = pa.concat_tables([batches[0][0].slice(0, 2), fillers])
    mixed = student_of(job, student_dir, alignment).train_step(
        with_inner(part, engine, states), 0, 0.0, Wish.GO_ON
    )
    reference = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)
    hidden, attention = inner_losses(
        reference, teacher, part, list(alignment.pairs), alignment.heads, "cosine", None
    )
    assert mixed.inner is not None
    assert mixed.inner.hidden == pytest.approx(hidden.item(), rel=1e-4)
    assert mixed.inner.attention == pytest.approx(attention.item(), rel=1e-3)
    nothing = pa.concat_tables([fillers, fillers])
    empty = student_of(job, student_dir, alignment).train_step(
        with_inner(nothing, engine, states), 0, 0.0, Wish.GO_ON
    )
    assert empty.loss == 0.0


def test_the_card_says_what_was_compared(make_job: MakeJob) -> None:
    assert loss_in_words(make_job(ALONE)) == (
        "1 cosine of hidden states + 1 KL of attention relations (query, key, value) (layers: even)"
    )
    assert loss_in_words(make_job(CHANGES)).endswith(
        "with cross-entropy at weight 0.3 + 0.5 mse of hidden states + 2 KL of attention relations "
        "(query, key, value) (layers: {0: 1, 1: 3})"
    )
