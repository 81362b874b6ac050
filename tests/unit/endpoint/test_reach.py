"""What `raykd check` hears from an endpoint, for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.endpoint.reach import reach
from raykd.errors import TeacherError
from tests.endpoint_server import Served

CANARY = "sk-canary-reach"


def test_the_model_is_there(served: Served, teacher: Any) -> None:
    assert reach(teacher()) == "it answers, and has the model"
    assert not served.asked, "nothing is generated"


def test_the_model_is_not_there(served: Served, teacher: Any) -> None:
    served.models = ["owl", "raven"]
    assert "does not list 'parrot' among its models (owl, raven)" in reach(teacher())


def test_an_endpoint_that_lists_nothing(served: Served, teacher: Any) -> None:
    served.models = None
    assert reach(teacher()) == "it answers, and lists no models"


def test_nobody_answers(teacher: Any) -> None:
    with pytest.raises(TeacherError, match=r"base_url: http://127.0.0.1:9/v1 cannot be reached"):
        reach(teacher(base_url="http://127.0.0.1:9/v1"))


def test_a_refused_key(served: Served, teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARROT_KEY", CANARY)
    served.wants_key = "another"
    with pytest.raises(TeacherError, match="refuses the key in PARROT_KEY") as caught:
        reach(teacher(api_key_env="PARROT_KEY"))
    assert CANARY not in str(caught.value)
    served.wants_key = CANARY
    assert "has the model" in reach(teacher(api_key_env="PARROT_KEY"))
