"""Task metrics by `lm-eval` (EleutherAI's evaluation harness), where a person asks for them."""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raykd.errors import JobError
from raykd.evaluation.inspection_data import TaskMetric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raykd.evaluation.gates import Gate


@dataclass(frozen=True)
class Harness:
    """Which tasks are run.

    Attributes:
        tasks: Their names.
        directory: Of tasks beside those that the package carries; None is none.
        limit: Documents of each task; None is all.
    """

    tasks: tuple[str, ...]
    directory: str | None = None
    limit: int | None = None


def require_package() -> None:
    """Stop where the package is not there.

    Raises:
        JobError: It is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise JobError(
            "--lm-eval: the package is not installed; `pip install lm-eval` on all nodes"
        )


def require_tasks(harness: Harness) -> None:
    """Stop where a task is not known; datasets are not looked at.

    Raises:
        JobError: The package or a task is missing.
    """
    require_package()
    known = _manager(harness).all_tasks
    for task in harness.tasks:
        if task not in known:
            close = difflib.get_close_matches(task, known, n=3)
            hint = f"; near to it: {', '.join(close)}" if close else ""
            raise JobError(
                f"--lm-eval {task}: no such task{hint}. `lm_eval ls tasks` lists them; tasks of "
                "your own lie in --lm-eval-tasks DIRECTORY"
            )


def run_tasks(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, harness: Harness, batch: int
) -> dict[tuple[str, str], float]:
    """Run a model over all tasks.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its own.
        harness: Which tasks.
        batch: Requests at once.

    Returns:
        By (task, metric); without standard errors, and without what is no number.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    device = str(next(model.parameters()).device)
    found: Any = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device=device),
        tasks=list(harness.tasks),
        task_manager=_manager(harness),
        limit=harness.limit,
        bootstrap_iters=0,
        log_samples=False,
    )
    return {
        (task, _metric(name)): float(value)
        for task, values in found["results"].items()
        for name, value in values.items()
        if _is_metric(name, value)
    }


def metrics_of(by_role: Mapping[str, Mapping[tuple[str, str], float]]) -> list[TaskMetric]:
    """A line a metric, from what each model scored."""
    names = dict.fromkeys(name for scores in by_role.values() for name in scores)
    return [
        TaskMetric(
            task=task,
            metric=metric,
            scores={
                role: one[task, metric] for role, one in by_role.items() if (task, metric) in one
            },
        )
        for task, metric in names
    ]


def require_known(gates: Sequence[Gate], harness: Harness | None) -> None:
    """Stop where a limit is for a task that is not run.

    Raises:
        JobError: Names the limit.
    """
    tasks = harness.tasks if harness else ()
    for gate in gates:
        task = gate.key.partition("/")[0]
        if gate.is_of_task and task not in tasks:
            raise JobError(f"{gate.key}: a limit for a task that is not run; add --lm-eval {task}")


def _manager(harness: Harness) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=harness.directory)


def _metric(name: str) -> str:
    """`acc,none` is `acc`; a filter that is not `none` stays: `exact_match,strict-match`."""
    return name.removesuffix(",none")


def _is_metric(name: str, value: object) -> bool:
    if "," not in name or "_stderr" in name or isinstance(value, bool):
        return False
    return isinstance(value, int | float) and not math.isnan(value)
