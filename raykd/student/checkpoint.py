"""Checkpoints: written aside, published by one rename, verified, the newest good one found."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from raykd.errors import StorageError
from raykd.student import integrity
from raykd.student.integrity import Damaged, FileSum

MANIFEST = "raykd.json"
ASIDE = ".aside"
BAD = ".bad"
CONVERTED = "universal-"
_REPLACED = ".replaced"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class CheckpointMark:
    """How far a checkpoint got."""

    step: int
    """Steps done; the next one has this index."""
    row: int
    """Rows learned from; the next one has this place."""
    num_ranks: int
    zero_stage: int


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    directory: Path
    mark: CheckpointMark
    files: dict[str, FileSum] = field(default_factory=dict)
    """Every file but the manifest; empty where an earlier version wrote it."""


def name_of(step: int) -> str:
    """Directory name after `step` steps; names sort by step."""
    return f"step-{step:08d}"


def aside(checkpoints: Path, step: int) -> Path:
    """Where the ranks write before the checkpoint is whole."""
    return checkpoints / (name_of(step) + ASIDE)


def converted(checkpoint: Path) -> Path:
    """Where a checkpoint lies once it was brought to a form for any number of ranks."""
    return checkpoint.with_name(CONVERTED + checkpoint.name)


def publish(checkpoints: Path, mark: CheckpointMark, keep: int) -> Path:
    """Make the checkpoint that lies aside whole, and remove the oldest beyond `keep`.

    One rank calls this after every rank has written. All is on the disk before the rename, and the
    rename before anything is removed.
    """
    written = aside(checkpoints, mark.step)
    files = integrity.collect(written)
    integrity.write_synced(written / MANIFEST, _manifest(mark, files))
    integrity.sync_directories(written)
    whole = checkpoints / name_of(mark.step)
    if whole.exists():
        replaced = whole.with_name(f".{whole.name}{_REPLACED}")
        shutil.rmtree(replaced, ignore_errors=True)
        whole.rename(replaced)
    written.rename(whole)
    integrity.sync_directory(checkpoints)
    _remove_old(checkpoints, keep)
    return whole


def latest(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint that looks whole by its manifest and the sizes of its files, or None.

    Raises:
        StorageError: There are checkpoints, and every one of them is damaged.
    """
    damaged: dict[str, str] = {}
    for directory in _newest_first(checkpoints):
        try:
            return read(directory)
        except Damaged as reason:
            damaged[directory.name] = str(reason)
    _require_none_damaged(checkpoints, damaged)
    return None


def newest_good(checkpoints: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of which every byte is as it was written, or None.

    A damaged one is named in a note and renamed to `*.bad`, so that `latest` is the same one for
    every process afterwards.

    Raises:
        StorageError: There are checkpoints, and every one of them is damaged.
    """
    damaged: dict[str, str] = {}
    for directory in _newest_first(checkpoints):
        try:
            found = read(directory)
            integrity.check_content(directory, found.files)
            return found
        except Damaged as reason:
            moved = _move_aside(directory)
            damaged[directory.name] = str(reason)
            note(
                f"checkpoint {directory.name} is damaged: {reason}; it is kept as {moved.name} and "
                "the one before is taken"
            )
    _require_none_damaged(checkpoints, damaged)
    return None


def at(checkpoints: Path, step: int) -> Checkpoint:
    """The checkpoint after `step` steps.

    Raises:
        StorageError: It is not seen from here, or not as a whole.
    """
    directory = checkpoints / name_of(step)
    try:
        return read(directory)
    except Damaged as reason:
        raise StorageError(
            f"{directory}: {reason}, while the first rank sees it whole; storage_path must be the "
            "same directory on every node"
        ) from None


def read(directory: Path) -> Checkpoint:
    """What a checkpoint says of itself.

    Raises:
        Damaged: The manifest is no manifest, or a file is missing or has another size.
    """
    mark, files = _read_manifest(directory / MANIFEST)
    if name_of(mark.step) != directory.name:
        raise Damaged(f"{MANIFEST} is of step {mark.step}")
    integrity.check_sizes(directory, files)
    return Checkpoint(directory, mark, files)


def _manifest(mark: CheckpointMark, files: dict[str, FileSum]) -> str:
    tree = {**asdict(mark), "files": {name: asdict(one) for name, one in files.items()}}
    return json.dumps({**tree, "crc32": _sum_of(tree)}, indent=1) + "\n"


def _read_manifest(file: Path) -> tuple[CheckpointMark, dict[str, FileSum]]:
    with integrity.reading(file):
        content = file.read_bytes()
    try:
        tree = json.loads(content)
        files = _checked_files(tree)
        return _mark(tree), files
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{MANIFEST} is not a checkpoint's manifest ({error})") from None


def _mark(tree: dict[str, Any]) -> CheckpointMark:
    if not all(isinstance(value, int) for value in tree.values()):
        raise ValueError("a count is an integer")
    return CheckpointMark(**tree)


def _checked_files(tree: dict[str, Any]) -> dict[str, FileSum]:
    """Take what is not the mark out of a manifest."""
    if tree.keys() == {one.name for one in fields(CheckpointMark)}:
        return {}  # an earlier version's
    if tree.pop("crc32") != _sum_of(tree):
        raise ValueError("its own checksum differs")
    return {name: FileSum(**one) for name, one in tree.pop("files").items()}


def _sum_of(tree: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(tree, sort_keys=True).encode()):08x}"


def _newest_first(checkpoints: Path) -> list[Path]:
    if not checkpoints.is_dir():
        return []
    named = [path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(named, reverse=True)


def _looks_whole(directory: Path) -> bool:
    try:
        read(directory)
    except Damaged:
        return False
    return True


def _move_aside(directory: Path) -> Path:
    moved = directory.with_name(directory.name + BAD)
    shutil.rmtree(moved, ignore_errors=True)
    directory.rename(moved)
    integrity.sync_directory(directory.parent)
    return moved


def _require_none_damaged(checkpoints: Path, damaged: dict[str, str]) -> None:
    """Beginning anew would learn everything twice: that is for a person to decide."""
    known = checkpoints.glob(f"step-*{BAD}") if checkpoints.is_dir() else ()
    said = {path.name.removesuffix(BAD): "found damaged, see logs/notes.txt" for path in known}
    said |= damaged
    if said:
        listed = "; ".join(f"{name}: {reason}" for name, reason in sorted(said.items()))
        raise StorageError(
            f"{checkpoints}: no good checkpoint is left ({listed}). Bring one back from a copy, or "
            "remove this directory to learn from the first row again"
        )


def _remove_old(checkpoints: Path, keep: int) -> None:
    """All that is older than the kept ones, and what was left over on the way."""
    kept = [path for path in _newest_first(checkpoints) if _looks_whole(path)][:keep]
    oldest = min(path.name for path in kept)
    for path in checkpoints.iterdir():
        is_old = path.name.startswith("step-") and path.name < oldest
        is_left_over = path.suffix in (ASIDE, _REPLACED) or path.name.startswith(CONVERTED)
        if is_old or is_left_over:
            shutil.rmtree(path, ignore_errors=True)
