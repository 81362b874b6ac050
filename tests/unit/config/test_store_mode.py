"""What becomes of soft targets, as a job file says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

MakeJob = Callable[..., Any]


@pytest.mark.parametrize("mode", ["use", "fill", "only", "off"])
def test_every_mode_can_be_written_in_yaml(mode: str, make_job: MakeJob) -> None:
    tree = yaml.safe_load(f"store_mode: {mode}")
    assert make_job({"soft_targets.store_mode": tree["store_mode"]}).soft_targets.store_mode == mode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_targets.store_mode": True}, "'use', 'fill', 'only' or 'off'"),
        ({"soft_targets.store_mode": "off", "soft_targets.store": "/kept"}, "change nothing"),
        ({"soft_targets": {"codec": "auto", "store_mode": "only"}}, "auto asks the teacher"),
        ({"soft_targets.store_mode": "fill", "loss.alpha": 1.0}, "nothing to ask for"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    changes: dict[str, Any], message: str, make_job: MakeJob
) -> None:
    with pytest.raises(ValidationError, match=message):
        make_job(changes)
