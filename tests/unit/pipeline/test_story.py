"""Where a run goes on, as the chapters see it; no Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.data.order import RowOrder
from raykd.pipeline import kept
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.story import Story
from raykd.pipeline.teacher import Parts
from raykd.student.checkpoint import CheckpointMark, aside, publish

BATCH, STEPS = 4, 7


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def story(make_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, notes: list[str]) -> Story:
    """Of a run of seven steps, whose blocks hold two."""
    job = make_job({"stream.steps_per_block": 2, "train.global_batch": BATCH})
    run = RunDirectory.of(job)
    run.logs.mkdir(parents=True)
    models: Any = SimpleNamespace(teacher_identity="t", tokenizer_identity="v")
    progress: Any = SimpleNamespace(note=notes.append)
    made = Story(job, run, models, Any, progress, Parts(), [])
    order = RowOrder(num_rows=BATCH * STEPS, epochs=1, seed=1, global_batch=BATCH)
    monkeypatch.setattr(made, "_order", lambda: (order, STEPS))
    return made


def save(story: Story, step: int) -> Path:
    checkpoints = story._run.checkpoints
    directory = aside(checkpoints, step)
    directory.mkdir(parents=True)
    (directory / "weights").write_text(f"of step {step}")
    mark = CheckpointMark(step=step, row=step * BATCH, num_ranks=1, zero_stage=1)
    return publish(checkpoints, mark, keep=9)


def counted_places(story: Story, monkeypatch: pytest.MonkeyPatch) -> range:
    """The places of the run that are looked up in the store."""
    asked: list[range] = []

    def look(*arguments: Any) -> dict[str, kept.Lacking]:
        asked.append(arguments[-1][1])
        return {}

    monkeypatch.setattr("raykd.pipeline.story.rows_lacking", look)
    monkeypatch.setattr(story, "_data", {"train": {}})
    story._lacking()
    return asked[0]


@pytest.mark.parametrize(("saved", "first_step"), [([], 0), ([2], 2), ([2, 5], 4), ([2, 4, 6], 6)])
def test_the_store_is_asked_for_what_is_left(
    saved: list[int], first_step: int, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in saved:
        save(story, step)
    assert counted_places(story, monkeypatch) == range(first_step * BATCH, STEPS * BATCH)


def test_what_a_damaged_checkpoint_learned_is_left(
    story: Story, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    save(story, 2)
    # Of the same size: only who reads every byte finds it.
    (save(story, 6) / "weights").write_text("0f step 6")
    assert counted_places(story, monkeypatch) == range(2 * BATCH, STEPS * BATCH)
    [note] = notes
    assert note.startswith("checkpoint step-00000006 is damaged: weights has other content")
    assert (story._run.logs / "notes.txt").read_text() == note + "\n"
