"""The alarm must ring: what a faulty run would leave is found."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from .fire import ALL_VICTIMS, STEPS_A_KILL, kills_of
from .harness import complaints

STEPS, BATCH = 3, 4


def write_run(root: Path) -> tuple[list[dict[str, object]], list[list[dict[str, object]]]]:
    """What a good run of two ranks leaves, as lines to be changed."""
    root.mkdir()
    steps: list[dict[str, object]] = [
        {"step": i + 1, "row_start": i * BATCH, "row_end": (i + 1) * BATCH, "loss": 1.0 / (i + 1)}
        for i in range(STEPS)
    ]
    ranks: list[list[dict[str, object]]] = [
        [{"step": i + 1, "rows": [i * BATCH + 2 * r, i * BATCH + 2 * r + 1]} for i in range(STEPS)]
        for r in range(2)
    ]
    return steps, ranks


def write_lines(
    root: Path, steps: list[dict[str, object]], ranks: list[list[dict[str, object]]]
) -> None:
    (root / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    for rank, lines in enumerate(ranks):
        file = root.parent / f"{root.name}.rows.{rank}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


LOSSES = [1.0, 0.5, 1.0 / 3.0]


def test_a_good_run_is_passed(tmp_path: Path) -> None:
    steps, ranks = write_run(tmp_path / "run")
    # A step that was made again after a restart, from the same rows.
    ranks[1].append(ranks[1][-1])
    write_lines(tmp_path / "run", steps, ranks)
    assert complaints(tmp_path / "run", STEPS, BATCH, LOSSES) == []


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("row dropped", "step 2: the ranks learned from rows [4, 5, 6]"),
        ("row repeated", "step 3: the ranks learned from rows [8, 8, 10, 11]"),
        ("ranks swapped in another life", "rank 0 learned from other rows in another life"),
        ("step twice", "metrics have the steps [1, 2, 2, 3]"),
        ("step lost", "metrics have the steps [1, 3]"),
        ("rows shifted", "step 1: metrics say rows 1 to 5"),
        ("another loss", "step 2: loss 0.5000000000000001, expected 0.5"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, fault: str, complaint: str) -> None:
    root = tmp_path / "run"
    steps, ranks = write_run(root)
    if fault == "row dropped":
        ranks[1][1]["rows"] = [6]
    elif fault == "row repeated":
        ranks[0][2]["rows"] = [8, 8]
    elif fault == "ranks swapped in another life":
        ranks[0].insert(0, {"step": 1, "rows": [2, 3]})
    elif fault == "step twice":
        steps.insert(1, steps[1])
    elif fault == "step lost":
        del steps[1]
    elif fault == "rows shifted":
        steps[0] |= {"row_start": 1, "row_end": 5}
    else:
        steps[1]["loss"] = 0.5000000000000001
    write_lines(root, steps, ranks)
    assert any(complaint in one for one in complaints(root, STEPS, BATCH, LOSSES))


@pytest.mark.parametrize("num_kills", [8, 20, 24])
def test_a_seed_says_who_dies_when(num_kills: int) -> None:
    kills = kills_of(7, num_kills)
    assert kills == kills_of(7, num_kills)
    assert kills != kills_of(8, num_kills)
    times = Counter(kill.victim for kill in kills)
    assert set(times) == set(ALL_VICTIMS)
    assert max(times.values()) - min(times.values()) <= 1
    for at, kill in enumerate(kills):
        assert 1 <= kill.after_step - STEPS_A_KILL * at <= STEPS_A_KILL
