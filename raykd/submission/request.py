"""What is sent: the entry point, an id, and a runtime environment without a secret in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Final

from raykd import __version__
from raykd.errors import SubmissionError

RUN: Final = "raykd_run"
"""Key of a submission's metadata under which the run's name stands."""
STOP_WAIT_VARIABLE: Final = "RAY_JOB_STOP_WAIT_TIME_S"
STOP_WAIT_S: Final = 300
"""Ray kills a stopped driver after 3 s, which is too soon for a checkpoint."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class EntryResources:
    """What the driver reserves; where all are 0 it runs on the head."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_bytes: int = 0

    def arguments(self) -> dict[str, Any]:
        """As `submit_job` takes them; without those that are 0."""
        named = {
            "entrypoint_num_cpus": self.num_cpus,
            "entrypoint_num_gpus": self.num_gpus,
            "entrypoint_memory": self.memory_bytes,
        }
        return {name: value for name, value in named.items() if value}


def entry_point(job: PurePath, overrides: Sequence[str], variables: Sequence[str]) -> str:
    """The command that Ray gives to a shell; every word is quoted, so that none is read by it.

    Args:
        job: The job file, relative to the package.
        overrides: As given by `--set`.
        variables: Names of variables that must be set on the cluster.
    """
    words = ["python", "-m", "raykd", "run", job.as_posix(), "--resume"]
    for text in overrides:
        words += ["--set", text]
    for name in variables:
        words += ["--require-env", name]
    return shlex.join(words)


def require_names(variables: Sequence[str]) -> None:
    """Refuse anything but names of variables.

    Raises:
        SubmissionError: One is no name; a value is never repeated.
    """
    for text in variables:
        if not _VARIABLE.fullmatch(text):
            name = text.partition("=")[0]
            raise SubmissionError(
                f"--env {name}: takes the name of a variable that is set on the cluster, and no "
                "value: Ray stores and shows a job's values in clear. docs/security.md says how to "
                "set it there"
            )


def submission_id(run: str, given: str | None, now: datetime | None = None) -> str:
    """The id of a submission: the run's name and the time, unless one is given.

    Raises:
        SubmissionError: The given one is not plain.
    """
    if given is None:
        moment = now or datetime.now(UTC)
        return f"{run}-{moment:%Y%m%d-%H%M%S}"
    if not _ID.fullmatch(given):
        raise SubmissionError(
            f"--submission-id: {given!r}: letters, digits, '.', '_' and '-', at most 200, the "
            "first a letter or digit"
        )
    return given


def metadata(run: str) -> dict[str, str]:
    """What is kept with a submission: the run's name and raykd's version."""
    return {RUN: run, "raykd_version": __version__}


def runtime_env(working_dir: str, stop_wait_s: int) -> dict[str, Any]:
    """The package, and how long a stopped driver may take; never a person's variables."""
    return {"working_dir": working_dir, "env_vars": {STOP_WAIT_VARIABLE: str(stop_wait_s)}}
