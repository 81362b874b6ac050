"""The student group on Ray Train: the only file that knows Train."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from raykd.config.job import Job
from raykd.config.load import dump_job
from raykd.errors import CapacityError
from raykd.models.heap import keep_freed_memory
from raykd.student import failures, loop
from raykd.student.checkpoint import latest
from raykd.student.notice import Notices, Termination
from raykd.student.student_run import StudentClass as StudentClass
from raykd.student.student_run import StudentRun, agreed, note_inexact
from raykd.telemetry.metrics_file import MetricsWriter
from raykd.telemetry.trackers import close_trackers, open_trackers

TERMINATION = Termination()
"""Of this process; it stands here so that Train's main thread and the rank's find the same."""
NO_ROOM = "worker group startup timed out"
"""What Train says of ranks whose placement group found no room in time; its error is wrapped."""


def train(
    run: StudentRun,
    stream: Callable[[], Any],
    data_config: ray.train.DataConfig,
    nodes_wait_s: float | None = None,
) -> int:
    """Run the student group to the end of the job, or to a stop.

    Args:
        run: What the ranks need.
        stream: Makes the dataset from the newest checkpoint's row on; called at every (re)start of
            the group.
        data_config: Deals the dataset to the ranks.
        nodes_wait_s: How long ranks and replicas may wait for nodes; None where no nodes come.

    Returns:
        Steps done.

    Raises:
        CapacityError: The ranks got no room in time.
        RaykdError: What a rank raised, by its own name.
        RunError: The group failed in another way.
    """
    student = run.job.student
    failures.forget(run.logs)
    start_s = student.start_timeout_s if nodes_wait_s is None else nodes_wait_s
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(start_s)
    on_gpu = student.device == "gpu"
    train_v2: Any = ray.train  # its names are typed as those of the version before
    trainer = TorchTrainer(
        _rank_main,
        train_loop_config={"run": run},
        torch_config=ListeningConfig(
            backend="nccl" if on_gpu else "gloo",
            timeout_s=_group_timeout_s(run.job, nodes_wait_s or 0.0),
        ),
        scaling_config=train_v2.ScalingConfig(
            num_workers=student.num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": student.cpus_per_worker, **({"GPU": 1} if on_gpu else {})},
            label_selector=student.labels or None,
        ),
        run_config=train_v2.RunConfig(
            # Train's own bookkeeping; every start is a new one, checkpoints are raykd's.
            name=f"{int(time.time() * 1000)}",
            storage_path=str(Path(run.directory).resolve() / "logs" / "ray_train"),
            failure_config=train_v2.FailureConfig(
                max_failures=run.job.checkpoint.max_failures,
                # A rank that dies while the group starts counts as the controller's failure.
                controller_failure_limit=run.job.checkpoint.max_failures,
            ),
        ),
        datasets={"train": stream},
        dataset_config=data_config,
    )
    try:
        trainer.fit()
    except Exception as error:
        if NO_ROOM in str(error):
            raise CapacityError(
                f"{student.num_workers} student ranks got no room within {start_s:g} s"
            ) from error
        raise failures.told(run.logs, error) from error
    found = latest(run.checkpoints)
    return found.mark.step if found else 0


class _ListeningBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ranks run in a thread; a signal's handler has to be set in the main one, where Ray's is."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen)


class ListeningConfig(TorchConfig):
    """torch's process group, and ranks that take SIGTERM as a notice."""

    @property
    def backend_cls(self) -> Any:
        """What Train sets the workers up with."""
        return _ListeningBackend


def _listen() -> None:
    TERMINATION.listen()


def _preempted() -> tuple[str, ...] | None:
    """Nodes of this group that will be taken away."""
    found = ray.train.get_preemption_info()
    return None if found is None else tuple(found.preempted_node_ids)


def _group_timeout_s(job: Job, nodes_wait_s: float) -> int:
    """Longer than a request to the teacher can take with all its retries, and nodes to come."""
    teacher = job.teacher
    request_s = (teacher.max_retries + 1) * (teacher.request_timeout_s + 30)
    return int(600 + 1.5 * (teacher.start_timeout_s + nodes_wait_s + request_s))


def _rank_main(config: dict[str, Any]) -> None:
    run: StudentRun = config["run"]
    rank = ray.train.get_context().get_world_rank()
    # A restart would meet the same rows, the same loss: end at once instead.
    if (before := failures.fatal(run.logs)) is not None:
        raise before
    failures.forget(run.logs, rank)
    try:
        _run_rank(run)
    except Exception as error:
        failures.keep(run.logs, rank, error)
        raise


def _run_rank(run: StudentRun) -> None:
    context = ray.train.get_context()
    rank, num_ranks = context.get_world_rank(), context.get_world_size()
    _set_up_process(run.job)
    found = agreed(run, rank)
    first_step = found.mark.step if found else 0
    # The first rows are scored while the student is being built.
    rows = Ahead(_rows(run.job, num_ranks))
    student = run.student_class(run.student)
    if found:
        if rank == 0:
            note_inexact(run, found, num_ranks)
        student.load(found.directory)
    layout = run.layout_from(first_step)
    records = _records(run, first_step) if rank == 0 else None
    try:
        loop.run(
            run.job,
            loop.Rank(rank, num_ranks, _barrier, Notices(TERMINATION, _preempted)),
            student,
            rows,
            loop.Stretch(first_step, run.student.num_steps, run.rows_an_epoch, layout.rank_places),
            run.checkpoints,
            run.stop_file,
            _read_heldout(run.heldout_file),
            records,
        )
    finally:
        if records:
            records.metrics.close()
            close_trackers(records.trackers, records.note)


def _set_up_process(job: Job) -> None:
    """Before DeepSpeed is imported: which accelerator, how many threads, what the heap keeps."""
    if job.student.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        keep_freed_memory()
        import torch

        torch.set_num_threads(job.student.threads)


def _rows(job: Job, num_ranks: int) -> Iterator[pa.Table]:
    shard = ray.train.get_dataset_shard("train")
    batches: Iterator[pa.Table] = iter(
        shard.iter_batches(
            batch_size=job.train.global_batch // num_ranks,
            batch_format="pyarrow",
            prefetch_batches=2,
            drop_last=False,
        )
    )
    return batches


class Ahead:
    """An iterator that fetches its next item while the present one is worked on."""

    def __init__(self, items: Iterator[pa.Table]) -> None:
        self._items = items
        self._fetcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows")
        self._next: Future[pa.Table | None] = self._fetcher.submit(next, items, None)

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> pa.Table:
        item = self._next.result()
        if item is None:
            raise StopIteration
        self._next = self._fetcher.submit(next, self._items, None)
        return item


def _barrier() -> None:
    import torch.distributed as dist

    dist.barrier()


def _records(run: StudentRun, first_step: int) -> loop.Records:
    import yaml

    tree = yaml.safe_load(dump_job(run.job))
    return loop.Records(
        MetricsWriter(Path(run.directory) / "metrics.jsonl", first_step),
        open_trackers(run.job.tracking, run.job.name, run.logs, tree, resume_step=first_step),
        run.note,
    )


def _read_heldout(file: str | None) -> pa.Table | None:
    if file is None:
        return None
    with pa.memory_map(file) as source:
        return pa.ipc.open_file(source).read_all()
