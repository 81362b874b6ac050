from __future__ import annotations

import json
from pathlib import Path

import pytest

from raykd.errors import StorageError
from raykd.student.checkpoint import (
    MANIFEST,
    CheckpointMark,
    aside,
    latest,
    name_of,
    publish,
)


def mark(step: int) -> CheckpointMark:
    return CheckpointMark(step=step, row=4 * step, num_ranks=2, zero_stage=3)


def write(checkpoints: Path, step: int, keep: int = 10, text: str = "weights") -> Path:
    directory = aside(checkpoints, step)
    directory.mkdir(parents=True)
    (directory / "w").write_text(text)
    return publish(checkpoints, mark(step), keep)


def names(checkpoints: Path) -> list[str]:
    return sorted(path.name for path in checkpoints.iterdir())


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "not made yet") is None


def test_the_newest_is_found_with_its_mark(tmp_path: Path) -> None:
    for step in (90, 100, 9):
        write(tmp_path, step)
    found = latest(tmp_path)
    assert found is not None
    assert found.mark == mark(100)
    assert found.directory == tmp_path / "step-00000100"
    assert (found.directory / "w").read_text() == "weights"


def test_names_sort_by_step() -> None:
    steps = [1, 9, 10, 99, 100, 12345, 99999999]
    assert sorted(map(name_of, steps)) == [name_of(step) for step in steps]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_oldest_beyond_keep_are_removed(keep: int, tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step, keep)
    assert names(tmp_path) == [name_of(step) for step in (2, 4, 6, 8)[-keep:]]


def test_one_that_was_never_published_is_not_seen(tmp_path: Path) -> None:
    write(tmp_path, 2)
    aside(tmp_path, 4).mkdir()
    (aside(tmp_path, 4) / MANIFEST).write_text(json.dumps(vars(mark(4))))
    found = latest(tmp_path)
    assert found is not None
    assert found.mark.step == 2


def test_a_directory_without_a_manifest_is_not_seen(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / name_of(4)).mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / MANIFEST).touch()
    found = latest(tmp_path)
    assert found is not None
    assert found.mark.step == 2


def test_torn_ones_do_not_count_among_the_kept(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / name_of(3)).mkdir()
    write(tmp_path, 4, keep=2)
    assert {name_of(2), name_of(4)} <= set(names(tmp_path))


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    write(tmp_path, 2, text="old")
    write(tmp_path, 2, text="new")
    assert names(tmp_path) == [name_of(2)]
    assert (tmp_path / name_of(2) / "w").read_text() == "new"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 2}', '{"step": 1, "other": 2}'])
def test_a_manifest_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    write(tmp_path, 2)
    manifest = write(tmp_path, 4) / MANIFEST
    manifest.write_text(text)
    with pytest.raises(StorageError) as caught:
        latest(tmp_path)
    assert str(manifest) in str(caught.value)
    assert f"remove {manifest.parent} to go on from the one before" in str(caught.value)
