"""The client's patience, with a handle that fails as it is told to; no Ray is started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.serve.exceptions import BackPressureError

from raykd import schema
from raykd.errors import SoftTargetError, TeacherError
from raykd.models.load import ModelSource
from raykd.pipeline import plan
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher import client as client_module
from raykd.teacher import tally as tally_module
from raykd.teacher.client import NoReplicaError, Patience, Scorer, TeacherClient
from raykd.teacher.engine import EngineSpec
from raykd.teacher.replica import ReplicaSpec

SPEC = CodecSpec("top_k", 320, top_k=4)
NEVER = object()
"""A response that does not come."""


def engine_error(message: str = "row 3 is odd") -> Exception:
    """What a caller gets where the engine's own code raised."""
    cause = SoftTargetError(message)
    return ray.exceptions.RayTaskError("score", "traceback", cause).as_instanceof_cause()


def died() -> Exception:
    return ray.exceptions.ActorDiedError()


def died_inside() -> Exception:
    """A shard died under a replica that lives."""
    return ray.exceptions.RayTaskError("score", "traceback", died())


class FakeResponse:
    """Gives its answer when awaited; an exception is raised, `NEVER` does not come."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.cancelled = False

    def __await__(self) -> Iterator[Any]:
        if self._answer is NEVER:
            yield from asyncio.Event().wait().__await__()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def cancel(self) -> None:
        self.cancelled = True


class FakeHandle:
    """Answers requests with what it was given, in order."""

    def __init__(self, answers: list[Any]) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.responses: list[FakeResponse] = []
        self._answers: Iterator[Any] = iter(answers)
        for name in ("score", "describe", "write_head"):
            setattr(self, name, SimpleNamespace(remote=self._send))

    def _send(self, *arguments: Any) -> FakeResponse:
        self.asked.append(arguments)
        self.responses.append(FakeResponse(next(self._answers)))
        return self.responses[-1]


class FakeTally:
    """Keeps the counts that it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.tell = SimpleNamespace(remote=lambda process, count: self.told.append(count))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses asked for; none is made."""
    made: list[float] = []

    async def pause(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(client_module, "asyncio", _Asyncio(pause))
    return made


class _Asyncio:
    """asyncio with another `sleep`, for one module alone."""

    def __init__(self, sleep: Any) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def ordered_rows(packed_rows: Callable[..., pa.Table]) -> pa.Table:
    rows = packed_rows([[4], [5], [6]])
    places, sources = pa.array([8, 9, 10]), pa.array([31, 7, 90])
    return pa.table(
        [places, sources, *rows.columns], names=["row", "source_row", *rows.column_names]
    )


def client_of(
    max_retries: int = 3, start_timeout_s: float = 0.1, longest_try_s: float = 0.1
) -> TeacherClient:
    return TeacherClient("app", Patience(start_timeout_s, longest_try_s, max_retries), FakeTally())


def ask(
    monkeypatch: pytest.MonkeyPatch,
    rows: pa.Table,
    answers: list[Any],
    client: TeacherClient | None = None,
    runs: bool = True,
) -> tuple[Any, FakeHandle]:
    """What the client returns or raises, and the handle it used."""
    handle = FakeHandle(answers)
    monkeypatch.setattr(client_module, "_handle", lambda app: handle)
    monkeypatch.setattr(client_module, "answers", lambda app: runs)
    try:
        return asyncio.run((client or client_of()).score(rows, SPEC)), handle
    except TeacherError as error:
        return error, handle


ANSWER = pa.table({"x": [1]})


def test_an_answer_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    got, handle = ask(monkeypatch, ordered_rows, [ANSWER])
    assert got is ANSWER
    ((rows, spec),) = handle.asked
    assert rows.column_names == schema.PREPARED.names
    assert rows.column("input_ids").equals(ordered_rows.column("input_ids"))
    assert spec == SPEC
    assert pauses == []


@pytest.mark.parametrize("lost", [died, died_inside, lambda: BackPressureError(1, 1)])
def test_a_lost_request_is_asked_again(
    lost: Callable[[], Exception],
    monkeypatch: pytest.MonkeyPatch,
    ordered_rows: pa.Table,
    pauses: list[float],
) -> None:
    got, handle = ask(monkeypatch, ordered_rows, [lost(), lost(), lost(), ANSWER])
    assert got is ANSWER
    assert len(handle.asked) == 4
    assert len(pauses) == 3
    assert pauses == sorted(pauses) or max(pauses) > 2 * min(pauses)


def test_pauses_grow(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    monkeypatch.setattr(client_module.random, "uniform", lambda low, high: 1.0)
    ask(monkeypatch, ordered_rows, [died() for _ in range(9)], client_of(max_retries=8))
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@pytest.mark.parametrize("max_retries", [0, 2])
def test_after_the_last_retry_the_rows_are_named(
    max_retries: int,
    monkeypatch: pytest.MonkeyPatch,
    ordered_rows: pa.Table,
    pauses: list[float],
) -> None:
    answers = [died() for _ in range(9)]
    error, handle = ask(monkeypatch, ordered_rows, answers, client_of(max_retries))
    assert isinstance(error, TeacherError)
    assert len(handle.asked) == max_retries + 1
    assert len(pauses) == max_retries
    assert str(error).startswith(
        f"the teacher failed {max_retries + 1} times on rows 8 to 10 (prepared rows 31, 7, 90); "
        "last: ActorDiedError: "
    )


def test_what_the_engine_refuses_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    error, handle = ask(monkeypatch, ordered_rows, [engine_error() for _ in range(9)])
    assert isinstance(error, TeacherError)
    assert len(handle.asked) == 2
    assert str(error).endswith("last: SoftTargetError: row 3 is odd")


def test_no_number_of_retries_has_a_refused_request_tried_often(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    answers = [engine_error(), died(), died(), engine_error(), ANSWER]
    error, handle = ask(monkeypatch, ordered_rows, answers, client_of(max_retries=100))
    assert isinstance(error, TeacherError), "two refusals, whatever was lost between them"
    assert len(handle.asked) == 4
    error, handle = ask(monkeypatch, ordered_rows, [engine_error()], client_of(max_retries=0))
    assert len(handle.asked) == 1


def test_what_was_lost_before_does_not_count_as_refused(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    got, _ = ask(monkeypatch, ordered_rows, [died(), engine_error(), ANSWER])
    assert got is ANSWER


def test_what_one_replica_refuses_another_may_answer(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    got, _ = ask(monkeypatch, ordered_rows, [engine_error(), ANSWER])
    assert got is ANSWER


def test_an_answer_that_never_comes_though_replicas_run(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    client = client_of(max_retries=1)
    error, handle = ask(monkeypatch, ordered_rows, [NEVER, NEVER], client)
    assert len(handle.asked) == 2
    assert str(error).endswith("last: no answer within 0.1 s, though replicas run")
    assert all(response.cancelled for response in handle.responses)
    got, _ = ask(monkeypatch, ordered_rows, [NEVER, ANSWER], client)
    assert got is ANSWER


def test_a_request_waits_longer_while_replicas_run(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    client = client_of(max_retries=0, start_timeout_s=0.1, longest_try_s=0.5)
    started = time.monotonic()
    ask(monkeypatch, ordered_rows, [NEVER], client, runs=True)
    assert time.monotonic() - started > 0.4


def test_no_replica_comes_up(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    client = client_of(max_retries=5, start_timeout_s=0.1, longest_try_s=60.0)
    error, handle = ask(monkeypatch, ordered_rows, [NEVER] * 6, client, runs=False)
    assert len(handle.asked) == 1, "a second try would find none either"
    assert str(error).endswith("last: no replica ran for teacher.start_timeout_s (0.1 s)")


def test_other_questions_are_asked_again_too(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    handle = FakeHandle([died(), {"device": "cpu"}, died(), None])
    monkeypatch.setattr(client_module, "_handle", lambda app: handle)
    assert client_of().describe() == {"device": "cpu"}
    client_of().write_head(Path("head"))
    assert handle.asked == [(), (), (Path("head"),), (Path("head"),)]


def test_requests_on_their_way_are_told(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table
) -> None:
    client = client_of()
    monkeypatch.setattr(tally_module, "TELL_S", 0.01)

    async def two() -> None:
        await asyncio.gather(client.score(ordered_rows, SPEC), client.score(ordered_rows, SPEC))
        await asyncio.sleep(0.1)

    monkeypatch.setattr(client_module, "_handle", lambda app: FakeHandle([ANSWER] * 2))
    asyncio.run(two())
    assert client.tally.told[0] == 2
    assert client.tally.told[-1] == 0


def test_a_defect_is_not_taken_for_a_lost_request(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table, pauses: list[float]
) -> None:
    with pytest.raises(ZeroDivisionError):
        ask(monkeypatch, ordered_rows, [ZeroDivisionError("x"), ANSWER])


def test_a_scorer_asks_for_its_kind_of_targets(
    monkeypatch: pytest.MonkeyPatch, ordered_rows: pa.Table
) -> None:
    handle = FakeHandle([ANSWER])
    monkeypatch.setattr(client_module, "_handle", lambda app: handle)
    other = CodecSpec("top_k", 9, (1.0, 3.0), top_k=7)
    assert asyncio.run(Scorer(client_of(), other)(ordered_rows)) is ANSWER
    assert handle.asked[0][1] == other


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (engine_error(), True),
        (ValueError("x"), True),
        (ray.exceptions.RayTaskError("f", "t", engine_error()), True),
        (died(), False),
        (died_inside(), False),
        (TimeoutError(), False),
        (BackPressureError(1, 1), False),
    ],
)
def test_whose_fault_it_is(error: Exception, raised: bool) -> None:
    assert client_module.engine_raised(error) is raised


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("2.5 s"), "no answer within 2.5 s, though replicas run"),
        (NoReplicaError("2.5 s"), "no replica ran for teacher.start_timeout_s (2.5 s)"),
        (engine_error("first\nlast"), "SoftTargetError: last"),
        (ValueError(""), "ValueError: "),
        (ray.exceptions.RayTaskError("f", "t", engine_error("deep")), "SoftTargetError: deep"),
    ],
)
def test_reasons(error: Exception, reason: str) -> None:
    assert client_module._reason(error) == reason


def test_rows_are_named(ordered_rows: pa.Table) -> None:
    assert client_module._name_rows(ordered_rows) == "rows 8 to 10 (prepared rows 31, 7, 90)"
    assert client_module._name_rows(ordered_rows.select(["input_ids"])) == "3 held-out rows"
    assert client_module._name_rows(ordered_rows.slice(0, 0)) == "0 held-out rows"
    many = pa.table({"row": list(range(20)), "source_row": list(range(100, 120))})
    named = client_module._name_rows(many)
    assert named == "rows 0 to 19 (prepared rows 100, 101, 102, 103, 104, 105, 106, 107, ...)"


@pytest.mark.parametrize(
    ("use_gpu", "shards", "rest"),
    [
        (False, 1, [{"CPU": 0.5}]),
        (False, 3, [{"CPU": 0.5}] * 3),
        (True, 2, [{"CPU": 0.5, "GPU": 1.0}] * 2),
    ],
)
def test_bundles(use_gpu: bool, shards: int, rest: list[dict[str, float]]) -> None:
    engine = EngineSpec(ModelSource("m"), "fp32", use_gpu, 1, 10, 10)
    first, *others = ReplicaSpec(lambda *_: None, engine, shards, 0.5).bundles  # type: ignore[arg-type,return-value]
    assert others == rest
    assert set(first) == {"CPU"}
    assert 0 < first["CPU"] < 0.1


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_plan_counts_what_the_bundles_reserve(
    device: str, make_job: Callable[..., Any]
) -> None:
    job = make_job({"teacher.device": device, "teacher.replicas": 3, "teacher.tensor_parallel": 2})
    engine = EngineSpec(ModelSource("m"), "fp32", device == "gpu", 1, 10, 10)
    bundles = ReplicaSpec(
        lambda *_: None,  # type: ignore[arg-type,return-value]
        engine,
        job.teacher.tensor_parallel,
        job.teacher.cpus_per_shard,
    ).bundles
    demand = plan.replicas(job)
    assert demand.cpus == pytest.approx(3 * sum(b["CPU"] for b in bundles))
    assert demand.gpus == 3 * sum(b.get("GPU", 0) for b in bundles)
