"""Checkpoints: written aside, published by one rename, the newest whole one found again."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from raykd.errors import StorageError

MANIFEST = "raykd.json"
ASIDE = ".aside"


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


def name_of(step: int) -> str:
    """Directory name after `step` steps; names sort by step."""
    return f"step-{step:08d}"


def aside(checkpoints: Path, step: int) -> Path:
    """Where the ranks write before the checkpoint is whole."""
    return checkpoints / (name_of(step) + ASIDE)


def publish(checkpoints: Path, mark: CheckpointMark, keep: int) -> Path:
    """Make the checkpoint that lies aside whole, and remove the oldest beyond `keep`.

    One rank calls this after every rank has written.
    """
    written = aside(checkpoints, mark.step)
    (written / MANIFEST).write_text(json.dumps(asdict(mark)) + "\n")
    whole = checkpoints / name_of(mark.step)
    if whole.exists():
        whole.rename(whole.with_name(f".{whole.name}.replaced"))
    written.rename(whole)
    left_over = [p for p in checkpoints.iterdir() if p.suffix in (ASIDE, ".replaced")]
    for old in [*_whole(checkpoints)[:-keep], *left_over]:
        shutil.rmtree(old, ignore_errors=True)
    return whole


def latest(checkpoints: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None.

    Raises:
        StorageError: Its manifest cannot be read.
    """
    whole = _whole(checkpoints)
    if not whole:
        return None
    manifest = whole[-1] / MANIFEST
    try:
        mark = CheckpointMark(**json.loads(manifest.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise StorageError(
            f"{manifest}: not a checkpoint's manifest ({error}); remove {whole[-1]} to go on from "
            "the one before"
        ) from None
    return Checkpoint(whole[-1], mark)


def _whole(checkpoints: Path) -> list[Path]:
    if not checkpoints.is_dir():
        return []
    return sorted(
        path
        for path in checkpoints.iterdir()
        if path.name.startswith("step-") and path.suffix != ASIDE and (path / MANIFEST).is_file()
    )
