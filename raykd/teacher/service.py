"""The teacher as a Ray Serve deployment: the only file that knows Serve.

A replica is one sharded engine: a light actor in the first bundle of a placement group, and one
actor a shard in the others. Serve starts replicas, watches their health and replaces the dead.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raykd import schema
from raykd.config.reservations import REPLICA_CPUS
from raykd.config.teacher import TeacherConfig
from raykd.errors import SoftTargetError, TeacherError
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import Engine, EngineSpec, ShardPlace

ONGOING_REQUESTS = 4
"""Requests a replica may hold: one at work, and room for more than its share of those in flight.
One that finds no room waits in Serve's router, which looks again after pauses of up to 0.5 s."""
DEPLOYMENT = "teacher"
JOIN_S = 10
"""Serve's own wait for an app looks for it every second, and ends once it is gone."""
SHOWN = 8
"""Rows that a message names one by one."""

EngineClass = Callable[[EngineSpec, ShardPlace], Engine]


class Shard:
    """One process of a replica, holding one shard of the model."""

    def find_port(self) -> tuple[str, int]:
        """An address where the replica's shards can meet."""
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def load(self, engine_class: bytes, spec: EngineSpec, place: ShardPlace) -> None:
        """Build the engine; returns when it can score."""
        make: EngineClass = ray.cloudpickle.loads(engine_class)
        self._engine = make(spec, place)

    def describe(self) -> dict[str, object]:
        """What the engine says of its model."""
        return self._engine.describe()

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        """Soft targets from rank 0, None from the others."""
        return self._engine.score(rows, spec)

    def write_head(self, file: Path) -> None:
        """Write the model's head; see `Engine.write_head`."""
        self._engine.write_head(file)

    @ray.method(concurrency_group="health")
    def ping(self) -> None:
        """Answer while a score is running."""


_SHARD: Any = ray.remote(concurrency_groups={"health": 1})(Shard)  # type: ignore[call-overload]


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica needs to start its shards."""

    engine_class: bytes
    """Pickled, so that only the shards import what the engine needs."""
    engine: EngineSpec
    num_shards: int
    cpus_per_shard: float

    @classmethod
    def of(
        cls, engine_class: EngineClass, engine: EngineSpec, num_shards: int, cpus_per_shard: float
    ) -> ReplicaSpec:
        """A replica of shards that run `engine_class`."""
        return cls(ray.cloudpickle.dumps(engine_class), engine, num_shards, cpus_per_shard)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The replica's own bundle, then one a shard."""
        gpu = {"GPU": 1.0} if self.engine.use_gpu else {}
        return [{"CPU": REPLICA_CPUS}] + [{"CPU": self.cpus_per_shard, **gpu}] * self.num_shards


class TeacherReplica:
    """Starts its shards, passes every request to all of them, answers with the first's result."""

    async def __init__(self, spec: ReplicaSpec) -> None:  # type: ignore[misc]
        group: Any = ray.util.get_current_placement_group()
        self._shards = [
            _SHARD.options(
                num_cpus=spec.cpus_per_shard,
                num_gpus=1 if spec.engine.use_gpu else 0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=rank + 1
                ),
            ).remote()
            for rank in range(spec.num_shards)
        ]
        address, port = await self._shards[0].find_port.remote()
        places = [ShardPlace(r, spec.num_shards, address, port) for r in range(spec.num_shards)]
        await asyncio.gather(
            *(
                shard.load.remote(spec.engine_class, spec.engine, place)
                for shard, place in zip(self._shards, places, strict=True)
            )
        )

    async def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table:
        """Soft targets of rows: the codec's columns and `teacher_s`."""
        # No await between these calls: all shards must see requests in one order.
        answers = [shard.score.remote(rows, spec) for shard in self._shards]
        try:
            first, *_ = await asyncio.gather(*answers)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SoftTargetError):
                raise SoftTargetError(f"{error.cause} ({_own_name()})") from None
            raise
        return first

    async def describe(self) -> dict[str, object]:
        """What the first shard says of the model."""
        described: dict[str, object] = await self._shards[0].describe.remote()
        return described

    async def write_head(self, file: Path) -> None:
        """Write the model's head; shards that hold parts of it all take part."""
        await asyncio.gather(*[shard.write_head.remote(file) for shard in self._shards])

    async def check_health(self) -> None:
        """Serve replaces the replica if a shard is gone."""
        await asyncio.gather(*(shard.ping.remote() for shard in self._shards))


def _own_name() -> str:
    """This replica and its node, for messages."""
    replica = serve.get_replica_context().replica_id.unique_id
    return f"replica {replica} on node {ray.util.get_node_ip_address()}"


