"""Ray's token on this machine: where it comes from. Its value is never printed or kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

MODE: Final = "RAY_AUTH_MODE"
VALUE: Final = "RAY_AUTH_TOKEN"
FILE: Final = "RAY_AUTH_TOKEN_PATH"


def default_file() -> Path:
    """Where Ray keeps a person's token."""
    return Path.home() / ".ray" / "auth_token"


def source(environment: Mapping[str, str] = os.environ) -> str | None:
    """What Ray takes the token from, in Ray's own order; None where there is none.

    Args:
        environment: Variables of the process.

    Returns:
        A name for messages, never the token.
    """
    if environment.get(VALUE):
        return VALUE
    if environment.get(FILE):
        return f"{FILE}={environment[FILE]}"
    return str(default_file()) if default_file().is_file() else None


def show(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have Ray show the token that is here; must be called before Ray is imported.

    Ray's clients keep a token to themselves unless RAY_AUTH_MODE says `token`.
    """
    if source(environment) is not None:
        environment.setdefault(MODE, "token")


def read(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token itself, to be looked for where it must not be; None where there is none."""
    if environment.get(VALUE):
        return environment[VALUE].strip()
    path = Path(environment[FILE]) if environment.get(FILE) else default_file()
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
