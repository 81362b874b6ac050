"""The time limit of the integration tests; no Ray of theirs runs beside these."""

from __future__ import annotations

import pytest

from tests.integration.conftest import _limit
from tests.integration.shared import SHARED

__all__ = ["_limit"]


@pytest.fixture(autouse=True)
def _nothing_else_to_kill(request: pytest.FixtureRequest) -> None:
    """Victims are looked for among all processes below this one."""
    if request.node.get_closest_marker("ray"):
        SHARED.stop()
