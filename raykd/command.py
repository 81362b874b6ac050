"""What every command shares: its arguments, the console it prints on, how an error ends it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd.errors import RaykdError

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 160
"""Columns for tables on a pipe or in a file, where no terminal says how wide it is."""

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file (YAML).")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field: student.zero_stage=3."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to attach to, such as `auto`. Default: RAY_ADDRESS, else a local Ray."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class LogFormat(StrEnum):
    """How a command says what it does."""

    TEXT = "text"
    JSON = "json"


Logs = Annotated[
    LogFormat,
    typer.Option("--log-format", help="`json`: one JSON object a line, for log collectors."),
]


def console_for_tables() -> Console:
    """A console wide enough for tables, also where it is none."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else WIDE)


def say(console: Console, line: str) -> None:
    """Print a line as it is: no colours, no markup, never broken."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


Tell = Callable[[BaseException, str, int], None]
"""Says how a command ends: what was raised, in words, and with which exit code."""


@contextmanager
def errors(debug: bool = False, tell: Tell | None = None) -> Iterator[None]:
    """Print raykd's own errors as one message; anything else is a defect and says so.

    Args:
        debug: Tracebacks too.
        tell: Takes the place of lines on stderr.

    Raises:
        typer.Exit: With the error's exit code, 130 for Ctrl-C, 1 for a defect.
    """
    tell = tell or partial(_tell_on_stderr, debug)
    try:
        yield
    except RaykdError as error:
        tell(error, str(error), error.exit_code)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as error:
        tell(error, "stopped", 130)
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        where = "" if debug else " (a defect of raykd; --debug shows where)"
        tell(error, f"{type(error).__name__}: {error}{where}", 1)
        raise typer.Exit(1) from None


def _tell_on_stderr(debug: bool, error: BaseException, text: str, _: int) -> None:
    stopped = isinstance(error, KeyboardInterrupt)
    if debug and not stopped:
        traceback.print_exception(error)
    typer.echo(text if stopped else f"error: {text}", err=True)
