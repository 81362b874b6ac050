"""The Ray cluster: attach to one or start one, ask what it has, run a stage on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import ResourceError

QUIET = {
    # Ray Train's and Ray Data's own chatter goes to Ray's log files, not to the person.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # raykd's loaders and replicas reserve little and are few; the warning says otherwise.
    "RAY_worker_maximum_startup_concurrency": "8",
}
LOCAL = {
    # A Ray of one's own shares its few cores with teacher and student. These loops wake ten times
    # a second by default; together they cost a tenth of a core (benchmarks/overhead.py).
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    "RAY_metrics_report_interval_ms": "30000",
    "RAY_task_events_report_interval_ms": "5000",
}
NODE_ANSWER_S = 180
"""A node that has just come up, or is busy, starts its first process in a minute or more."""
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # On CPUs teacher and student share cores: a thread that waits must not keep one busy.
    "OMP_WAIT_POLICY": "PASSIVE",
}


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Attach to the cluster at `address` or RAY_ADDRESS; else start Ray here and stop it after.

    Raises:
        ResourceError: No cluster answers there.
    """
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in (QUIET | (LOCAL if target == "local" else {})).items():
        os.environ.setdefault(name, value)
    if target.startswith("ray://"):
        raise ResourceError(
            f"{target}: Ray Client is too slow for this; submit the job to the cluster instead: "
            "ray job submit --address http://HEAD:8265 -- python -m raykd run JOB"
        )
    try:
        ray.init(
            address=target,
            include_dashboard=False if target == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster at {target}: {str(error).strip().splitlines()[0]}; start one with "
            "`ray start --head`, or leave --address and RAY_ADDRESS out to run on this machine"
        ) from None
    for name in ("ray", "ray.serve", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def totals() -> dict[str, float]:
    """What the cluster has in all."""
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def free() -> dict[str, float]:
    """What nobody holds now."""
    resources: dict[str, float] = ray.available_resources()
    return resources


def works_in_copy() -> bool:
    """Whether this driver is a submitted job, working in Ray's copy of its directory."""
    return bool(ray.get_runtime_context().runtime_env.get("working_dir"))


def nodes() -> list[dict[str, Any]]:
    """The nodes that are up."""
    return [node for node in ray.nodes() if node["Alive"]]


def object_stores() -> list[float]:
    """Bytes of each node's object store."""
    found = [node["Resources"].get("object_store_memory") for node in nodes()]
    return [float(size) for size in found if size]


def run_remote(
    function: Callable[..., Any], *arguments: Any, cpus: float = 1.0, gpus: float = 0.0
) -> Any:
    """Run a function as a task and wait; raykd's own errors come through as they are."""
    return wait_for(start_remote(function, *arguments, cpus=cpus, gpus=gpus))


def start_remote(
    function: Callable[..., Any], *arguments: Any, cpus: float = 1.0, gpus: float = 0.0
) -> Any:
    """Start a function as a task; never retried, the caller decides."""
    return (
        ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=0).remote(*arguments)
    )


def wait_for(reference: Any) -> Any:
    """The task's result; raykd's own errors come through as they are."""
    from raykd.errors import RaykdError, RunError

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaykdError):
            raise cause from None
        text = str(cause).strip().splitlines()
        raise RunError(f"{type(cause).__name__}: {text[-1] if text else 'no message'}") from error
    except ray.exceptions.RayError as error:
        raise RunError(f"a worker process failed: {str(error).strip().splitlines()[0]}") from error


def on_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function once on each node; node name to result, or to the exception it raised.

    A node that does not answer within `NODE_ANSWER_S` counts as one that raised.
    """
    answers: dict[str, Any] = {}
    started = {
        node["NodeManagerAddress"] + "/" + node["NodeID"][:8]: ray.remote(function)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(*arguments)
        for node in nodes()
    }
    for name, reference in started.items():
        try:
            answers[name] = ray.get(reference, timeout=NODE_ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            answers[name] = ResourceError(f"no answer within {NODE_ANSWER_S} s")
        except ray.exceptions.RayError as error:
            answers[name] = error
    return answers
