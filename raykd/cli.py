"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd import __version__, clusters_cli, eval_cli, plan_cli, store_cli, submit_cli
from raykd.command import (
    Address,
    Debug,
    JobFile,
    LogFormat,
    Logs,
    Overrides,
    RunDir,
    errors,
    say,
)
from raykd.errors import JobError
from raykd.submission import token

if TYPE_CHECKING:
    from rich.console import Console

    from raykd.config.job import Job
    from raykd.telemetry.json_lines import JsonLines

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn one job file into a distilled model.",
)

app.add_typer(store_cli.app, name="store")


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
    # A local Ray leaves a token behind, and `ray start` asks for it once it is there.
    token.show()


@app.command()
def run(
    job_file: JobFile,
    overrides: Overrides = None,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run.")] = False,
    require_env: Annotated[
        list[str] | None,
        typer.Option("--require-env", metavar="NAME", help="Must be set on every node."),
    ] = None,
    log_format: Logs = LogFormat.TEXT,
    debug: Debug = False,
) -> None:
    """Distil: from the job file to an exported student and a report."""
    lines = _json_lines() if log_format is LogFormat.JSON else None
    tell = partial(lines.error, debug=debug) if lines else None
    with errors(debug, tell):
        from raykd.config.load import load_job

        job = load_job(job_file, overrides)
        if lines:
            lines.run = job.name
        from raykd.pipeline import cluster, voice
        from raykd.pipeline.distill import distill
        from raykd.pipeline.run_dir import RunDirectory
        from raykd.submission.variables import require_everywhere

        console = _console()
        with (
            voice.hushed(lines),
            cluster.connect(address),
            voice.progress_of(job, console, lines) as progress,
        ):
            require_everywhere(require_env or [])
            report = distill(job, progress, resume=resume)
        voice.conclude(report, RunDirectory.of(job).root, console, lines)


@app.command()
def check(
    job_file: Annotated[
        Path | None, typer.Argument(metavar="[JOB]", help="The job file (YAML).")
    ] = None,
    overrides: Overrides = None,
    address: Address = None,
    cluster_file: Annotated[
        Path | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="A cluster file: looked at without a cloud, and against JOB where one is given.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Look at everything a run needs, without running it; or at a cluster file."""
    with errors(debug):
        if job_file is None and (cluster_file is None or overrides or address):
            raise JobError("check: give a JOB, a cluster file (--cluster FILE), or both")
        from raykd.config.load import load_job

        console = _console()
        job, wrong = None, 0
        if job_file is not None:
            job = load_job(job_file, overrides)
            say(console, "ok        job: every field is valid")
        if cluster_file is not None:
            wrong += clusters_cli.check_cluster_file(console, cluster_file, job)
        if job is not None and (cluster_file is None or address is not None):
            wrong += _check_live(console, job, address)
        if wrong:
            raise typer.Exit(2)


app.command()(plan_cli.plan)
app.command()(submit_cli.submit)
app.command()(submit_cli.status)
app.command()(submit_cli.logs)
app.command()(submit_cli.stop)


def _check_live(console: Console, job: Job, address: str | None) -> int:
    """Print what a live cluster has for a job; how many things have to be fixed."""
    from raykd.pipeline import cluster, preflight
    from raykd.pipeline.anchor import anchored

    with cluster.connect(address):
        findings = preflight.check(anchored(job, cluster.works_in_copy()))
    for finding in findings:
        mark = "fix this" if not finding.ok else "consider" if finding.hint else "ok      "
        say(console, f"{mark}  {finding.subject}: {finding.text}")
    return sum(not finding.ok for finding in findings)


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
    with errors(debug):
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


app.command("eval")(eval_cli.evaluate)


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
    with errors(debug):
        from raykd.pipeline import cluster
        from raykd.pipeline.later import export_run

        with cluster.connect(address):
            directory, steps = export_run(run_dir, output)
        _console().print(
            f"student  {directory} (after {steps} steps)", soft_wrap=True, highlight=False
        )


def _json_lines() -> JsonLines:
    """This process's lines; what Ray's workers log takes the same form."""
    from raykd.telemetry.json_lines import JsonLines

    os.environ.setdefault("RAY_LOGGING_CONFIG_ENCODING", "JSON")
    return JsonLines(sys.stdout, sys.stderr)


def _console() -> Console:
    from rich.console import Console

    return Console()


if __name__ == "__main__":
    sys.exit(app())
