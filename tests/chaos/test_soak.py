"""The same for longer: everything dies again and again, at random moments.

    RAYKD_SOAK_SEED=7 RAYKD_SOAK_KILLS=40 make soak

repeats a soak, or makes it longer. What it did is printed: `pytest -s`, or at a failure.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runs import RAY_WARNINGS

from .fire import kills_of, under_fire
from .nodes import started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, *RAY_WARNINGS]

SEED = int(os.environ.get("RAYKD_SOAK_SEED") or random.SystemRandom().randrange(10**6))
NUM_KILLS = int(os.environ.get("RAYKD_SOAK_KILLS") or 24)
LIMIT_S = 300 + 60 * NUM_KILLS


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    """In the place of the one that ends a test after ten minutes."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"the soak took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_long_run_under_fire(
    job_tree: dict[str, Any], write_job: Callable[..., Path], tmp_path: Path
) -> None:
    print(f"RAYKD_SOAK_SEED={SEED} RAYKD_SOAK_KILLS={NUM_KILLS}")
    kills = kills_of(SEED, NUM_KILLS)
    with started() as nodes:
        outcome = under_fire(kills, job_tree, write_job, nodes, tmp_path / "log.txt", num_shards=2)
    print(outcome)
    assert list(outcome.kills) == kills
    assert outcome.driver_deaths == sum(kill.victim == "driver" for kill in kills)
    assert outcome.made_again > 0 or NUM_KILLS < 16, "no kill met a step that was not saved"
    assert outcome.complaints == []
