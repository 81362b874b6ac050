"""Inner states travel beside soft targets, and are learned from again where they are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]

STEPS = 4


def test_with_logits_first_then_alone_from_what_was_kept(
    one_teacher: None,
    make_job: Callable[..., Any],
    distil: Distil,
    save_llama: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from safetensors import safe_open

    narrow = save_llama(tmp_path / "narrow", 5, hidden_size=24, head_dim=6)
    asked = {
        "layers": "even",
        "hidden": {"weight": 0.5, "loss": "mse"},
        "attention": {"relations": ["query", "value"]},
    }
    changes = {
        "train.max_steps": STEPS,
        "checkpoint": {"every_steps": None},
        "student.init": {"start": "pretrained", "model": str(narrow)},
        "representations": asked,
    }
    first = distil(make_job({**changes, "student.num_workers": 2, "student.zero_stage": 2}))
    assert_each_step_once(first.root, STEPS, global_batch=4)
    for step in first.steps:
        inner = step["inner"]
        total = step["divergence"] + 0.5 * inner["hidden"] + inner["attention"]
        assert step["loss"] == pytest.approx(total, rel=1e-4)
        assert all(math.isfinite(value) and value > 0 for value in inner.values())
    with safe_open(first.root / "student" / "model.safetensors", "pt") as opened:
        assert not [name for name in opened.keys() if "projection" in name]  # noqa: SIM118
    card = (first.root / "student" / "README.md").read_text()
    assert "0.5 mse of hidden states + 1 KL of attention relations (query, value)" in card

    alone = distil(
        make_job(
            {
                **changes,
                "name": "alone",
                "method": "representations",
                "soft_targets": {"store_mode": "only"},
                "student.zero_stage": 3,
            }
        )
    )
    assert "no teacher" in alone.printed
    assert_each_step_once(alone.root, STEPS, global_batch=4)
    for ours, theirs in zip(alone.steps, first.steps, strict=True):
        assert ours["divergence"] is None
        assert ours["teacher_s"] == 0
        inner = ours["inner"]
        assert ours["loss"] == pytest.approx(0.5 * inner["hidden"] + inner["attention"], rel=1e-4)
        # Nothing is learned in the first step: both begin at the same student and rows.
        if ours["step"] == 1:
            assert inner == pytest.approx(theirs["inner"], rel=1e-3)
