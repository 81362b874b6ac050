"""A run that was stopped on some ranks goes on with another number of them, as if never stopped.

Two processes are a group of two all the while; this process is a group of one beside them.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd.errors import StorageError
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.student import loop, other_ranks
from raykd.student.checkpoint import converted, latest, newest_good
from raykd.student.engine import ZeroStudent
from raykd.student.protocol import StudentSpec, Wish

pytestmark = pytest.mark.slow
CHAOS, SOAK = pytest.mark.chaos, pytest.mark.soak

SAVED_AFTER, STEPS = 2, 5
LIMIT_S = 300
# Many a parameter has an odd size, so that ranks have unequal shares.
MODEL = {
    "hidden_size": 27,
    "intermediate_size": 61,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 10,
}
# An epsilon this large makes AdamW's first steps follow the gradient and not just its sign.
OPTIMIZER = {"lr": 0.05, "warmup_steps": 0, "eps": 0.01, "weight_decay": 0.3, "schedule": "linear"}
CHANGES = {
    "train.optimizer": OPTIMIZER,
    "train.gradient_clipping": 0.7,
    "train.micro_batch": 1,
    "loss.alpha": 1.0,
    "loss.temperature": 1.0,
}
CASES: dict[str, dict[str, Any]] = {
    "zero0": {"student.zero_stage": 0},
    "zero1": {"student.zero_stage": 1},
    "zero2": {"student.zero_stage": 2},
    "zero3": {"student.zero_stage": 3},
    "zero2_offloaded": {"student.zero_stage": 2, "student.offload": "optimizer"},
    "zero3_offloaded": {"student.zero_stage": 3, "student.offload": "all"},
    "zero2_lora": {"student.zero_stage": 2, "student.lora": {"r": 4}},
    "zero3_lora": {"student.zero_stage": 3, "student.lora": {"r": 4}},
    "zero0_bf16": {"student.zero_stage": 0, "student.dtype": "bf16"},
    "zero1_bf16": {"student.zero_stage": 1, "student.dtype": "bf16"},
    "zero3_bf16": {"student.zero_stage": 3, "student.dtype": "bf16"},
}
WITH_DROPOUT: dict[str, dict[str, Any]] = {
    f"zero{stage}_dropout": {"student.zero_stage": stage, "student.lora": {"r": 4, "dropout": 0.3}}
    for stage in (2, 3)
}
IN_SOAK = {"zero0", "zero0_bf16", "zero1_bf16", "zero2_offloaded", "zero2_lora"}
"""Cases that are like another one in what is saved and converted."""
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


@dataclass(frozen=True)
class Task:
    """What a group does with one case."""

    spec: StudentSpec
    batches: list[pa.Table]
    checkpoints: Path
    resumes: bool

    def run(self, rank: int, num_ranks: int) -> list[float]:
        """The loss of each step; from the checkpoint on, or all of them with one saved between."""
        student = ZeroStudent(self.spec)
        first = 0
        if self.resumes:
            found = latest(self.checkpoints)
            assert found is not None
            student.load(found.directory)
            first = found.mark.step
        losses = []
        for step in range(first, STEPS):
            share = self.batches[step].num_rows // num_ranks
            rows = self.batches[step].slice(rank * share, share)
            losses.append(student.train_step(rows, step, 0.0, Wish.GO_ON).loss)
            if step + 1 == SAVED_AFTER:
                self._save(student, rank, num_ranks)
        del student
        gc.collect()  # ZeRO 3 loading ends with the student
        return losses

    def _save(self, student: ZeroStudent, rank: int, num_ranks: int) -> None:
        place = loop.Rank(rank, num_ranks, torch.distributed.barrier)
        loop._save(self.spec.job, place, student, self.checkpoints, SAVED_AFTER, None)


def _begin_group(store: Path, rank: int, num_ranks: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # DeepSpeed wants it from a launcher
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks
    )


def _be_a_rank(rank: int, store: Path, tasks: Any, answers: Any) -> None:
    """One process of the group of two: tasks come and losses go until None comes."""
    torch.set_num_threads(1)
    _begin_group(store, rank, 2)
    while (task := tasks.get()) is not None:
        try:
            losses = task.run(rank, 2)
        except Exception as error:
            answers.put(f"rank {rank}: {type(error).__name__}: {error}")
            raise
        if rank == 0:
            answers.put(losses)
    torch.distributed.destroy_process_group()


class Pair:
    """The group of two."""

    def __init__(self, store: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._answers: Any = context.Queue()
        self._tasks: list[Any] = [context.Queue() for _ in range(2)]
        self._processes = [
            context.Process(
                target=_be_a_rank, args=(rank, store, self._tasks[rank], self._answers), daemon=True
            )
            for rank in range(2)
        ]
        for process in self._processes:
            process.start()

    def run(self, task: Task) -> list[float]:
        """Have both work on a task."""
        for queue in self._tasks:
            queue.put(task)
        answer = self._answers.get(timeout=LIMIT_S)
        assert isinstance(answer, list), answer
        return answer

    def end(self) -> None:
        for queue in self._tasks:
            queue.put(None)
        for process in self._processes:
            process.join(timeout=20)
            process.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    group = Pair(tmp_path_factory.mktemp("pair") / "store")
    yield group
    group.end()


@pytest.fixture(scope="module", autouse=True)
def _group_of_one(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        _begin_group(tmp_path_factory.mktemp("one") / "store", 0, 1)
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    return save_llama(tmp_path_factory.mktemp("odd") / "student", 2, **MODEL)


@pytest.fixture
def batches(packed_rows: Callable[..., pa.Table]) -> list[pa.Table]:
    documents = [[12, 9], [3, 4], [2, 2], [16]]
    return [packed_rows(documents, seed=step) for step in range(STEPS)]


@pytest.fixture
def task_of(
    make_job: Callable[..., Any], source: Path, batches: list[pa.Table], tmp_path: Path
) -> Callable[..., Task]:
    def make(case: str, num_ranks: int, resumes: bool = False) -> Task:
        job = make_job(
            {**CHANGES, **(CASES | WITH_DROPOUT)[case], "student.num_workers": num_ranks}
        )
        targets = CodecSpec("top_k", 320, (1.0,), top_k=8, values="fp32")
        spec = StudentSpec(job, ModelSource(str(source)), STEPS, targets, targets)
        return Task(spec, batches, tmp_path / "checkpoints", resumes)

    return make


def tolerance(case: str) -> float:
    return TOLERANCE[CASES[case].get("student.dtype", "fp32")]


def cases(names: Iterable[str], in_soak: set[str]) -> list[Any]:
    """Every case; some of them only where there is time."""
    return [pytest.param(one, marks=SOAK if one in in_soak else CHAOS) for one in names]


@pytest.mark.parametrize("case", cases(CASES, IN_SOAK))
def test_two_ranks_then_one(case: str, task_of: Callable[..., Task], pair: Pair) -> None:
    whole = pair.run(task_of(case, 2))
    resumed = task_of(case, 1, resumes=True).run(0, 1)
    assert resumed == pytest.approx(whole[SAVED_AFTER:], abs=tolerance(case))


@pytest.mark.parametrize("case", cases(["zero1", "zero2", "zero3"], {"zero1", "zero2"}))
def test_one_rank_then_two(case: str, task_of: Callable[..., Task], pair: Pair) -> None:
    whole = task_of(case, 1).run(0, 1)
    resumed = pair.run(task_of(case, 2, resumes=True))
    assert resumed == pytest.approx(whole[SAVED_AFTER:], abs=tolerance(case))


@pytest.mark.parametrize("case", cases(["zero2_dropout", "zero3_dropout"], {"zero2_dropout"}))
def test_two_ranks_then_two_is_exact(case: str, task_of: Callable[..., Task], pair: Pair) -> None:
    whole = pair.run(task_of(case, 2))
    assert pair.run(task_of(case, 2, resumes=True)) == whole[SAVED_AFTER:]


@CHAOS
def test_a_parameter_that_is_not_what_was_saved_is_named(
    task_of: Callable[..., Task], pair: Pair
) -> None:
    task = task_of("zero2", 2)
    pair.run(task)
    found = newest_good(task.checkpoints, print)
    assert found is not None
    form = other_ranks.convert_once(found.directory, "zero", is_first=True)
    assert form == converted(found.directory)
    [file] = form.rglob("causal_lm.model.layers.1.mlp.up_proj.weight/exp_avg_sq.pt")
    tree = torch.load(file, weights_only=True)
    tree["param"][7, 5] *= 1 + 1e-6
    torch.save(tree, file)
    with pytest.raises(StorageError, match=r"layers\.1\.mlp\.up_proj\.weight \(exp_avg_sq\)"):
        task_of("zero2", 1, resumes=True).run(0, 1)
