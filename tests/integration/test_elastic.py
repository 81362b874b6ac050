"""A teacher whose replicas come, go and die under load, with an engine that only sleeps."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.config.teacher import TeacherConfig
from raykd.errors import TeacherError
from raykd.models.load import ModelSource
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.service import ReplicaSpec, TeacherClient, TeacherService, Window

from .runs import RAY_WARNINGS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, *RAY_WARNINGS]

SPEC = CodecSpec("top_k", 320, top_k=4)
NAP_S = 0.2
POISON = 13


class Sleeps:
    """Answers with the row it was asked for; notes every request beside its process."""

    def __init__(self, spec: EngineSpec, place: ShardPlace) -> None:
        self._rank = place.rank
        self._log = Path(spec.source.path) / f"{place.rank}-{os.getpid()}"
        self._log.touch()

    def score(self, rows: pa.Table, spec: CodecSpec) -> pa.Table | None:
        (number,) = rows.column("input_ids").to_pylist()
        with self._log.open("a") as log:
            log.write(f"{number[0]}\n")
        time.sleep(NAP_S)
        if number[0] == POISON and self._rank == 0:
            raise ValueError("this row is poison")
        return pa.table({"row": pa.array(number[:1])}) if self._rank == 0 else None

    def write_head(self, file: Path) -> None:
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        return {"parameters": 0, "bytes": 0, "device": "none"}


def request(number: int) -> pa.Table:
    """One row, known by its first token."""
    return pa.table(
        {
            "row": [number],
            "source_row": [100 + number],
            "input_ids": [[number, 7]],
            "position_ids": [[0, 1]],
            "loss_mask": [[1, 0]],
        }
    )


@contextmanager
def teacher(
    name: str, directory: Path, shards: int, **settings: Any
) -> Iterator[tuple[TeacherService, TeacherClient]]:
    """A running teacher of sleeping shards."""
    config = TeacherConfig(
        model="sleeping",
        device="cpu",
        start_timeout_s=120.0,
        request_timeout_s=settings.pop("request_timeout_s", 20.0),
        **settings,
    )
    engine = EngineSpec(ModelSource(str(directory)), "fp32", False, 1, 10, 10)
    spec = ReplicaSpec.of(Sleeps, engine, shards, 0.1)
    service = TeacherService(name, config, spec, Window(6, 1.25))
    service.start()
    try:
        yield service, service.wait()
    finally:
        service.stop()


@pytest.fixture(scope="module")
def pair(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TeacherService, TeacherClient, Path]]:
    """Two replicas of two shards each, which every test leaves whole."""
    directory = tmp_path_factory.mktemp("pair")
    with teacher("pair", directory, 2, replicas=2) as (service, client):
        yield service, client, directory


def ask_all(client: TeacherClient, numbers: range, in_flight: int = 6) -> list[int]:
    """Every row once, a few at a time; the answers in order."""
    gate = asyncio.Semaphore(in_flight)

    async def one(number: int) -> int:
        async with gate:
            answer = await client.score(request(number), SPEC)
            return int(answer.column("row")[0].as_py())

    async def everything() -> list[int]:
        return await asyncio.gather(*[one(number) for number in numbers])

    return asyncio.run(everything())


def until(what: str, condition: Callable[[], bool], seconds: float = 60.0) -> float:
    """Wait for something; how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return time.monotonic() - started


def running(service: TeacherService) -> int:
    sample = service.look()
    return -1 if sample is None else sample.running


def replicas_of(app: str) -> list[Any]:
    """Handles of an app's replica actors."""
    import ray

    named = ray.util.list_named_actors(all_namespaces=True)
    found = [n for n in named if n["name"].startswith(f"SERVE_REPLICA::{app}#")]
    return [ray.get_actor(n["name"], namespace=n["namespace"]) for n in found]


def shards_in(directory: Path) -> dict[int, int]:
    """Process ids of the shards that live, with their ranks."""
    found = {int(f.name.split("-")[1]): int(f.name.split("-")[0]) for f in directory.glob("*-*")}
    return {pid: rank for pid, rank in found.items() if Path(f"/proc/{pid}").exists()}


def tries(directory: Path, number: int) -> int:
    """How often the first shards began with a row."""
    lines = [line for file in directory.glob("0-*") for line in file.read_text().split()]
    return lines.count(str(number))


