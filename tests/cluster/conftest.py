"""A time limit on every test, and places with short paths."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import _limit

__all__ = ["_limit", "place"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory with a short path: Ray's sockets lie in it."""
    directory = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
