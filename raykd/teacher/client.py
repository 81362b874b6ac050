"""The way to the running teacher: one request at a time, until it is answered or hopeless."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray import serve
from ray.serve.exceptions import RayServeException

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import TeacherError
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.status import DEPLOYMENT, answers
from raykd.teacher.tally import InFlight

REFUSALS = 2
"""Tries of a request that an engine refuses: one replica may be ill, two say it is the rows."""
LONGEST_PAUSE_S = 30.0
LOOK_S = 30.0
"""A request that waits asks this often whether a replica runs at all."""
SHOWN = 8
"""Rows that a message names one by one."""

Send = Callable[[Any], Any]
"""Sends a request through a handle; gives Serve's response."""


@dataclass(frozen=True)
class Patience:
    """How long and how often a request is tried."""

    start_timeout_s: float
    """Longest wait while no replica runs."""
    longest_try_s: float
    """Longest that one try may take, its turn waited for: then it is taken for lost."""
    max_retries: int
    """Times that a request lost with its replica goes to another."""


class NoReplicaError(Exception):
    """No replica ran for longer than the job allows."""


@dataclass
class FailedTries:
    """Tries of requests that failed, summed up."""

    lost: int = 0
    """With their replica, or without an answer in time."""
    refused: int = 0
    """By what the engine raised."""


failed_tries = FailedTries()
"""Of this process."""


class _Tries:
    """The failures of one request so far."""

    def __init__(self, max_retries: int) -> None:
        self._max_retries = max_retries
        self._lost = self._refused = 0

    @property
    def count(self) -> int:
        """Tries that failed."""
        return self._lost + self._refused

    @property
    def pause_s(self) -> float:
        """Seconds until the next one: growing, and other for every request."""
        return min(LONGEST_PAUSE_S, 0.5 * 2.0 ** (self.count - 1)) * random.uniform(0.5, 1.5)

    def again(self, error: BaseException) -> bool:
        """Take a failure in; whether the request may be tried once more."""
        if isinstance(error, NoReplicaError):
            self._lost += 1
            return False
        if engine_raised(error):
            self._refused += 1
            failed_tries.refused += 1
            return self._refused < min(REFUSALS, self._max_retries + 1)
        self._lost += 1
        failed_tries.lost += 1
        return self._lost <= self._max_retries