def ask_while(client: TeacherClient, numbers: range, harm: Callable[[], None]) -> list[int]:
    """Ask for rows, and do harm when some of them are on their way.

    A death costs the requests in flight one try each: none may be lost to it twice.
    """
    strict = replace(client, patience=replace(client.patience, max_retries=1))
    timer = threading.Timer(1.0, harm)
    timer.start()
    try:
        return ask_all(strict, numbers)
    finally:
        timer.join()


def test_a_replica_that_is_killed_loses_nothing(
    pair: tuple[TeacherService, TeacherClient, Path],
) -> None:
    import ray

    service, client, _ = pair
    victim, *_ = replicas_of("pair")
    numbers = range(100, 130)
    assert ask_while(client, numbers, lambda: ray.kill(victim)) == list(numbers)
    until("the replica is replaced", lambda: running(service) == 2)


def test_a_replica_whose_shard_is_killed_is_replaced(
    pair: tuple[TeacherService, TeacherClient, Path],
) -> None:
    service, client, directory = pair
    before = shards_in(directory)
    assert sorted(before.values()) == [0, 0, 1, 1]
    victim = next(pid for pid, rank in before.items() if rank == 1)
    numbers = range(200, 230)
    assert ask_while(client, numbers, lambda: os.kill(victim, signal.SIGKILL)) == list(numbers)
    until("the replica is replaced", lambda: running(service) == 2)
    until("its shards are", lambda: sorted(shards_in(directory).values()) == [0, 0, 1, 1])
    assert len(set(before) - set(shards_in(directory))) == 2, "both of its shards are new"


def test_a_shard_that_dies_while_nobody_asks_is_noticed(
    pair: tuple[TeacherService, TeacherClient, Path],
) -> None:
    service, client, directory = pair
    before = shards_in(directory)
    for pid in [pid for pid, rank in before.items() if rank == 1]:
        os.kill(pid, signal.SIGKILL)
    until("no shard is left", lambda: not set(before) & set(shards_in(directory)), 20)
    # No replica is left: the request waits for the next.
    assert ask_all(client, range(300, 302)) == [300, 301]
    until("both are replaced", lambda: running(service) == 2)


def test_a_poisoned_row_is_tried_twice_and_named(
    pair: tuple[TeacherService, TeacherClient, Path],
) -> None:
    service, client, directory = pair
    before = set(shards_in(directory))
    with pytest.raises(TeacherError) as told:
        asyncio.run(client.score(request(POISON), SPEC))
    message = str(told.value)
    assert f"rows {POISON} to {POISON} (prepared rows {100 + POISON})" in message
    assert message.endswith("ValueError: this row is poison")
    assert tries(directory, POISON) == 2
    # The second shard knows nothing of the error: it may be out of step, and is not asked again.
    until("their shards are gone", lambda: len(before & set(shards_in(directory))) <= 2, 20)
    until("both are replaced", lambda: running(service) == 2)
    numbers = range(400, 410)
    assert ask_all(client, numbers) == list(numbers)


def test_the_controller_is_killed_and_the_run_goes_on(
    pair: tuple[TeacherService, TeacherClient, Path],
) -> None:
    import ray

    service, client, _ = pair
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    numbers = range(500, 530)
    killed = lambda: ray.kill(controller, no_restart=False)  # noqa: E731
    assert ask_while(client, numbers, killed) == list(numbers)
    until("the controller knows its replicas", lambda: running(service) == 2)
    # And it still replaces the dead.
    ray.kill(replicas_of("pair")[0])
    until("one is gone", lambda: running(service) == 1, 30)
    until("it is replaced", lambda: running(service) == 2)


def test_replicas_follow_demand(ray_cluster: None, tmp_path: Path) -> None:
    elastic = {"min": 0, "max": 2, "upscale_delay_s": 0.0, "downscale_delay_s": 1.0}
    with teacher("elastic", tmp_path, 1, replicas=elastic) as (service, client):
        assert running(service) == 1
        ended = threading.Event()

        def load() -> None:
            at = 1000
            while not ended.is_set():
                ask_all(client, range(at, at + 30))
                at += 30

        asking = threading.Thread(target=load)
        asking.start()
        try:
            until("demand brings the second", lambda: running(service) == 2, 40)
            sample = service.look()
            assert sample is not None
            assert 1 <= sample.queued <= 6
            assert sample.most == 2
        finally:
            ended.set()
            asking.join()
        until("idleness takes both", lambda: running(service) == 0, 60)
        assert ask_all(client, range(1)) == [0], "and one question brings one back"
