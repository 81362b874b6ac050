"""Every byte that DeepSpeed holds of a student, against the plan's count: stage by stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zero_rank import SMALL, VOCAB, job_of

from raykd.planning.families import shape_of
from raykd.planning.lora import trained_and_frozen
from raykd.planning.zero_bytes import HeldByRank, held_by_rank

CASES: list[dict[str, Any]] = [
    *({"zero_stage": stage, "dtype": "bf16"} for stage in range(4)),
    *({"zero_stage": stage, "dtype": "fp32"} for stage in (0, 1, 3)),
    *({"zero_stage": stage, "offload": "optimizer"} for stage in (2, 3)),
    {"zero_stage": 2, "lora": {"r": 4}},
]
ALONE = [CASES[1], CASES[4], CASES[7], CASES[9]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """Sizes that no number of ranks divides, and parameters well above what a step needs."""
    fields = {"hidden_size": 60, "intermediate_size": 123, "num_hidden_layers": 3}
    return save_llama(tmp_path_factory.mktemp("models") / "odd", 3, vocab_size=VOCAB, **fields)


def reckoned(model: Path, case: dict[str, Any], ranks: int) -> HeldByRank:
    job = job_of(case, ranks)
    shape = shape_of(json.loads((model / "config.json").read_text()), "student")
    trained, frozen = trained_and_frozen(shape, job.student.lora)
    return held_by_rank(job, frozen, trained, rank=0)


def assert_held(found: dict[str, dict[str, int]], held: HeldByRank, case: dict[str, Any]) -> None:
    """What is there, dtype by dtype; a step's own small tensors come on top."""
    stage, narrow = case["zero_stage"], case.get("dtype", "bf16") == "bf16"
    own = held.weights + held.gathered + (held.bucket if stage == 3 else 0)
    # Stage 1 reduces only at the last micro-batch, and keeps its bucket until then.
    between = own + held.gradients + (held.bucket if stage == 1 else 0)
    keeps_gradients = stage == 3 or (stage == 2 and held.optimizer_on_host)
    after = own + (held.gradients if keeps_gradients else 0)
    optimizer = held.masters + held.moments
    if held.optimizer_on_host:
        # Gradients in float32, a copy of the weights on its way, and a parameter's worth each way.
        optimizer += held.step_gradients
        copies = 2 * held.staging + (0 if stage == 3 else held.step_gradients // 2)
        between, after = between + copies, after + copies
    if not narrow:
        between, after, optimizer = between + optimizer, after + optimizer, 0
    for moment, expected in (("between", between), ("after", after)):
        measured = found[moment]
        own_dtype = measured["bfloat16" if narrow else "float32"]
        assert 0 <= own_dtype - expected <= SMALL, (moment, own_dtype, expected)
        if narrow:
            assert 0 <= measured["float32"] - optimizer <= SMALL, moment


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "cases"), [(1, ALONE), (2, CASES)], ids=["one", "two"])
def test_ranks(
    num_ranks: int, cases: list[dict[str, Any]], model_dir: Path, tmp_path: Path
) -> None:
    # Processes of their own: DeepSpeed remembers the first process group that it met.
    script = Path(__file__).with_name("zero_rank.py")
    out = tmp_path / "held.json"
    arguments = [str(tmp_path / "store"), json.dumps(cases), str(out)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(model_dir), str(rank), str(num_ranks), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for rank in range(num_ranks)
    ]
    try:
        said = [rank.communicate(timeout=240)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * num_ranks, said
    for case, found in zip(cases, json.loads(out.read_text()), strict=True):
        assert_held(found, reckoned(model_dir, case, num_ranks), case)
