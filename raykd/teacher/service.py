"""The teacher as a Ray Serve deployment: started, waited for, watched, taken down.

Serve starts replicas, watches their health and replaces the dead; where the job gives a range, its
autoscaler follows the requests that are on their way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.config.reservations import REPLICA_CPUS
from raykd.config.teacher import TeacherConfig
from raykd.errors import CapacityError, TeacherError
from raykd.teacher.client import Patience, Scorer, TeacherClient, forget_handle
from raykd.teacher.replica import EngineClass, ReplicaSpec, TeacherReplica
from raykd.teacher.status import DEPLOYMENT, replica_counts
from raykd.teacher.tally import Tally
from raykd.telemetry.replicas import ReplicaSample

__all__ = ["EngineClass", "ReplicaSpec", "Scorer", "TeacherClient", "TeacherService", "Window"]

ONGOING_REQUESTS = 4
"""Requests a replica may hold: one at work, and room for more than its share of those in flight.
One that finds no room waits in Serve's router, which looks again after pauses of up to 0.5 s."""
LOOK_BACK_S = 15.0
"""What Serve's autoscaler averages over; it learns of requests every ten seconds."""
JOIN_S = 10
"""Serve's own wait for an app looks for it every second, and ends once it is gone."""
TALLY_ANSWER_S = 5.0


@dataclass(frozen=True)
class Window:
    """How many requests may be on their way, and how many replicas that asks for."""

    requests: int
    target_a_replica: float
    """Replicas are added while each has more than this many requests."""


class Nodes(Protocol):
    """Nodes that replicas wait for, on a cluster that scales itself."""

    @property
    def limit_s(self) -> float:
        """How long replicas may wait for nodes."""

    @property
    def go_on_smaller(self) -> bool:
        """Whether fewer replicas will do after that."""

    @property
    def note(self) -> Callable[[str], None]:
        """Tells the person."""

    def waiting(self) -> int:
        """How many replicas wait for a node now."""

    def overdue(self) -> str | None:
        """What is told of them once they have waited for too long; None before."""


