"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd import __version__, store_cli
from raykd.errors import RaykdError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn one job file into a distilled model.",
)

app.add_typer(store_cli.app, name="store")

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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raykd {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Turn one job file into a distilled model."""
    _show_ray_token()


def _show_ray_token() -> None:
    """Ray's own token, where this person has one: `ray start` asks for it once it is there.

    A local Ray leaves one behind, but no client shows it unless told to before Ray is imported.
    """
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    debug: Debug = False,
) -> None:
    """Distil: from the job file to an exported student and a report."""
    with _errors(debug):
        from raykd.config.load import load_job

        job = load_job(job_file, overrides)
        from raykd.evaluation.report import terminal_table
        from raykd.pipeline import cluster
        from raykd.pipeline.distill import distill
        from raykd.pipeline.run_dir import RunDirectory
        from raykd.telemetry.progress import Progress

        console = _console()
        replicas = job.teacher.max_replicas if job.needs_teacher_for_training else 0
        with (
            cluster.connect(address),
            Progress(console, job.name, replicas=replicas) as progress,
        ):
            report = distill(job, progress, resume=resume)
        console.print(terminal_table(report))
        root = RunDirectory.of(job).root
        console.print(f"student  {root / 'student'}", soft_wrap=True, highlight=False)
        console.print(f"report   {root / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def check(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Look at everything a run needs, without running it."""
    with _errors(debug):
        from raykd.config.load import load_job

        job = load_job(job_file, overrides)
        console = _console()
        console.print("ok        job: every field is valid", highlight=False, markup=False)
        from raykd.pipeline import cluster, preflight
        from raykd.pipeline.anchor import anchored

        with cluster.connect(address):
            findings = preflight.check(anchored(job, cluster.works_in_copy()))
        for finding in findings:
            mark = "ok      " if finding.ok else "fix this"
            console.print(
                f"{mark}  {finding.subject}: {finding.text}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        wrong = sum(not finding.ok for finding in findings)
        if wrong:
            raise typer.Exit(2)


@app.command()
def probe(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows that the teacher scores.")] = 200,
    tokens: Annotated[
        int, typer.Option(min=1, help="Learned tokens that gradients are compared on.")
    ] = 2048,
    debug: Debug = False,
) -> None:
    """Compare codecs on a few rows and recommend one, with temperature and teacher replicas."""
    with _errors(debug):
        from raykd.config.load import load_job

        job = load_job(job_file, overrides)
        from raykd.evaluation.probe_table import probe_tables
        from raykd.pipeline import cluster
        from raykd.pipeline.anchor import anchored
        from raykd.pipeline.probe import Size, probe_job
        from raykd.telemetry.progress import Progress

        console = _console()
        with (
            cluster.connect(address),
            Progress(console, job.name) as progress,
        ):
            job = anchored(job, cluster.works_in_copy())
            file, found = probe_job(job, progress, Size(rows, tokens))
        console.print(probe_tables(found))
        console.print(f"saved    {file}", soft_wrap=True, highlight=False)


@app.command("eval")
def evaluate(
    run_dir: RunDir,
    data: Annotated[Path, typer.Option(help="Text to measure on; read like the job's corpus.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the measurement; default: the file's.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Its format, where the ending does not tell.")
    ] = "auto",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Measure a run's student, its teacher and the untrained student on other text."""
    with _errors(debug):
        from raykd.evaluation.report import terminal_table
        from raykd.pipeline import cluster
        from raykd.pipeline.later import evaluate_run
        from raykd.telemetry.progress import Progress

        console = _console()
        with (
            cluster.connect(address),
            Progress(console, run_dir.name) as progress,
        ):
            directory, report = evaluate_run(run_dir, data, form, name or data.stem, progress)
        console.print(terminal_table(report))
        console.print(f"report   {directory / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def export(
    run_dir: RunDir,
    output: Annotated[
        Path | None, typer.Option(help="Where to; default: `student` in the run directory.")
    ] = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Write the newest checkpoint of a run as a Hugging Face directory."""
    with _errors(debug):
        from raykd.pipeline import cluster
        from raykd.pipeline.later import export_run

        with cluster.connect(address):
            directory, steps = export_run(run_dir, output)
        _console().print(
            f"student  {directory} (after {steps} steps)", soft_wrap=True, highlight=False
        )


def _console() -> Console:
    from rich.console import Console

    return Console()


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Print raykd's own errors as one message; anything else is a defect and says so."""
    try:
        yield
    except RaykdError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(
            f"error: {type(error).__name__}: {error} (a defect of raykd; --debug shows where)",
            err=True,
        )
        raise typer.Exit(1) from None


if __name__ == "__main__":
    sys.exit(app())
