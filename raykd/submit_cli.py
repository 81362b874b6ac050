"""`raykd submit`, `status`, `logs` and `stop`: a job on a cluster, from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raykd.command import Debug, JobFile, Overrides, errors

if TYPE_CHECKING:
    from raykd.submission.find import Submission

Cluster = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Ray's job API. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, http://127.0.0.1:8265.",
    ),
]
Which = Annotated[
    str, typer.Argument(metavar="ID", help="A submission, or a run's name: its newest one.")
]
_STOP_POLL_S = 0.5


def submit(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Cluster = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show what the job prints.")
    ] = True,
    working_dir: Annotated[
        Path, typer.Option(help="Directory that travels; the job's relative paths start there.")
    ] = Path(),
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="A variable that the cluster must have set."),
    ] = None,
    submission_id: Annotated[
        str | None, typer.Option(help="Default: the run's name and the time.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that the driver reserves.")] = 0.0,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that the driver reserves.")] = 0.0,
    memory: Annotated[
        int, typer.Option(min=0, metavar="BYTES", help="Memory that the driver reserves.")
    ] = 0,
    stop_wait: Annotated[
        int, typer.Option(min=1, metavar="S", help="Seconds that a stop leaves for a checkpoint.")
    ] = 300,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Accept another Ray or Python there.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Send a job to a cluster and follow it; the same run goes on where it was stopped."""
    with errors(debug):
        from raykd.submission.address import resolve
        from raykd.submission.request import EntryResources
        from raykd.submission.submit import Wish, submit

        wish = Wish(
            job_file=job_file,
            overrides=overrides or [],
            working_dir=working_dir,
            variables=env or [],
            submission_id=submission_id,
            resources=EntryResources(cpus, gpus, memory),
            stop_wait_s=stop_wait,
            other_versions=other_versions,
        )
        url = resolve(address)
        client, identity = submit(wish, url, _note)
        _note(f"submitted {identity} to {url}")
        if not follow:
            _note(_ways_back(identity, url))
            return
        _follow(client, url, identity)


def status(
    submission: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A submission or a run's name.")
    ] = None,
    address: Cluster = None,
    debug: Debug = False,
) -> None:
    """Say how a submission is, or how all are."""
    with errors(debug):
        from raykd.submission import find

        client, url = _connected(address)
        if submission is not None:
            found = find.find(client, url, submission)
            for line in _told_at_length(found):
                typer.echo(line)
            return
        all_of_them = find.submissions(client, url)
        for each in all_of_them:
            typer.echo(f"{each.id}  {each.status.lower()}  {_times(each)}")
        if not all_of_them:
            typer.echo(f"{url}: no submissions")


def logs(
    submission: Which,
    address: Cluster = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on until the job ends.")
    ] = True,
    debug: Debug = False,
) -> None:
    """Show what a job printed, and follow it; ends with the job's exit code."""
    with errors(debug):
        from raykd.submission import find
        from raykd.submission.client import plain_errors

        client, url = _connected(address)
        found = find.find(client, url, submission)
        if follow:
            _follow(client, url, found.id)
        with plain_errors(url):
            _write(client.get_job_logs(found.id))


def stop(
    submission: Which,
    address: Cluster = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")] = True,
    debug: Debug = False,
) -> None:
    """Stop a job: it saves a checkpoint and ends; `raykd submit` goes on from there."""
    with errors(debug):
        from raykd.submission import find
        from raykd.submission.client import plain_errors
        from raykd.submission.follow import told

        client, url = _connected(address)
        found = find.find(client, url, submission)
        if found.is_live:
            with plain_errors(url):
                client.stop_job(found.id)
            _note(f"asked {found.id} to stop")
        while wait and found.is_live:
            time.sleep(_STOP_POLL_S)
            found = find.state(client, url, found.id)
        if not found.is_live:
            typer.echo(told(found))


def _connected(address: str | None) -> tuple[Any, str]:
    """A client and the URL that it speaks to."""
    from raykd.submission.address import resolve
    from raykd.submission.client import connect

    url = resolve(address)
    return connect(url), url


def _follow(client: Any, url: str, identity: str) -> None:
    """Show a job's lines to its end, and end as it did.

    Raises:
        typer.Exit: With the job's exit code, or 130 where Ctrl-C let go of it.
    """
    from raykd.submission.follow import exit_code, follow, told

    try:
        ended = follow(client, url, identity, _write, _note)
    except KeyboardInterrupt:
        _note(f"\nlet go of {identity}: it goes on")
        _note(_ways_back(identity, url))
        raise typer.Exit(130) from None
    _note(told(ended))
    raise typer.Exit(exit_code(ended))


def _ways_back(identity: str, url: str) -> str:
    return f"`raykd logs {identity} --address {url}` follows it, `raykd stop ...` stops it"


def _told_at_length(found: Submission) -> list[str]:
    """Lines about one submission."""
    from raykd.submission.follow import told

    rows: list[tuple[str, str | None]] = [
        ("submission", found.id),
        ("run", found.run),
        ("status", found.status.lower() if found.is_live else told(found)),
        ("time", _times(found)),
        ("command", found.entry_point),
        ("waiting", found.message if found.status == "PENDING" else None),
    ]
    return [f"{name:<11} {text}" for name, text in rows if text]


def _times(found: Submission, clock: Callable[[], float] = time.time) -> str:
    from raykd.telemetry.units import duration

    if found.began_s is None:
        return "not begun"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.began_s))
    end = found.ended_s if found.ended_s is not None else clock()
    return f"{began}, {duration(max(0.0, end - found.began_s))}"


def _write(text: str) -> None:
    typer.echo(text, nl=False)


def _note(line: str) -> None:
    """A line about the job, beside what the job itself prints."""
    typer.echo(line, err=True)
