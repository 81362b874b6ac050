"""A run whose newest checkpoint is damaged goes on from the one before, on fewer ranks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from .runs import RAY_WARNINGS, Distil, assert_each_step_once, checkpoint_steps

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, *RAY_WARNINGS]

CHANGES = {
    "train.max_steps": 7,
    "train.micro_batch": 2,
    "student.zero_stage": 2,
    "checkpoint": {"every_steps": 2, "keep": 9},
}


def test_the_one_before_is_taken_and_brought_to_one_rank(
    one_teacher: None,
    make_job: Callable[..., Any],
    distil: Distil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from raykd.pipeline import run_dir

    if "student.num_workers" not in run_dir.MAY_CHANGE:
        may = (*run_dir.MAY_CHANGE, "student.num_workers")
        monkeypatch.setattr(run_dir, "MAY_CHANGE", may)
    whole = distil(make_job({**CHANGES, "student.num_workers": 2}))
    assert checkpoint_steps(whole.root) == [2, 4, 6, 7]
    expected = whole.losses
    # As if it had been killed after step 6, while its last line was being written.
    shutil.rmtree(whole.root / "checkpoints" / "step-00000007")
    shutil.rmtree(whole.root / "student")
    metrics = whole.root / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-40])
    shard = next((whole.root / "checkpoints" / "step-00000006").rglob("*pp_rank_1*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 16
    shard.write_bytes(content)

    resumed = distil(make_job({**CHANGES, "student.num_workers": 1}), resume=True)
    assert "going on after step 4, row 16" in resumed.printed
    assert_each_step_once(resumed.root, 7, global_batch=4)
    assert resumed.losses == pytest.approx(expected, abs=1e-5)
    assert checkpoint_steps(resumed.root)[-1] == 7
    notes = (resumed.root / "logs" / "notes.txt").read_text().splitlines()
    assert notes[0].startswith("checkpoint step-00000006 is damaged: ")
    assert shard.name in notes[0]
    assert notes[1].startswith("checkpoint step-00000004 of 2 ranks goes on with 1")
    assert not list((resumed.root / "checkpoints").glob("universal-*"))
