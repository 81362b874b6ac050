"""Each process and each node of a run dies once, two at a time; the losses stay the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import RAY_WARNINGS

from .fire import ALL_VICTIMS, STEPS_A_KILL, under_fire
from .harness import Kill
from .nodes import started

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.chaos,
    pytest.mark.long,
    *RAY_WARNINGS,
]

TOGETHER = [
    ("rank", "controller"),
    ("shard", "loader"),
    ("teacher node", "student node"),
    ("replica", "driver"),
]
"""Who dies in the same moment; one after another, at random moments, is `make soak`."""


def test_whatever_dies_nothing_is_lost(
    job_tree: dict[str, Any], write_job: Callable[..., Path], tmp_path: Path
) -> None:
    kills = [
        Kill(victim, after_step=2 + STEPS_A_KILL * moment)
        for moment, victims in enumerate(TOGETHER)
        for victim in victims
    ]
    assert sorted(kill.victim for kill in kills) == sorted(ALL_VICTIMS)
    with started() as nodes:
        outcome = under_fire(kills, job_tree, write_job, nodes, tmp_path / "log.txt", num_shards=1)
    print(outcome)
    assert list(outcome.kills) == kills
    assert outcome.driver_deaths == 1
    assert outcome.complaints == []
