"""The Ray cluster: attach to one or start one, ask what it has in all, run a stage on it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

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
DEAD = 2
"""Ray's number of the state of a node that is gone."""
STATUS_S = 10
OTHER_VERSION = "Version mismatch: "
"""How Ray begins to say so."""
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # On CPUs teacher and student share cores: a thread that waits must not keep one busy.
    "OMP_WAIT_POLICY": "PASSIVE",
}
NO_NODES_FOR_DATA = {
    # Ray Data asks an autoscaler for more of any node where CPUs or object store are half used,
    # labels or not. raykd's loaders and their limits are fixed: nodes follow replicas and ranks.
    "RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_CPU_UTIL_THRESHOLD": "1e9",
    "RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_GPU_UTIL_THRESHOLD": "1e9",
    "RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_MEMORY_UTIL_THRESHOLD": "1e9",
    "RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_OBJECT_STORE_MEMORY_UTIL_THRESHOLD": "1e9",
}
NOBODY_TO_ASK = {
    # Ray Train asks the dashboard whether its controller lives, and takes the ranks down where it
    # knows of none. One's own Ray has no dashboard, and would ask whoever listens on 8265.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1",
}
LOOK_EVERY_S = 1.0
"""How often a wait for a task looks whether it should go on."""

_looks: list[Callable[[], None]] = []
_waits: list[float] = []


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Attach to the cluster at `address` or RAY_ADDRESS; else start Ray here and stop it after.

    Raises:
        ResourceError: No cluster answers there.
    """
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in (QUIET | NO_NODES_FOR_DATA | (LOCAL if target == "local" else {})).items():
        os.environ.setdefault(name, value)
    if target.startswith("ray://"):
        raise ResourceError(
            f"{target}: Ray Client is too slow for this; submit the job to the cluster instead: "
            "ray job submit --address http://HEAD:8265 -- python -m raykd run JOB"
        )
    workers = WORKER_ENVIRONMENT | NO_NODES_FOR_DATA
    try:
        with _in_environment(workers | NOBODY_TO_ASK if target == "local" else {}):
            ray.init(
                address=target,
                include_dashboard=False if target == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Workers of one's own Ray inherit it; a runtime_env starts each of them twice.
                runtime_env=None if target == "local" else {"env_vars": workers},
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster at {target}: {str(error).strip().splitlines()[0]}; start one with "
            "`ray start --head`, or leave --address and RAY_ADDRESS out to run on this machine"
            if OTHER_VERSION not in str(error)
            else _other_version(target, str(error))
        ) from None
    for name in ("ray", "ray.serve", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _other_version(target: str, said: str) -> str:
    """Ray's own words in one line, and what to do."""
    parts = [line.strip() for line in said.split(OTHER_VERSION, 1)[1].splitlines()]
    told = " ".join(part for part in parts if part)
    return (
        f"the cluster at {target} has another Ray or Python than this process: {told}; run "
        "raykd with the cluster's versions, or inside its image: `raykd submit`"
    )


def totals() -> dict[str, float]:
    """What the cluster has in all."""
    resources: dict[str, float] = ray.cluster_resources()
    return resources


def free() -> dict[str, float]:
    """What nobody holds now."""
    resources: dict[str, float] = ray.available_resources()
    return resources


def free_nodes() -> list[tuple[dict[str, float], dict[str, str]]]:
    """Of each node that is up: what nobody holds there now, and its labels."""
    return [
        (dict(state.available_resources), dict(state.labels))
        for state in status().cluster_resource_state.node_states
        if state.status != DEAD
    ]


def works_in_copy() -> bool:
    """Whether this driver is a submitted job, working in Ray's copy of its directory."""
    return bool(ray.get_runtime_context().runtime_env.get("working_dir"))


def gcs_address() -> str:
    """Where the cluster's own store of facts listens."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def status() -> Any:
    """What the cluster and its autoscaler say now: demands, launches, nodes (a protobuf).

    Raises:
        ResourceError: The cluster does not answer.
    """
    # Made by compilers, both have no types.
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    try:
        answer = GcsClient(gcs_address()).get_cluster_status(timeout_s=STATUS_S)
    except Exception as error:
        raise ResourceError(f"the cluster does not say how it is: {error}") from None
    words: Any = autoscaler_pb2
    return words.GetClusterStatusReply.FromString(answer)


def node_types() -> dict[str, str]:
    """Node id to the name of its type in the autoscaler's configuration, where it has one."""
    states = status().cluster_resource_state.node_states
    return {
        state.node_id.hex(): state.ray_node_type_name
        for state in states
        if state.ray_node_type_name
    }


@contextmanager
def while_waiting(look: Callable[[], None]) -> Iterator[None]:
    """Have every wait for a task call `look` each second; what it raises ends the wait."""
    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


def run_remote(
    function: Callable[..., Any],
    *arguments: Any,
    cpus: float = 1.0,
    gpus: float = 0.0,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Run a function as a task and wait; raykd's own errors come through as they are."""
    return wait_for(start_remote(function, *arguments, cpus=cpus, gpus=gpus, labels=labels))


def start_remote(
    function: Callable[..., Any],
    *arguments: Any,
    cpus: float = 1.0,
    gpus: float = 0.0,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Start a function as a task; never retried, the caller decides.

    Args:
        function: What to run.
        arguments: Its arguments.
        cpus: CPUs that it reserves.
        gpus: GPUs that it reserves.
        labels: Node labels that its node must carry; None is any node.
    """
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
    if labels:
        options["label_selector"] = dict(labels)
    # A worker that held a GPU ends with its task: what torch keeps of it would be no one else's.
    task = ray.remote(max_calls=1)(function) if gpus else ray.remote(function)
    return task.options(**options).remote(*arguments)


def wait_for(reference: Any) -> Any:
    """The task's result; raykd's own errors come through as they are."""
    from raykd.errors import RaykdError, RunError

    try:
        _wait_and_look(reference)
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RaykdError):
            raise cause from None
        text = str(cause).strip().splitlines()
        raise RunError(f"{type(cause).__name__}: {text[-1] if text else 'no message'}") from error
    except ray.exceptions.RayError as error:
        raise RunError(f"a worker process failed: {str(error).strip().splitlines()[0]}") from error


def _wait_and_look(reference: Any) -> None:
    """Wait for a task; if a look says that the wait is over, the task is taken back."""
    _waits.append(time.monotonic())
    try:
        while _looks:
            done, _ = ray.wait([reference], timeout=LOOK_EVERY_S, fetch_local=False)
            if done:
                return
            for look in tuple(_looks):
                look()
    except BaseException:
        ray.cancel(reference)
        raise
    finally:
        _waits.pop()


def waited_s() -> float:
    """How long the task that is waited for now has been; 0 where none is."""
    return time.monotonic() - _waits[-1] if _waits else 0.0