@dataclass(frozen=True)
class TeacherClient:
    """A way to the running teacher, small enough to travel to any process."""

    app: str
    timeout_s: float
    max_retries: int

    async def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table:
        """Soft targets of rows, from whichever replica is free.

        A request that is lost (a replica died, no answer in time) goes to a replica again,
        `max_retries` times, with growing pauses. One that the engine itself refused is tried once
        more: the next replica would refuse it too.

        Args:
            rows: Columns of `schema.PREPARED` first, others after.
            spec: What is wanted.

        Raises:
            TeacherError: It failed every time; names the rows and the last reason.
        """
        asked = rows.select(schema.PREPARED.names)
        for attempt in range(self.max_retries + 1):
            try:
                response = self._handle().score.remote(asked, spec)
                return await asyncio.wait_for(_outcome(response), self.timeout_s)
            except (RayServeException, ray.exceptions.RayError, TimeoutError) as error:
                reason = _reason(error, self.timeout_s)
                if attempt == self.max_retries or (attempt > 0 and _engine_raised(error)):
                    break
                await asyncio.sleep(min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.5))
        raise TeacherError(
            f"the teacher failed {attempt + 1} times on {_name_rows(rows)}; last: {reason}"
        )

    def describe(self) -> dict[str, Any]:
        """What the engine says of its model."""
        described: dict[str, Any] = (
            self._handle().describe.remote().result(timeout_s=self.timeout_s)
        )
        return described

    def write_head(self, file: Path) -> None:
        """Have one replica write the model's head to `file`."""
        self._handle().write_head.remote(file).result(timeout_s=self.timeout_s)

    def _handle(self) -> Any:
        return _handle(self.app)


@dataclass(frozen=True)
class Scorer:
    """The teacher asked for one kind of soft targets."""

    client: TeacherClient
    spec: CodecSpec

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets of rows; see `TeacherClient.score`."""
        return await self.client.score(rows, self.spec)


_handles: dict[str, Any] = {}


def _handle(app: str) -> Any:
    """One handle a process: each has its own router."""
    if app not in _handles:
        _handles[app] = serve.get_deployment_handle(DEPLOYMENT, app)
    return _handles[app]


async def _outcome(response: Any) -> pa.Table:
    return await response


def _engine_raised(error: BaseException) -> bool:
    """Whether the engine's own code raised, rather than a process dying."""
    while isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
    return not isinstance(error, ray.exceptions.RayError | RayServeException | TimeoutError)


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within teacher.request_timeout_s ({timeout_s:g} s)"
    cause: Any = error
    while isinstance(cause, ray.exceptions.RayTaskError):
        cause = cause.cause
    lines = str(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[-1]}"


def _name_rows(rows: pa.Table) -> str:
    if "row" not in rows.column_names or rows.num_rows == 0:
        return f"{rows.num_rows} held-out rows"
    places = rows.column("row").to_pylist()
    sources = rows.column("source_row").to_pylist()
    more = ", ..." if len(sources) > SHOWN else ""
    shown = ", ".join(map(str, sources[:SHOWN]))
    return f"rows {places[0]} to {places[-1]} (prepared rows {shown}{more})"


class TeacherService:
    """Deploys the teacher, waits until it answers, takes it down again."""

    def __init__(
        self, name: str, config: TeacherConfig, spec: ReplicaSpec, num_replicas: int
    ) -> None:
        self._app = name
        self._config = config
        self._spec = spec
        self._num_replicas = num_replicas
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; `wait` says when it is ready."""
        serve.start(proxy_location="Disabled")
        bundles = self._spec.bundles
        labels = self._config.labels
        placement: dict[str, Any] = {"placement_group_bundles": bundles}
        if labels:
            placement["placement_group_bundle_label_selector"] = [labels] * len(bundles)
        deployment = serve.deployment(
            name=DEPLOYMENT,
            num_replicas=self._num_replicas,
            max_ongoing_requests=ONGOING_REQUESTS,
            health_check_period_s=5,
            health_check_timeout_s=30,
            ray_actor_options={"num_cpus": REPLICA_CPUS},
            # The shards of a replica exchange activations at every layer: keep them on one node.
            placement_group_strategy="STRICT_PACK",
            **placement,
        )(TeacherReplica)
        app = deployment.bind(self._spec)
        self._thread = threading.Thread(target=self._deploy, args=(app,), daemon=True)
        self._thread.start()

    def _deploy(self, app: Any) -> None:
        try:
            serve.run(app, name=self._app, route_prefix=None)
        except Exception as error:
            self._failure = error

    def wait(self) -> TeacherClient:
        """Block until every replica is ready.

        Raises:
            TeacherError: It did not start, or not in time; says what Serve says.
        """
        assert self._thread is not None, "start() comes first"
        deadline = time.monotonic() + self._config.start_timeout_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(timeout=0.5)
            self._stop_on_failure()
        if self._failure is not None or self._thread.is_alive():
            raise TeacherError(self._why())
        return TeacherClient(self._app, self._config.request_timeout_s, self._config.max_retries)

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
        _handles.pop(self._app, None)
        serve.delete(self._app)
        if self._thread is not None:
            # Left behind it would ask after the app once Ray is shut down, and so start another.
            self._thread.join(timeout=JOIN_S)
        # Serve itself stays: others may use it, and Ray tells of its end as of a failure.
