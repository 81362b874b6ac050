"""The story of a submission: checked here, compared with the cluster, packed, sent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raykd.config.job import Job
from raykd.config.load import load_job
from raykd.submission import find, packing, request, secret_text, versions
from raykd.submission.address import shows_token_in_clear
from raykd.submission.client import connect, plain_errors, versions_of
from raykd.submission.inputs import require_packed
from raykd.submission.request import EntryResources
from raykd.submission.token import source


@dataclass(frozen=True)
class Wish:
    """What a person wants submitted."""

    job_file: Path
    overrides: list[str] = field(default_factory=list)
    working_dir: Path = Path()
    variables: list[str] = field(default_factory=list)
    submission_id: str | None = None
    resources: EntryResources = field(default_factory=EntryResources)
    stop_wait_s: int = request.STOP_WAIT_S
    other_versions: bool = False


def read(wish: Wish) -> Job:
    """The job, once nothing in it or beside it looks like a secret.

    Raises:
        JobError: It is wrong, or carries a secret.
    """
    request.require_names(wish.variables)
    for text in wish.overrides:
        secret_text.refuse_override(text)
    try:
        written = wish.job_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        written = ""  # load_job says what is wrong with it
    secret_text.refuse_text(written, str(wish.job_file))
    values = secret_text.values_here()
    given = [("--set " + text.partition("=")[0], text) for text in wish.overrides]
    given += [("--submission-id", wish.submission_id or ""), (str(wish.job_file), written)]
    secret_text.refuse_values(given, values)
    return load_job(wish.job_file, wish.overrides)


def submit(wish: Wish, address: str, note: Callable[[str], None]) -> tuple[Any, str]:
    """Send a job to a cluster.

    Args:
        wish: What to send.
        address: URL of the job API.
        note: Takes lines for a person.

    Returns:
        Ray's client, and the submission's id.

    Raises:
        JobError: The job, the files or the cluster are not fit for it; nothing was sent.
    """
    job = read(wish)
    identity = request.submission_id(job.name, wish.submission_id)
    client = connect(address)
    if source() is not None and shows_token_in_clear(address):
        note(f"{address} is plain http: whoever is on the way can read Ray's token")
    _compare(client, address, wish.other_versions, note)
    find.require_idle(client, address, job.name)
    packed = packing.choose(wish.working_dir, secret_text.values_here())
    require_packed(job, packed)
    for line in packing.told(packed):
        note(line)
    with tempfile.TemporaryDirectory(prefix="raykd-") as directory:
        packing.stage(packed, wish.job_file, Path(directory))
        with plain_errors(address):
            client.submit_job(
                entrypoint=request.entry_point(
                    packing.place_of_job(wish.job_file, packed), wish.overrides, wish.variables
                ),
                submission_id=identity,
                runtime_env=request.runtime_env(directory, wish.stop_wait_s),
                metadata=request.metadata(job.name),
                **wish.resources.arguments(),
            )
    return client, identity


def _compare(client: Any, address: str, other: bool, note: Callable[[str], None]) -> None:
    here, there = versions.Versions.here(), versions_of(client, address)
    if there.python is None:
        note(f"{address} does not say which Python it has; not compared")
    if not other:
        versions.require_same(here, there, address)
        return
    for line in versions.differences(here, there):
        note(f"other versions: {line}")
