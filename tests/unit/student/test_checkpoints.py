from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.errors import StorageError
from raykd.student import integrity
from raykd.student.checkpoint import (
    MANIFEST,
    CheckpointMark,
    aside,
    at,
    converted,
    latest,
    name_of,
    newest_good,
    publish,
)


def mark(step: int) -> CheckpointMark:
    return CheckpointMark(step=step, row=4 * step, num_ranks=2, zero_stage=3)


def write(checkpoints: Path, step: int, keep: int = 10, text: str = "weights") -> Path:
    directory = aside(checkpoints, step)
    (directory / "zero").mkdir(parents=True)
    (directory / "w").write_text(text)
    (directory / "zero" / "shard").write_text(f"of step {step}")
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


def as_written_before(checkpoints: Path, step: int) -> Path:
    """A checkpoint of an earlier version: its manifest is the mark alone."""
    directory = write(checkpoints, step)
    (directory / MANIFEST).write_text(json.dumps(vars(mark(step))) + "\n")
    return directory


def flip(file: Path, at: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def change_a_count(manifest: Path) -> None:
    """One bit of a digit: still JSON, still a manifest."""
    flip(manifest, manifest.read_bytes().index(b'"step": ') + len('"step": '))


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


LOOKS_BROKEN: dict[str, Callable[[Path], object]] = {
    "no_manifest": lambda directory: (directory / MANIFEST).unlink(),
    "empty_manifest": lambda directory: (directory / MANIFEST).write_text(""),
    "half_a_manifest": lambda directory: (directory / MANIFEST).write_text('{"step": 4,'),
    "another_object": lambda directory: (directory / MANIFEST).write_text("[]"),
    "half_a_mark": lambda directory: (directory / MANIFEST).write_text('{"step": 4}'),
    "an_unknown_key": lambda directory: (directory / MANIFEST).write_text('{"other": 2}'),
    "a_changed_count": lambda directory: change_a_count(directory / MANIFEST),
    "not_text": lambda directory: (directory / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "of_another_step": lambda directory: directory.rename(directory.with_name(name_of(6))),
    "file_missing": lambda directory: (directory / "w").unlink(),
    "file_truncated": lambda directory: shorten(directory / "w"),
    "file_grown": lambda directory: (directory / "w").write_text("weights and more"),
    "below_missing": lambda directory: shutil.rmtree(directory / "zero"),
}
LOOKS_WHOLE: dict[str, Callable[[Path], object]] = {
    "byte_flipped": lambda directory: flip(directory / "w", 3),
    "byte_flipped_below": lambda directory: flip(directory / "zero" / "shard", 0),
}


@pytest.mark.parametrize("how", LOOKS_BROKEN)
def test_what_looks_broken_is_passed_over(how: str, tmp_path: Path) -> None:
    write(tmp_path, 2)
    LOOKS_BROKEN[how](write(tmp_path, 4))
    found = latest(tmp_path)
    assert found is not None
    assert found.mark == mark(2)


@pytest.mark.parametrize("how", LOOKS_BROKEN | LOOKS_WHOLE)
def test_a_damaged_one_is_named_and_the_one_before_taken(how: str, tmp_path: Path) -> None:
    notes: list[str] = []
    for step in (2, 3):
        write(tmp_path, step)
    (LOOKS_BROKEN | LOOKS_WHOLE)[how](write(tmp_path, 4))
    damaged = name_of(6 if how == "of_another_step" else 4)
    found = newest_good(tmp_path, notes.append)
    assert found is not None
    assert found.mark == mark(3)
    assert len(notes) == 1
    assert notes[0].startswith(f"checkpoint {damaged} is damaged: ")
    assert f"kept as {damaged}.bad and the one before is taken" in notes[0]
    # Afterwards a quick look finds the same, in every process.
    assert latest(tmp_path) == found
    assert newest_good(tmp_path, notes.append) == found
    assert len(notes) == 1
    assert (tmp_path / f"{damaged}.bad").is_dir()


def test_the_reason_is_told(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for how, said in (
        ("file_missing", "w is missing"),
        ("file_truncated", "w has 6 bytes where 7 were written"),
        ("byte_flipped", "w has other content than was written (checksum)"),
        ("a_changed_count", "raykd.json is not a checkpoint's manifest (its own checksum differs)"),
        ("no_manifest", "raykd.json is missing"),
    ):
        notes: list[str] = []
        (LOOKS_BROKEN | LOOKS_WHOLE)[how](write(tmp_path, 4))
        newest_good(tmp_path, notes.append)
        assert said in notes[0]


def test_all_are_tried_from_the_newest_on(tmp_path: Path) -> None:
    notes: list[str] = []
    for step in (2, 4, 6, 8):
        write(tmp_path, step)
    for step in (4, 6, 8):
        flip(tmp_path / name_of(step) / "w")
    found = newest_good(tmp_path, notes.append)
    assert found is not None
    assert found.mark.step == 2
    assert [note.split()[1] for note in notes] == [name_of(step) for step in (8, 6, 4)]


def test_none_that_is_good_ends_the_run_and_does_not_begin_it_anew(tmp_path: Path) -> None:
    for step in (2, 4):
        flip(write(tmp_path, step) / "w")
    for _ in range(2):  # the second time they lie aside already
        with pytest.raises(StorageError, match="no good checkpoint is left") as caught:
            newest_good(tmp_path, lambda text: None)
        assert f"{name_of(2)}: " in str(caught.value)
        assert f"{name_of(4)}: " in str(caught.value)
        assert "remove this directory to learn from the first row again" in str(caught.value)
    with pytest.raises(StorageError, match="no good checkpoint is left"):
        latest(tmp_path)
    assert newest_good(tmp_path / "not made yet", print) is None


def test_an_earlier_version_s_is_accepted(tmp_path: Path) -> None:
    directory = as_written_before(tmp_path, 4)
    for found in (latest(tmp_path), newest_good(tmp_path, print)):
        assert found is not None
        assert (found.directory, found.mark, found.files) == (directory, mark(4), {})


def test_what_cannot_be_reached_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 2)
    refused = write(tmp_path, 4) / "w"
    plain = Path.open

    def fail(path: Path, *given: Any, **named: Any) -> Any:
        if path == refused:
            raise OSError(error_number, "it says no")
        return plain(path, *given, **named)

    monkeypatch.setattr(Path, "open", fail)
    error_number = errno.ESTALE
    with pytest.raises(StorageError, match=r"w: cannot be read \(it says no\)"):
        newest_good(tmp_path, print)
    assert names(tmp_path) == [name_of(2), name_of(4)]
    error_number = errno.EIO
    found = newest_good(tmp_path, print)
    assert found is not None
    assert found.mark.step == 2


def test_every_file_is_listed(tmp_path: Path) -> None:
    directory = write(tmp_path, 4)
    listed = json.loads((directory / MANIFEST).read_text())["files"]
    assert listed == {
        "w": {"bytes": 7, "crc32": f"{zlib.crc32(b'weights'):08x}"},
        "zero/shard": {"bytes": 9, "crc32": f"{zlib.crc32(b'of step 4'):08x}"},
    }


def test_each_rank_sums_up_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = aside(tmp_path, 2)
    (directory / "zero").mkdir(parents=True)
    own = {
        0: ["latest", "zero/mp_rank_00_model_states.pt", "rng-00000.json"],
        1: ["zero/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt", "rng-00001.json"],
        2: ["zero/zero_pp_rank_2_mp_rank_00_model_states.pt"],
    }
    for rank, files in own.items():
        for name in files:
            (directory / name).write_text(name)
        before = set(directory.iterdir())
        integrity.seal(directory, rank, 3)
        [sums] = set(directory.iterdir()) - before
        assert sorted(json.loads(sums.read_text())) == sorted(files)
    read: list[str] = []
    plain = integrity._sum
    monkeypatch.setattr(
        integrity, "_sum", lambda path, sync=False: read.append(path.name) or plain(path, sync)
    )
    found = latest(publish(tmp_path, mark(2), keep=1).parent)
    assert found is not None
    assert sorted(found.files) == sorted(name for files in own.values() for name in files)
    assert read == [], "the first rank reads nobody's files again"
    assert newest_good(tmp_path, print) == found


def test_all_is_on_the_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diary: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def sync(handle: int) -> None:
        diary.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def move(path: Path, target: Path) -> Path:
        diary.append(f"rename to {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", move)
    write(tmp_path, 2)
    renamed = diary.index(f"rename to {name_of(2)}")
    written = {"w", "shard", MANIFEST, "zero", f"{name_of(2)}.aside"}
    assert written <= set(diary[:renamed])
    assert diary[renamed + 1 :] == [tmp_path.name]


def test_damaged_ones_do_not_push_good_ones_out(tmp_path: Path) -> None:
    write(tmp_path, 2)
    for step in (3, 4):
        shorten(write(tmp_path, step) / "w")
    write(tmp_path, 5, keep=2)
    assert {name_of(2), name_of(5)} <= set(names(tmp_path))


def test_damaged_and_converted_ones_go_with_their_time(tmp_path: Path) -> None:
    write(tmp_path, 2)
    flip(write(tmp_path, 4) / "w")
    newest_good(tmp_path, lambda text: None)
    converted(tmp_path / name_of(2)).mkdir()
    write(tmp_path, 4, keep=2)
    assert names(tmp_path) == [name_of(2), name_of(4), f"{name_of(4)}.bad"]
    write(tmp_path, 6, keep=2)
    write(tmp_path, 8, keep=2)
    assert names(tmp_path) == [name_of(6), name_of(8)]


def test_a_checkpoint_that_another_node_does_not_see(tmp_path: Path) -> None:
    write(tmp_path, 2)
    assert at(tmp_path, 2).mark == mark(2)
    with pytest.raises(StorageError, match="must be the same directory on every node"):
        at(tmp_path, 4)
