"""A job's lines as it prints them, over lost connections, to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from raykd.errors import RunError, SubmissionError
from raykd.submission.find import Submission, state

POLL_S: Final = 1.0
LOST_AFTER_S: Final = 120.0
"""A cluster that does not answer for so long is given up; the job goes on without a watcher."""
STEADY_S: Final = 5.0
"""A connection that held for so long was a good one."""
_DRIVER_FAILED: Final = "JOB_ENTRYPOINT_COMMAND_ERROR"

Write = Callable[[str], None]


def follow(
    client: Any,
    address: str,
    submission_id: str,
    write: Write,
    note: Write,
    *,
    lost_after_s: float = LOST_AFTER_S,
) -> Submission:
    """Write what a job prints until it has ended.

    Args:
        client: Ray's.
        address: For messages.
        submission_id: The job's.
        write: Takes pieces of text as they come.
        note: Takes a line about the job itself.
        lost_after_s: How long the cluster may be silent where it should answer.

    Returns:
        The job as it ended.

    Raises:
        RunError: The cluster does not answer any more.
    """
    seen, told = 0, ""
    ended: Submission | None = None
    patience = _Patience(lost_after_s)
    while True:
        patience.begin()
        try:
            now = state(client, address, submission_id)
            if now.status == "PENDING":
                if now.message != told:
                    told = now.message
                    note(f"waiting: {told}")
            else:
                ended = None if now.is_live else now
                seen = asyncio.run(_tail(client, submission_id, seen, write))
                if ended is not None:
                    # It had ended before its lines were read to their end.
                    return ended
            patience.end()
        except (SubmissionError, _Lost) as error:
            seen = error.seen if isinstance(error, _Lost) else seen
            if patience.is_at_its_end():
                if ended is None:
                    raise RunError(
                        f"{submission_id}: {address} has not sent its lines for "
                        f"{lost_after_s:.0f} s ({error}); the job may be going on: `raykd status "
                        f"{submission_id}`"
                    ) from None
                note(f"its last lines cannot be read ({error})")
                return ended
        time.sleep(POLL_S)


class _Patience:
    """How long attempts fail one after the other; one that held for a while begins it anew."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._failing_since_s: float | None = None
        self._began_s = 0.0

    def begin(self) -> None:
        """An attempt begins."""
        self._began_s = time.monotonic()

    def end(self) -> None:
        """It succeeded."""
        self._failing_since_s = None

    def is_at_its_end(self) -> bool:
        """It failed: whether that has gone on for too long."""
        now_s = time.monotonic()
        if self._failing_since_s is None or now_s - self._began_s > STEADY_S:
            self._failing_since_s = now_s
        return now_s - self._failing_since_s > self._limit_s


class _Lost(Exception):
    """The connection went away after so many characters."""

    def __init__(self, seen: int, reason: str) -> None:
        super().__init__(reason)
        self.seen = seen


async def _tail(client: Any, submission_id: str, skip: int, write: Write) -> int:
    """Write what comes after the first `skip` characters; every connection begins at the first.

    Returns:
        How many characters there were in all.
    """
    import aiohttp

    at = 0
    try:
        async for text in client.tail_job_logs(submission_id):
            new = text[max(0, skip - at) :]
            at += len(text)
            if new:
                write(new)
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        raise _Lost(max(at, skip), str(error) or type(error).__name__) from None
    return max(at, skip)


def exit_code(ended: Submission) -> int:
    """The driver's own exit code; 130 where someone stopped it, 1 where it never ran."""
    if ended.status == "SUCCEEDED":
        return 0
    if ended.status == "STOPPED":
        return 130
    if ended.exit_code is None:
        return 1
    # Killed by a signal: as a shell says it.
    return 128 - ended.exit_code if ended.exit_code < 0 else ended.exit_code


def told(ended: Submission) -> str:
    """How a job ended, in one line; why, where its own lines do not say it."""
    line = f"{ended.id} {ended.status.lower()}"
    if ended.status != "FAILED":
        return line
    if ended.error_type == _DRIVER_FAILED:
        return f"{line} with exit code {ended.exit_code}"
    said = [text.strip() for text in ended.message.splitlines() if text.strip()]
    return f"{line}: {said[0]}{' ... ' + said[-1] if len(said) > 1 else ''}" if said else line
