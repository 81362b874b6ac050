"""What a mixture of teachers may be, and may be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

OTHER = {"model": "owner/other", "weight": 0.4}


def test_the_first_has_the_rest(make_job: Callable[..., Any]) -> None:
    job = make_job({"teacher.mixed_in": [OTHER, OTHER | {"weight": 0.5}]})
    assert [one.weight for one in job.teacher.mixed_in] == [0.4, 0.5]
    assert make_job().teacher.mixed_in == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher.mixed_in": [OTHER, OTHER | {"weight": 0.6}]}, "add up to 1 and leave `model`"),
        ({"teacher.mixed_in": [OTHER | {"weight": 0.0}]}, "greater than 0"),
        ({"teacher.mixed_in": [{"model": "owner/other"}]}, "weight"),
        ({"teacher.mixed_in": [OTHER], "teacher.engine": "vllm"}, "is for `engine: transformers`"),
        (
            {"teacher.mixed_in": [OTHER], "soft_targets": {"codec": "hidden"}},
            "choose top_k, sampled",
        ),
        ({"teacher.mixed_in": [OTHER], "soft_targets": {"codec": "auto"}}, "choose top_k, sampled"),
        ({"teacher.mixed_in": [OTHER], "method": "sequence", "generation": {}}, "method: sequence"),
        (
            {"teacher.mixed_in": [OTHER], "representations": {"hidden": {}}},
            "`representations` asks one model",
        ),
    ],
)
def test_what_it_cannot_be(
    changes: dict[str, Any], said: str, make_job: Callable[..., Any]
) -> None:
    with pytest.raises((ValidationError, ValueError), match=said):
        make_job(changes)
