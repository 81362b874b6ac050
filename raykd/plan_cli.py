"""`raykd plan`: what a job needs, where it lies, how fast it goes, what it costs. No cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd.command import Debug, JobFile, Overrides, console_for_tables, errors, say

if TYPE_CHECKING:
    from raykd.config.job import Job
    from raykd.planning.speed import Rates


def plan(
    job_file: JobFile,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="The cluster file; default: demands only.")
    ] = None,
    overrides: Overrides = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Training rows of an epoch, where none are prepared.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts that the teacher writes to (`generation`).")
    ] = None,
    probe: Annotated[
        Path | None, typer.Option(help="What `raykd probe` saved; default: this job's, if there.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(help="Prices by machine or node type (YAML).")
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="GPU to reckon with where no cluster file is given: H100.")
    ] = None,
    accelerators: Annotated[
        Path | None, typer.Option(help="GPUs beside those that raykd knows (YAML).")
    ] = None,
    teacher_config: Annotated[
        Path | None, typer.Option(help="The teacher's config.json, where it is not here.")
    ] = None,
    student_config: Annotated[Path | None, typer.Option(help="The same for the student.")] = None,
    teacher_rate: Annotated[
        float | None, typer.Option(min=1e-3, help="Tokens/s of one replica, where you know it.")
    ] = None,
    student_rate: Annotated[
        float | None, typer.Option(min=1e-3, help="Tokens/s of one rank, where you know it.")
    ] = None,
    write_rate: Annotated[
        float | None,
        typer.Option(min=1e-3, help="Tokens/s that one replica writes, where you know it."),
    ] = None,
    teacher_mfu: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Assumed share of the GPU's speed; default 0.35."),
    ] = None,
    student_mfu: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="The same for the student; default 0.3.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Reckon what a job needs, before anything starts. Ends with 2 where it does not fit."""
    with errors(debug):
        from raykd.config.load import load_job

        job = load_job(job_file, overrides)
        from dataclasses import replace

        from raykd.clusters.read import read_hardware
        from raykd.planning.accelerators import read_accelerators
        from raykd.planning.model_files import read_models
        from raykd.planning.plan_table import show
        from raykd.planning.planner import Asked, make_plan

        known = read_accelerators(accelerators)
        _require_known(accelerator, list(known))
        _require_writing(job, {"--prompts": prompts, "--write-rate": write_rate})
        rates = _rates(job, probe, (teacher_rate, student_rate), (teacher_mfu, student_mfu))
        found = make_plan(
            job,
            Asked(
                models=read_models(job, teacher_config, student_config),
                hardware=None if cluster is None else read_hardware(cluster, prices),
                accelerators=known,
                rates=replace(rates, write_tokens_per_s=write_rate),
                accelerator=accelerator,
                rows=rows,
                prompts=prompts,
            ),
        )
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=2))
        else:
            console = console_for_tables()
            show(found, console.print, lambda line: say(console, line))
        if not found.fits:
            raise typer.Exit(2)


def _require_known(accelerator: str | None, known: list[str]) -> None:
    from raykd.errors import JobError

    if accelerator is not None and accelerator not in known:
        raise JobError(
            f"--accelerator {accelerator}: not in the table, which has {', '.join(known)}; add it "
            "with --accelerators FILE"
        )


def _require_writing(job: Job, given: dict[str, float | None]) -> None:
    from raykd.errors import JobError

    idle = [name for name, value in given.items() if value is not None]
    if job.generation is None and idle:
        raise JobError(f"{idle[0]}: the job has no `generation`: nothing is written; leave it out")
    if job.teacher.endpoint is not None and given["--write-rate"] is not None:
        raise JobError("--write-rate: an endpoint writes, no replica; leave it out")


def _rates(
    job: Job,
    probe: Path | None,
    tokens_per_s: tuple[float | None, float | None],
    mfu: tuple[float | None, float | None],
) -> Rates:
    """What the person says goes before what a probe found."""
    from dataclasses import replace

    from raykd.planning.speed import STUDENT_MFU, TEACHER_MFU, Rates, probe_file, read_probe_rates

    file = probe or probe_file(job)
    rates = Rates() if file is None else read_probe_rates(file)
    teacher, student = tokens_per_s
    if teacher is not None or student is not None:
        said = "the command line"
        rates = replace(
            rates,
            teacher_tokens_per_s=teacher or rates.teacher_tokens_per_s,
            student_tokens_per_s=student or rates.student_tokens_per_s,
            source=said if rates.source is None else f"{rates.source}, {said}",
        )
    return replace(rates, teacher_mfu=mfu[0] or TEACHER_MFU, student_mfu=mfu[1] or STUDENT_MFU)
