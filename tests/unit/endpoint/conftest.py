"""What the endpoint's tests share: a server, a teacher behind it, prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from raykd.config.sampling import SamplingConfig
from raykd.config.teacher import TeacherConfig
from raykd.endpoint import asker as asking
from raykd.schema import PROMPTS
from tests.endpoint_server import Served, serving


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PAUSE_S", 0.01)


@pytest.fixture(scope="session")
def sampling() -> SamplingConfig:
    return SamplingConfig(max_new_tokens=20)


@pytest.fixture
def teacher(served: Served) -> Any:
    """A teacher behind the server; any key of its endpoint can be given."""

    def make(*, timeout_s: float = 30.0, max_retries: int = 8, **endpoint: Any) -> TeacherConfig:
        return TeacherConfig.model_validate(
            {
                "engine": "openai",
                "model": "parrot",
                "request_timeout_s": timeout_s,
                "max_retries": max_retries,
                "endpoint": {"base_url": served.url, **endpoint},
            }
        )

    return make


@pytest.fixture(scope="session")
def prompts() -> Any:
    """Chats of one turn, `word 0` and so on."""

    def make(count: int, first: int = 0, **columns: Any) -> pa.Table:
        rows = [
            {
                "prompt": i,
                "sample": 0,
                "seed": 100 + i,
                "messages": [{"role": "user", "content": f"word {i}"}],
                "text": None,
                **columns,
            }
            for i in range(first, first + count)
        ]
        return pa.Table.from_pylist(rows, PROMPTS)

    return make
