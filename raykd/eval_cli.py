"""`raykd eval`: measure a run's student on the text that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd.command import Address, Debug, RunDir, errors, say
from raykd.errors import JobError

if TYPE_CHECKING:
    from raykd.evaluation.harness import Harness
    from raykd.pipeline.later import Evaluation

Data = Annotated[Path, typer.Option(help="Text to measure on; read like the job's corpus.")]
Name = Annotated[str | None, typer.Option(help="Name of the measurement; default: the file's.")]
Form = Annotated[str, typer.Option("--format", help="Its format, where the ending does not tell.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KEY=NAME",
        help="A column that is named otherwise than in the job's corpus: text=body.",
    ),
]
Slices = Annotated[
    list[str] | None,
    typer.Option("--slice", metavar="COLUMN", help="Also a table by this column's values."),
]
MaxRows = Annotated[
    int | None,
    typer.Option(min=1, help="Rows that the models run on; default: evaluation.max_rows."),
]
Batch = Annotated[int, typer.Option(min=1, help="Models are timed at batch 1 and at this one.")]
Costs = Annotated[
    bool, typer.Option("--costs/--no-costs", help="Time the models, the teacher too.")
]
Texts = Annotated[
    bool, typer.Option("--texts/--no-texts", help="Show excerpts of the text in the report.")
]
LmEval = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK", help="Also run this task of the package lm-eval."),
]
LmEvalTasks = Annotated[
    Path | None, typer.Option(metavar="DIRECTORY", help="Where tasks of your own lie.")
]
LmEvalLimit = Annotated[
    int | None, typer.Option(min=1, help="Documents of each task; default: all.")
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Exit code 1 where it is less: agreement=0.7."),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Exit code 1 where it is more: kl=0.5."),
]


def evaluate(
    run_dir: RunDir,
    data: Data,
    name: Name = None,
    form: Form = "auto",
    columns: Columns = None,
    slices: Slices = None,
    max_rows: MaxRows = None,
    batch: Batch = 8,
    costs: Costs = True,
    texts: Texts = True,
    lm_eval: LmEval = None,
    lm_eval_tasks: LmEvalTasks = None,
    lm_eval_limit: LmEvalLimit = None,
    fail_under: FailUnder = None,
    fail_over: FailOver = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Measure a run's student, its teacher and the untrained student on other text."""
    with errors(debug):
        from raykd.evaluation.gates import read_gates
        from raykd.evaluation.harness import require_known

        gates = read_gates(fail_under or [], fail_over or [])
        harness = _harness(lm_eval or [], lm_eval_tasks, lm_eval_limit)
        require_known(gates, harness)
        from raykd.pipeline.later import Evaluation

        asked = Evaluation(
            data=data,
            form=form,
            name=name or data.stem,
            columns=columns or [],
            slices=slices or [],
            max_rows=max_rows,
            batch=batch if costs else 0,
            texts=texts,
            gates=gates,
            harness=harness,
        )
        _measure(run_dir, asked, address)


def _harness(tasks: list[str], directory: Path | None, limit: int | None) -> Harness | None:
    """What lm-eval is asked for; None where it is not."""
    from raykd.evaluation.harness import Harness, require_package

    if tasks:
        require_package()
        own = str(directory.expanduser().absolute()) if directory else None
        return Harness(tuple(tasks), own, limit)
    if directory or limit:
        raise JobError("--lm-eval-tasks and --lm-eval-limit go with --lm-eval TASK")
    return None


def _measure(run_dir: Path, asked: Evaluation, address: str | None) -> None:
    """Evaluate, show what was found; what falls short of a limit is an error at the end."""
    from rich.console import Console

    from raykd.evaluation.gates import require_held
    from raykd.evaluation.report import terminal_lines, terminal_table
    from raykd.pipeline import cluster
    from raykd.pipeline.later import evaluate_run
    from raykd.telemetry.progress import Progress

    console = Console()
    with (
        cluster.connect(address),
        Progress(console, run_dir.name) as progress,
    ):
        directory, report = evaluate_run(run_dir, asked, progress)
    console.print(terminal_table(report))
    for line in terminal_lines(report):
        say(console, line)
    say(console, f"report   {directory / 'report.html'}")
    require_held(report.inspections[asked.name].gates)
