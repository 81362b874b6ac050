"""Submissions of a cluster: all of raykd's, the newest of a run, one by its id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raykd.errors import SubmissionError
from raykd.submission.client import plain_errors
from raykd.submission.request import RUN

LIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Submission:
    """What Ray says of a submitted job. Times are seconds since 1970."""

    id: str
    run: str | None
    status: str
    entry_point: str
    message: str
    began_s: float | None
    ended_s: float | None
    exit_code: int | None
    error_type: str | None

    @classmethod
    def of(cls, details: Any) -> Submission:
        """From Ray's `JobDetails`."""
        return cls(
            id=details.submission_id,
            run=(details.metadata or {}).get(RUN),
            status=details.status.value,
            entry_point=details.entrypoint,
            message=details.message or "",
            began_s=None if details.start_time is None else details.start_time / 1000,
            ended_s=None if details.end_time is None else details.end_time / 1000,
            exit_code=details.driver_exit_code,
            error_type=details.error_type,
        )

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in LIVE


def submissions(client: Any, address: str) -> list[Submission]:
    """All submitted jobs that Ray knows, the oldest first."""
    with plain_errors(address):
        found = [Submission.of(job) for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda each: each.began_s or 0.0)


def find(client: Any, address: str, name: str) -> Submission:
    """A submission by its id, or the newest of a run by the run's name.

    Raises:
        SubmissionError: There is none; those that there are are named.
    """
    known = submissions(client, address)
    by_id = [each for each in known if each.id == name]
    of_run = [each for each in known if each.run == name]
    if by_id or of_run:
        return (by_id or of_run)[-1]
    there = ", ".join(each.id for each in known[-5:]) or "none"
    raise SubmissionError(
        f"{name}: no submission and no run of that name at {address}; newest there: {there}"
    )


def state(client: Any, address: str, submission_id: str) -> Submission:
    """A submission as it is now."""
    with plain_errors(address):
        return Submission.of(client.get_job_info(submission_id))


def require_idle(client: Any, address: str, run: str) -> None:
    """Refuse a run that a submission is working on.

    Raises:
        SubmissionError: Names the submission.
    """
    live = [each for each in submissions(client, address) if each.run == run and each.is_live]
    if live:
        raise SubmissionError(
            f"name: {run!r} is being run by submission {live[-1].id} ({live[-1].status}): "
            f"`raykd logs {live[-1].id}` follows it, `raykd stop {live[-1].id}` ends it, --set "
            "name=OTHER starts a run beside it"
        )