@dataclass(frozen=True)
class TeacherClient:
    """A way to the running teacher, small enough to travel to any process."""

    app: str
    patience: Patience
    tally: Any
    """The actor that counts requests on their way."""

    async def score(self, rows: pa.Table, spec: CodecSpec, which: int = 0) -> pa.Table:
        """Soft targets of rows, from whichever replica is free.

        A request that is lost with its replica goes to another, `max_retries` times, with growing
        pauses. One that the engine itself refused, or that kept it at work for too long, is tried
        once more: the next replica would refuse it too.

        Args:
            rows: Columns of `schema.PREPARED` first, others after.
            spec: What is wanted.
            which: Of the models of slices (`EngineSpec.of_slices`), from 1; 0 is the teacher.

        Raises:
            TeacherError: It failed every time; names the rows and the last reason.
        """
        asked = rows.select(schema.PREPARED.names)
        if which:
            return await self._ask(
                lambda handle: handle.score_slices.remote(asked, spec, which), _name_rows(rows)
            )
        return await self._ask(lambda handle: handle.score.remote(asked, spec), _name_rows(rows))

    async def generate(self, prompts: pa.Table, sampling: SamplingConfig) -> pa.Table:
        """Completions of prompts (`schema.PROMPTS`), from whichever replica is free.

        Lost and refused requests are tried again as those of `score` are.

        Raises:
            TeacherError: It failed every time; names the prompts and the last reason.
        """
        numbers = prompts.column("prompt").to_pylist()
        more = ", ..." if len(numbers) > SHOWN else ""
        named = f"prompts {', '.join(map(str, numbers[:SHOWN]))}{more}"
        return await self._ask(lambda handle: handle.generate.remote(prompts, sampling), named)

    async def represent(
        self, rows: pa.Table, states: CodecSpec, codec: CodecSpec | None
    ) -> pa.Table:
        """Inner states of rows, and their soft targets where `codec` names a form of them.

        Lost and refused requests are tried again as those of `score` are.

        Raises:
            TeacherError: It failed every time; names the rows and the last reason.
        """
        asked = rows.select(schema.PREPARED.names)
        return await self._ask(
            lambda handle: handle.represent.remote(asked, states, codec), _name_rows(rows)
        )

    def describe(self) -> dict[str, Any]:
        """What the engine says of its model."""
        answer = self._ask(lambda handle: handle.describe.remote(), "its own description")
        described: dict[str, Any] = asyncio.run(answer)
        return described

    def write_head(self, file: Path) -> None:
        """Have one replica write the model's head to `file`."""
        asyncio.run(self._ask(lambda handle: handle.write_head.remote(file), "writing its head"))

    async def _ask(self, send: Send, what: str) -> Any:
        tries = _Tries(self.patience.max_retries)
        with _in_flight.one(self.tally):
            while True:
                try:
                    return await self._answer(send(_handle(self.app)))
                except (
                    RayServeException,
                    ray.exceptions.RayError,
                    TimeoutError,
                    NoReplicaError,
                ) as error:
                    if not tries.again(error):
                        raise TeacherError(
                            f"the teacher failed {tries.count} times on {what}; last: "
                            f"{_reason(error)}"
                        ) from None
                    await asyncio.sleep(tries.pause_s)

    async def _answer(self, response: Any) -> Any:
        """Wait as long as replicas run, and `start_timeout_s` longer.

        How long a replica works on it is the replica's own affair (`TeacherReplica`).

        Raises:
            NoReplicaError: None came up.
            TimeoutError: Replicas run, and the answer does not come all the same.
        """
        answer = asyncio.ensure_future(_outcome(response))
        sent = seen = time.monotonic()
        pause_s = min(LOOK_S, self.patience.start_timeout_s / 2)
        try:
            while not (await asyncio.wait({answer}, timeout=pause_s))[0]:
                runs, now = await _runs(self.app), time.monotonic()
                seen = now if runs else seen
                if now - seen > self.patience.start_timeout_s:
                    raise NoReplicaError(f"{self.patience.start_timeout_s:g} s")
                if now - sent > self.patience.longest_try_s:
                    raise TimeoutError(f"{self.patience.longest_try_s:g} s")
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                response.cancel()


@dataclass(frozen=True)
class Scorer:
    """The teacher asked for one kind of soft targets."""

    client: TeacherClient
    spec: CodecSpec
    which: int = 0
    """Of the models of slices; 0 is the teacher."""

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Soft targets of rows; see `TeacherClient.score`."""
        if self.which:
            return await self.client.score(rows, self.spec, self.which)
        return await self.client.score(rows, self.spec)


@dataclass(frozen=True)
class Representer:
    """The teacher asked for inner states, and for soft targets with them where `codec` is one."""

    client: TeacherClient
    states: CodecSpec
    codec: CodecSpec | None

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Inner states of rows; see `TeacherClient.represent`."""
        return await self.client.represent(rows, self.states, self.codec)


_in_flight = InFlight()
_handles: dict[str, Any] = {}


def _handle(app: str) -> Any:
    """One handle a process: each has its own router."""
    if app not in _handles:
        _handles[app] = serve.get_deployment_handle(DEPLOYMENT, app)
    return _handles[app]


def forget_handle(app: str) -> None:
    """The app is gone; another of its name would have other replicas."""
    _handles.pop(app, None)


async def _outcome(response: Any) -> Any:
    return await response


async def _runs(app: str) -> bool:
    """Whether a replica runs; one cannot say so while Serve's controller is being restarted."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(answers, app), LOOK_S)
    except TimeoutError:
        return False


def engine_raised(error: BaseException) -> bool:
    """Whether the engine's own code raised, rather than a process dying."""
    while isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
    return not isinstance(error, ray.exceptions.RayError | RayServeException | TimeoutError)


def _reason(error: BaseException) -> str:
    if isinstance(error, NoReplicaError):
        return f"no replica ran for teacher.start_timeout_s ({error})"
    if isinstance(error, TimeoutError):
        return f"no answer within {error}, though replicas run"
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
