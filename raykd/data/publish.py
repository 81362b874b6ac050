"""A prepared directory appears whole or not at all, and is used again by an equal job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.data.pack import PackingStats
from raykd.errors import StorageError

_SUMMARY = "prepared.json"


@contextmanager
def published(directory: Path) -> Iterator[Path]:
    """Give a directory to write in; put it in place when all went well, else remove it.

    Raises:
        StorageError: The directory cannot be written, or holds something else.
    """
    aside = directory.with_name(f".{directory.name}.writing")
    _refuse_foreign(directory)
    try:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
        yield aside
        _replace_directory(directory, aside)
    except OSError as error:
        raise StorageError(f"{directory}: cannot be prepared: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _refuse_foreign(directory: Path) -> None:
    ours = (directory / _SUMMARY).is_file()
    if directory.exists() and not ours and not (directory.is_dir() and _is_empty(directory)):
        raise StorageError(
            f"{directory}: holds something that is not prepared rows; move it away, or choose "
            "another `name` or `storage_path`"
        )


def _is_empty(directory: Path) -> bool:
    return not any(directory.iterdir())


def _replace_directory(directory: Path, new: Path) -> None:
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def write_summary(directory: Path, fingerprint: str, stats: dict[str, PackingStats]) -> None:
    """Write what `reusable` reads."""
    summary = {
        "fingerprint": fingerprint,
        "sets": {name: each.as_dict() for name, each in stats.items()},
    }
    (directory / _SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")


def reusable(directory: Path, fingerprint: str) -> dict[str, PackingStats] | None:
    """The stats of what lies there, if an equal job prepared it."""
    try:
        summary = json.loads((directory / _SUMMARY).read_text())
        if summary["fingerprint"] != fingerprint:
            return None
        return {name: PackingStats(**each) for name, each in summary["sets"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
