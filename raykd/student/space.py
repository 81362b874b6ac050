"""A disk that is full while a run writes to it, told in words that a person can act on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raykd.errors import StorageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TORCH_COULD_NOT_WRITE = ("iostream error", "inline_container.cc", "PytorchStreamWriter failed")
"""torch's writer says no more than this of what the system told it."""


@contextmanager
def needed(directory: Path, what: str) -> Iterator[None]:
    """What fails within for lack of space, told of the directory; all else is raised as it is.

    Args:
        directory: Where is written; on a full disk what lies there of it is of no use.
        what: What is written, for the message.

    Raises:
        StorageError: There is no space; says how much is free and what to do.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_for_space(error):
            raise
        raise StorageError(
            f"{directory}: no space left for {what}; free on this disk are "
            f"{shutil.disk_usage(directory).free:,} bytes. The last good checkpoint stays: free "
            "some space (`checkpoint.keep`, `raykd store prune`) and go on with --resume"
        ) from error


def _is_for_space(error: BaseException | None) -> bool:
    """Whether it, or what it was raised over, is for lack of space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        if any(words in str(error) for words in _TORCH_COULD_NOT_WRITE):
            return True
        error = error.__cause__ or error.__context__
    return False
