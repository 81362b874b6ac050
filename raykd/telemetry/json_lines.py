"""One JSON object a line: what a log collector expects of a program.

Keys of every line: `time` (RFC 3339, UTC), `level`, `event`, `text`; `run`, `stage` and `step` once
they are known. What else a line has depends on its event.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from raykd.errors import Interrupted

_FOREIGN = ("", "ray", "ray.serve", "ray.train", "ray.data", "py.warnings")
"""Loggers whose handlers print lines of their own form."""


def _now() -> datetime:
    return datetime.now(UTC)


class JsonLines:
    """Writes the lines; thread-safe.

    Args:
        out: Where to.
        err: Where errors and other programs' log records go.
        now: The time, in UTC.
    """

    def __init__(self, out: TextIO, err: TextIO, now: Callable[[], datetime] = _now) -> None:
        self.run: str | None = None
        self.stage: str | None = None
        self.step: int | None = None
        self._out, self._err = out, err
        self._now = now
        self._writing = threading.Lock()

    def write(self, event: str, text: str, level: str = "info", **fields: Any) -> None:
        """Write one line.

        Args:
            event: What kind of line it is.
            text: For a person.
            level: `info`, `warning` or `error`; as `logging` names them, in small letters.
            **fields: More keys; None leaves one out.
        """
        record = {
            "time": self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "run": self.run,
            "stage": self.stage,
            "step": self.step,
            "event": event,
            "text": text,
            **fields,
        }
        kept = {key: _finite(value) for key, value in record.items() if value is not None}
        line = json.dumps(kept, ensure_ascii=False, allow_nan=False, default=str)
        to = self._err if event in ("error", "log") else self._out
        with self._writing:
            to.write(line + "\n")
            to.flush()

    def error(self, error: BaseException, text: str, exit_code: int, *, debug: bool) -> None:
        """Write how the program ends; a stop that was asked for is a warning."""
        asked = isinstance(error, Interrupted | KeyboardInterrupt)
        self.write(
            "error",
            text,
            "warning" if asked else "error",
            error=type(error).__name__,
            exit_code=exit_code,
            traceback="".join(traceback.format_exception(error)) if debug else None,
        )

    @contextmanager
    def captured(self) -> Iterator[None]:
        """While the block runs, log records and warnings of this process come here."""
        loggers = [logging.getLogger(name) for name in _FOREIGN]
        before = [(logger.handlers[:], logger.propagate) for logger in loggers]
        handler = _Handler(self)
        logging.disable(logging.NOTSET)
        logging.captureWarnings(True)
        for logger in loggers:
            logger.handlers[:] = [handler] if logger is logging.root else []
            logger.propagate = True
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for logger, (handlers, propagate) in zip(loggers, before, strict=True):
                logger.handlers[:], logger.propagate = handlers, propagate


class _Handler(logging.Handler):
    """A log record as a line."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._lines.write(
            "log",
            record.getMessage(),
            record.levelname.lower(),
            logger=record.name,
            traceback=trace,
        )


def _finite(value: Any) -> Any:
    """JSON has no word for numbers that are not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