class TeacherService:
    """Deploys the teacher, waits until it answers, takes it down again.

    Args:
        name: Of the Serve app.
        config: The job's `teacher`.
        spec: What a replica needs.
        window: Requests on their way.
        nodes: None where the cluster has all nodes that it will have.
    """

    def __init__(
        self,
        name: str,
        config: TeacherConfig,
        spec: ReplicaSpec,
        window: Window,
        nodes: Nodes | None = None,
    ) -> None:
        self._app = name
        self._nodes = nodes
        self._config = config
        self._spec = spec
        self._window = window
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._tally: Any = None

    def start(self) -> None:
        """Begin; `wait` says when it is ready."""
        serve.start(proxy_location="Disabled")
        bundles = self._spec.bundles
        labels = self._config.labels
        options: dict[str, Any] = {"placement_group_bundles": bundles, **self._scale()}
        if labels:
            options["placement_group_bundle_label_selector"] = [labels] * len(bundles)
        deployment = serve.deployment(
            name=DEPLOYMENT,
            max_ongoing_requests=ONGOING_REQUESTS,
            health_check_period_s=5,
            health_check_timeout_s=30,
            ray_actor_options={"num_cpus": REPLICA_CPUS},
            placement_group_strategy=self._spec.strategy,
            **options,
        )(TeacherReplica)
        app = deployment.bind(self._spec, self._config.request_timeout_s)
        self._tally = _start_tally()
        self._thread = threading.Thread(target=self._deploy, args=(app,), daemon=True)
        self._thread.start()

    def _scale(self) -> dict[str, Any]:
        """A fixed number of replicas, or the range that Serve's autoscaler moves in."""
        elastic = self._config.elastic
        if elastic is None:
            return {"num_replicas": self._config.first_replicas}
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=self._config.min_replicas,
                max_replicas=self._config.max_replicas,
                initial_replicas=self._config.first_replicas,
                target_ongoing_requests=self._window.target_a_replica,
                upscale_delay_s=elastic.upscale_delay_s,
                downscale_delay_s=elastic.downscale_delay_s,
                look_back_period_s=LOOK_BACK_S,
            )
        }

    def _deploy(self, app: Any) -> None:
        try:
            serve.run(app, name=self._app, route_prefix=None)
        except Exception as error:
            self._failure = error

    def wait(self) -> TeacherClient:
        """Block until every replica that the run begins with is ready, or as many as will do.

        Raises:
            TeacherError: It did not start, or not in time; says what Serve says.
            CapacityError: Its nodes did not come, and fewer replicas will not do.
        """
        assert self._thread is not None, "start() comes first"
        deadline = time.monotonic() + self._start_limit_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(timeout=0.5)
            self._stop_on_failure()
            if self._thread.is_alive() and self._goes_on_smaller():
                break
        else:
            if self._failure is not None or self._thread.is_alive():
                raise TeacherError(self._why())
        return TeacherClient(self._app, self._patience(), self._tally)

    @property
    def _start_limit_s(self) -> float:
        """Nodes come first, then replicas start on them."""
        return self._config.start_timeout_s + (self._nodes.limit_s if self._nodes else 0.0)

    def _goes_on_smaller(self) -> bool:
        """Whether the replicas that are there have to do, since the others' nodes do not come."""
        reason = self._nodes.overdue() if self._nodes else None
        if self._nodes is None or reason is None:
            return False
        wanted = self._config.first_replicas
        if not self._nodes.go_on_smaller or self._nodes.waiting() >= wanted:
            raise CapacityError(reason)
        counts = replica_counts(self._app)
        if counts is None or not counts.running:
            return False  # it has its node, and loads
        self._nodes.note(
            f"going on with {counts.running} of {wanted} teacher replicas (capacity.then: "
            f"smaller); the others join when their nodes come. {reason}"
        )
        return True

    def _patience(self) -> Patience:
        """A request's turn comes after at most all others that are on their way."""
        config = self._config
        turns_s = (self._window.requests + 1) * config.request_timeout_s
        return Patience(
            start_timeout_s=self._start_limit_s,
            longest_try_s=self._start_limit_s + turns_s,
            max_retries=config.max_retries,
        )

    def look(self) -> ReplicaSample | None:
        """Replicas and queue now; None where Serve does not say."""
        counts = replica_counts(self._app)
        try:
            in_flight: int = ray.get(self._tally.total.remote(), timeout=TALLY_ANSWER_S)
        except ray.exceptions.RayError:
            return None
        if counts is None:
            return None
        return ReplicaSample(
            time=time.time(),
            running=counts.running,
            wanted=counts.running + counts.starting,
            most=self._config.max_replicas,
            queued=max(0, in_flight - counts.running),
        )

    def _stop_on_failure(self) -> None:
        """A constructor that raised is tried again by Serve for a long time; once is enough."""
        app = serve.status().applications.get(self._app)
        for deployment in app.deployments.values() if app else ():
            if deployment.status == "DEPLOY_FAILED" or "Traceback" in (deployment.message or ""):
                raise TeacherError(self._why())

    def _why(self) -> str:
        app = serve.status().applications.get(self._app)
        messages = [d.message for d in app.deployments.values() if d.message] if app else []
        said = messages[0] if messages else str(self._failure or "no message from Ray Serve")
        lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
        useful = [line for line in lines if "Error" in line] or lines
        return (
            f"the teacher did not start (teacher.start_timeout_s: "
            f"{self._config.start_timeout_s:g}): {useful[-1] if useful else said}"
        )

    def stop(self) -> None:
        """Take the teacher down and free its resources."""
        forget_handle(self._app)
        serve.delete(self._app)
        if self._tally is not None:
            ray.kill(self._tally)
        if self._thread is not None:
            # Left behind it would ask after the app once Ray is shut down, and so start another.
            self._thread.join(timeout=JOIN_S)
        # Serve itself stays: others may use it, and Ray tells of its end as of a failure.


def _start_tally() -> Any:
    """On the driver's own node, which is there as long as the run is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Tally)
    return actor.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
