"""A replica of the teacher: a light actor that passes every request to its shards.

The actor stands in the first bundle of a placement group, its shards, one actor each, in the
others. A replica that cannot trust its shards any more ends itself: whoever waits for it is told at
once that it died and asks another, and Serve puts a new one in its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import pyarrow as pa
import ray
from ray import serve
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raykd.config.reservations import REPLICA_CPUS
from raykd.config.sampling import SamplingConfig
from raykd.errors import SoftTargetError, TeacherError
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import Engine, EngineSpec, ScoresSlices, ShardPlace

LAST_WORDS_S = 1.0
"""How long a replica that ends itself stays, so that its last answer is heard."""

EngineClass = Callable[[EngineSpec, ShardPlace], Engine]

Hosting = Literal["actors", "node", "cluster"]
"""Who starts the processes of a replica's shards: raykd, an actor in a bundle each (`actors`); the
engine, in the one actor's bundle (`node`); the engine, by Ray, in a bundle each (`cluster`)."""

_log = logging.getLogger("ray.serve")


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

    def score_slices(self, rows: pa.Table, spec: CodecSpec, which: int) -> pa.Table | None:
        """The same from one of the models of slices."""
        engine = cast("ScoresSlices", self._engine)
        return engine.score_slices(rows, spec, which)

    def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table | None:
        """Completions from rank 0, None from the others."""
        return self._engine.generate(prompts, sampling)

    def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table | None:
        """Inner states from rank 0, None from the others."""
        return self._engine.represent(rows, states, codec)

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
    hosting: Hosting = "actors"

    @classmethod
    def of(
        cls,
        engine_class: EngineClass,
        engine: EngineSpec,
        num_shards: int,
        cpus_per_shard: float,
        hosting: Hosting = "actors",
    ) -> ReplicaSpec:
        """A replica of shards that run `engine_class`."""
        return cls(ray.cloudpickle.dumps(engine_class), engine, num_shards, cpus_per_shard, hosting)

    @property
    def num_actors(self) -> int:
        """Actors that raykd starts, in the bundles after the replica's own."""
        return self.num_shards if self.hosting == "actors" else 1

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The replica's own bundle, then one a shard, or one for all of a `node`."""
        shards_each = self.num_shards if self.hosting == "node" else 1
        gpu = {"GPU": float(shards_each)} if self.engine.use_gpu else {}
        each = {"CPU": shards_each * self.cpus_per_shard, **gpu}
        return [{"CPU": REPLICA_CPUS}] + [each] * (self.num_shards // shards_each)

    @property
    def actor_gpus(self) -> float:
        """GPUs of an actor that raykd starts; those of a `cluster` are the engine's workers'."""
        return 0.0 if self.hosting == "cluster" else self.bundles[1].get("GPU", 0.0)

    @property
    def strategy(self) -> str:
        """Shards exchange activations at every layer: on one node, but for stages of a pipeline."""
        return "PACK" if self.hosting == "cluster" else "STRICT_PACK"


class TeacherReplica:
    """Starts its shards, passes every request to all of them, answers with the first's result."""

    async def __init__(self, spec: ReplicaSpec, request_timeout_s: float) -> None:  # type: ignore[misc]
        self._request_timeout_s = request_timeout_s
        self._last: asyncio.Future[Any] | None = None
        self._ending = asyncio.Event()
        self._shards = _start_shards(spec)
        address, port = await self._shards[0].find_port.remote()
        places = [ShardPlace(r, spec.num_actors, address, port) for r in range(spec.num_actors)]
        await asyncio.gather(
            *(
                shard.load.remote(spec.engine_class, spec.engine, place)
                for shard, place in zip(self._shards, places, strict=True)
            )
        )

    async def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table:
        """Soft targets of rows: the codec's columns and `teacher_s`."""
        return await self._targets("score", rows, spec)

    async def score_slices(self, rows: pa.Table, spec: CodecSpec, which: int) -> pa.Table:
        """The same from one of the models of slices; see `ScoresSlices`."""
        return await self._targets("score_slices", rows, spec, which)

    async def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table:
        """Inner states of rows: the columns of `codec`, of `states`, and `teacher_s`."""
        return await self._targets("represent", rows, states, codec)

    async def _targets(self, method: str, *arguments: Any) -> pa.Table:
        try:
            first, *_ = await self._all(method, *arguments)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SoftTargetError):
                raise SoftTargetError(f"{error.cause} ({_own_name()})") from None
            raise
        return first

    async def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table:
        """Completions of prompts: the columns of `schema.COMPLETIONS`."""
        first, *_ = await self._all("generate", prompts, sampling)
        return first

    async def describe(self) -> dict[str, object]:
        """What the first shard says of the model."""
        described: dict[str, object] = await self._shards[0].describe.remote()
        return described

    async def write_head(self, file: Path) -> None:
        """Write the model's head; shards that hold parts of it all take part."""
        await self._all("write_head", file)

    async def check_health(self) -> None:
        """Serve replaces the replica if a shard is gone."""
        try:
            await asyncio.gather(*(shard.ping.remote() for shard in self._shards))
        except ray.exceptions.RayActorError as error:
            _end_now(error)

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Have every shard do something, in the order in which requests came.

        Raises:
            RayTaskError: A shard's engine raised. Several shards are out of step then, since the
                others may wait for its part, and the replica ends.
            TeacherError: It took too long; the replica ends.
        """
        if self._ending.is_set():
            await _never()
        # No await between these calls: all shards must see requests in one order.
        work = asyncio.gather(*[getattr(s, method).remote(*arguments) for s in self._shards])
        before, self._last = self._last, work
        if before is not None:
            await asyncio.wait({before})
        # Only now do the shards begin with this request.
        await asyncio.wait({work}, timeout=self._request_timeout_s)
        if self._ending.is_set():
            await _never()  # what out-of-step shards say is not to be heard
        if not work.done():
            self._end_soon()
            raise TeacherError(
                f"no answer within teacher.request_timeout_s ({self._request_timeout_s:g} s) "
                f"({_own_name()})"
            )
        return self._result(work)

    def _result(self, work: asyncio.Future[Any]) -> list[Any]:
        try:
            results: list[Any] = work.result()
        except ray.exceptions.RayTaskError:
            if len(self._shards) > 1:
                self._end_soon()
            raise
        except ray.exceptions.RayError as error:
            _end_now(error)
        return results

    def _end_soon(self) -> None:
        """End when the last answer has been heard; until then nothing else is answered."""
        self._ending.set()
        _log.warning("the replica ends: its shards are out of step, or hang")
        asyncio.get_running_loop().call_later(LAST_WORDS_S, os._exit, 1)


def _start_shards(spec: ReplicaSpec) -> list[Any]:
    group: Any = ray.util.get_current_placement_group()
    return [
        _SHARD.options(
            num_cpus=spec.bundles[1]["CPU"],
            num_gpus=spec.actor_gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=rank + 1
            ),
        ).remote()
        for rank in range(spec.num_actors)
    ]


def _end_now(error: BaseException) -> NoReturn:
    """A shard is gone: without an answer, so that Serve's routers stop sending here."""
    _log.warning("the replica ends: a shard is gone (%s)", type(error).__name__)
    os._exit(1)


async def _never() -> NoReturn:
    """Wait for the end of this process; who asked is told that it died, and asks another."""
    while True:
        await asyncio.sleep(3600)


def _own_name() -> str:
    """This replica and its node, for messages."""
    replica = serve.get_replica_context().replica_id.unique_id
    return f"replica {replica} on node {ray.util.get_node_ip_address()}"
