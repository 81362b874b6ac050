"""Trackers: TensorBoard, MLflow and W&B, each imported only when a job asks for it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from raykd.config.train import MlflowConfig, TrackingConfig, WandbConfig
from raykd.errors import JobError
from raykd.telemetry.metrics import StepMetrics

_MLFLOW_TAG = "raykd.run_id"
_MLFLOW_PARAM_CHARACTERS = 500
_NOT_PLOTTED = frozenset({"step", "time", "heldout", "inner"})


class Tracker(Protocol):
    """A place outside the run directory that gets every step."""

    @property
    def name(self) -> str:
        """Its name, for messages."""

    def log(self, metrics: StepMetrics) -> None:
        """Send one step."""

    def close(self) -> None:
        """Send what is held back, and mark the run as finished."""


class TensorBoardTracker:
    """Events for TensorBoard.

    Args:
        directory: Where the event files go.
        resume_step: Events past it are purged.
    """

    name = "TensorBoard"

    def __init__(self, directory: Path, resume_step: int) -> None:
        module = _load("torch.utils.tensorboard", "tracking.tensorboard")
        purge_step = resume_step + 1 if resume_step else None
        self._writer = module.SummaryWriter(log_dir=str(directory), purge_step=purge_step)

    def log(self, metrics: StepMetrics) -> None:
        """Write one event for each number of the step."""
        for key, value in _scalars(metrics):
            self._writer.add_scalar(key, value, metrics.step, walltime=metrics.time)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class MlflowTracker:
    """A run of an MLflow experiment, found again by its tag when the training resumes.

    Args:
        config: Server and experiment.
        run_name: The run's name.
        run_id: What the tag says: the same for every start of the same run directory.
        job_tree: The resolved job, kept as parameters.
    """

    name = "MLflow"

    def __init__(
        self, config: MlflowConfig, run_name: str, run_id: str, job_tree: dict[str, Any]
    ) -> None:
        self._mlflow = _load("mlflow", "tracking.mlflow")
        self._client = self._mlflow.MlflowClient(tracking_uri=config.tracking_uri)
        experiment = self._client.get_experiment_by_name(config.experiment)
        experiment_id: str = (
            experiment.experiment_id
            if experiment is not None
            else self._client.create_experiment(config.experiment)
        )
        self._run_id = self._find(experiment_id, run_id) or self._create(
            experiment_id, run_name, run_id, job_tree
        )

    def log(self, metrics: StepMetrics) -> None:
        """Send the step as one batch."""
        milliseconds = int(metrics.time * 1000)
        batch = [
            self._mlflow.entities.Metric(key, value, milliseconds, metrics.step)
            for key, value in _scalars(metrics)
        ]
        self._client.log_batch(self._run_id, metrics=batch)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)

    def _find(self, experiment_id: str, run_id: str) -> str | None:
        found = self._client.search_runs(
            experiment_ids=[experiment_id],
            filter_string=f"tags.`{_MLFLOW_TAG}` = '{run_id}'",
            max_results=1,
        )
        if not found:
            return None
        known: str = found[0].info.run_id
        self._client.update_run(known, status="RUNNING")
        return known

    def _create(
        self, experiment_id: str, run_name: str, run_id: str, job_tree: dict[str, Any]
    ) -> str:
        run = self._client.create_run(experiment_id, run_name=run_name, tags={_MLFLOW_TAG: run_id})
        created: str = run.info.run_id
        for key, value in _leaves(job_tree):
            self._client.log_param(created, key, str(value)[:_MLFLOW_PARAM_CHARACTERS])
        return created


class WandbTracker:
    """A W&B run, gone on with under its stable id when the training resumes.

    Steps are an ordinary metric: W&B would drop those that a resumed run sends again under its own
    counter.

    Args:
        config: Project and mode.
        run_name: The run's name.
        run_id: The same for every start of the same run directory.
        directory: Where W&B keeps its files.
        job_tree: The resolved job, kept as the run's configuration.
    """

    name = "W&B"

    def __init__(
        self,
        config: WandbConfig,
        run_name: str,
        run_id: str,
        directory: Path,
        job_tree: dict[str, Any],
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._run = _load("wandb", "tracking.wandb").init(
            project=config.project,
            mode=config.mode,
            name=run_name,
            id=run_id,
            resume="allow",
            dir=str(directory),
            config=job_tree,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: StepMetrics) -> None:
        """Send the step."""
        self._run.log({"step": metrics.step, **dict(_scalars(metrics))})

    def close(self) -> None:
        """Send what is held back, and finish the run."""
        self._run.finish()


def open_trackers(
    config: TrackingConfig,
    run_name: str,
    log_dir: Path,
    job_tree: dict[str, Any],
    *,
    resume_step: int = 0,
) -> list[Tracker]:
    """Open the trackers that a job asks for.

    Args:
        config: The job's `tracking` section.
        run_name: The run's name.
        log_dir: The run's `logs` directory.
        job_tree: The resolved job as plain values; its `storage_path` tells runs of one name apart.
        resume_step: The checkpoint's step that the run goes on from; 0 for a new run.

    Raises:
        JobError: A package is missing, or a tracker cannot be reached.
    """
    run_id = _run_id(run_name, str(job_tree.get("storage_path", "")))
    opened: list[Tracker] = []
    try:
        if config.tensorboard:
            opened.append(TensorBoardTracker(log_dir / "tensorboard", resume_step))
        if (mlflow := config.mlflow) is not None:
            opened.append(
                _reach("mlflow", lambda: MlflowTracker(mlflow, run_name, run_id, job_tree))
            )
        if (wandb := config.wandb) is not None:
            opened.append(
                _reach("wandb", lambda: WandbTracker(wandb, run_name, run_id, log_dir, job_tree))
            )
    except JobError:
        close_trackers(opened, lambda _: None)
        raise
    return opened


def log_step(
    trackers: Sequence[Tracker], metrics: StepMetrics, note: Callable[[str], None]
) -> list[Tracker]:
    """Send one step to all trackers; one that fails is named, and left out from then on.

    Args:
        trackers: Those still in use.
        metrics: The step.
        note: Tells a person; called once for a tracker that fails.

    Returns:
        The trackers to use for the next step. `metrics.jsonl` has every step in any case.
    """
    alive: list[Tracker] = []
    for tracker in trackers:
        try:
            tracker.log(metrics)
            alive.append(tracker)
        except Exception as error:  # a tracker's server must not end a training run
            note(
                f"{tracker.name} failed at step {metrics.step} and gets no more steps: {error}; "
                "metrics.jsonl has them all"
            )
    return alive


def close_trackers(trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
    """Close all; one that fails is named."""
    for tracker in trackers:
        try:
            tracker.close()
        except Exception as error:  # as above
            note(f"{tracker.name} could not be closed: {error}")


def _load(module: str, field: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise JobError(
            f"{field}: the package is not installed ({error}); run "
            "`pip install 'raykd[trackers]'`, or remove the field from the job"
        ) from None


def _reach(section: str, build: Callable[[], Tracker]) -> Tracker:
    try:
        return build()
    except JobError:
        raise
    except Exception as error:  # each tracker has its own error tree
        raise JobError(
            f"tracking.{section}: cannot be opened: {error}; check its address and the "
            "credentials in the environment, or remove the field from the job"
        ) from error


def _run_id(run_name: str, storage_path: str) -> str:
    return hashlib.sha256(f"{storage_path}\n{run_name}".encode()).hexdigest()[:16]


def _scalars(metrics: StepMetrics) -> Iterator[tuple[str, float]]:
    for key, value in asdict(metrics).items():
        if key not in _NOT_PLOTTED and value is not None:
            yield f"train/{key}", value
    if metrics.heldout is not None:
        for key, value in asdict(metrics.heldout).items():
            yield f"heldout/{key}", value
    if metrics.inner is not None:
        for key, value in asdict(metrics.inner).items():
            if value is not None:
                yield f"inner/{key}", value


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
