"""What a rank that failed leaves for the driver: its own words, whatever Ray wraps around them."""

from __future__ import annotations

import json
import re
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykd import errors
from raykd.errors import RaykdError, RunError

OWN_IN_TEXT = re.compile(r"^raykd\.errors\.(\w+): (.+)$", re.MULTILINE)
FATAL = (
    "DivergenceError",
    "OrderError",
    "SoftTargetError",
    "TeacherError",
    "ModelError",
    "StorageError",
    "StoreError",
)
"""Failures that a restart from the same checkpoint would only meet again."""


def keep(logs: Path, rank: int, error: BaseException) -> None:
    """Write down why a rank failed; whole or not at all."""
    cause = own_cause(error)
    record: dict[str, Any] = {
        "type": type(cause or error).__name__,
        "message": str(cause or error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": time.time(),
    }
    file = _file(logs, rank)
    # Clocks of nodes may differ: who found the failures of others here came after them.
    record["found"] = sum(1 for other in logs.glob("failure-*.json") if other != file)
    aside = file.with_suffix(".aside")
    # A full disk takes no record; Ray hands the error on as well.
    with suppress(OSError):
        aside.write_text(json.dumps(record))
        aside.rename(file)


def forget(logs: Path, rank: int | None = None) -> None:
    """Remove what a rank wrote in a former life; of all ranks where None."""
    files = logs.glob("failure-*.json") if rank is None else [_file(logs, rank)]
    for file in files:
        file.unlink(missing_ok=True)


def fatal(logs: Path) -> RaykdError | None:
    """A failure of the life before that a restart does not mend."""
    for record, _ in _records(logs):
        if record["type"] in FATAL:
            return _as_error(record, None)
    return None


def told(logs: Path, error: BaseException) -> RaykdError:
    """The error that explains the others: raykd's own before foreign ones, the earliest first."""
    records = sorted(_records(logs), key=lambda one: _rank_of(one[0]))
    if records:
        return _as_error(*records[0])
    text = _last_line(str(error))
    return own_cause(error) or RunError(f"the student group failed: {text}")


def _rank_of(record: dict[str, Any]) -> tuple[bool, int, float]:
    """What explains the others comes first."""
    return record["type"] not in _own(), record["found"], record["time"]


def own_cause(error: BaseException | None) -> RaykdError | None:
    """raykd's own error inside Ray's wrappers, if there is one."""
    seen: set[int] = set()
    told_as = str(error)
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # Ray's wrapper of an error is an instance of its class too, with other words.
        if isinstance(error, RaykdError) and not hasattr(error, "cause"):
            return error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return _own_in_text(told_as)


def _own_in_text(text: str) -> RaykdError | None:
    """Of an error that a data worker raised, Ray hands on nothing but the words."""
    for name, message in OWN_IN_TEXT.findall(text):
        if name in _own():
            return _own()[name](message)
    return None


def _file(logs: Path, rank: int) -> Path:
    return logs / f"failure-{rank}.json"


def _records(logs: Path) -> list[tuple[dict[str, Any], Path]]:
    return [(json.loads(file.read_text()), file) for file in sorted(logs.glob("failure-*.json"))]


def _as_error(record: dict[str, Any], file: Path | None) -> RaykdError:
    kind = _own().get(record["type"])
    if kind is not None:
        return kind(record["message"])
    return RunError(
        f"a student rank failed: {record['type']}: {_last_line(record['message'])} "
        f"(its traceback is in {file})"
    )


def _own() -> dict[str, type[RaykdError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, RaykdError)
    }


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
