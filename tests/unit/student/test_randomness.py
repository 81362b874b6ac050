"""Random states: what is drawn after a resume is what would have been drawn."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd.student import randomness


@pytest.fixture(autouse=True)
def _states_of_the_others() -> Iterator[None]:
    """The states belong to the whole process."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


def draw() -> list[Any]:
    return [
        torch.rand(3).tolist(),
        torch.nn.functional.dropout(torch.ones(20), 0.5).tolist(),
        np.random.normal(size=3).tolist(),
        [random.random(), random.gauss(0, 1)],
    ]


def test_what_is_drawn_goes_on(tmp_path: Path) -> None:
    randomness.seed_rank(3, 0, 0)
    draw()  # an odd number of normals: numpy and Python keep the other of the pair
    randomness.save(tmp_path, 1)
    expected = [draw() for _ in range(3)]
    randomness.seed_rank(9, 9, 9)
    assert draw() != expected[0]
    assert randomness.restore(tmp_path, 1)
    assert [draw() for _ in range(3)] == expected


def test_states_of_another_rank_are_not_taken(tmp_path: Path) -> None:
    randomness.save(tmp_path, 1)
    before = torch.get_rng_state()
    assert not randomness.restore(tmp_path, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_states_are_plain_json(tmp_path: Path) -> None:
    randomness.save(tmp_path, 0)
    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text()).keys() == {"torch", "cuda", "numpy", "python"}


def test_seeds_depend_on_seed_step_and_rank_alone() -> None:
    drawn = []
    for place in ((3, 5, 0), (3, 5, 0), (3, 5, 1), (3, 6, 0), (4, 5, 0), (35, 0, 0)):
        randomness.seed_rank(*place)
        drawn.append(str(draw()))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 5
