"""Pruning by the clock that dates the files, not by that of the machine that prunes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raykd.store import prune as prune_module
from raykd.store.prune import LEFTOVER_S, prune
from raykd.store.section import SECTION_FILE


@pytest.fixture
def being_written(tmp_path: Path) -> Path:
    """A shard whose writer has not published it yet, in a store with one section."""
    section = tmp_path / ("0" * 16)
    (section / "shards").mkdir(parents=True)
    (section / SECTION_FILE).write_text("{}")
    shard = section / "shards" / f"{int(time.time()):010d}-{'a' * 16}-000000.parquet"
    shard.write_bytes(b"whole, and not published")
    return shard


@pytest.mark.parametrize("skew_s", [-2 * LEFTOVER_S, 2 * LEFTOVER_S])
def test_what_is_being_written_stays(
    skew_s: float, being_written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = time.time
    monkeypatch.setattr(prune_module.time, "time", lambda: plain() + skew_s)
    store = str(being_written.parents[2])
    assert prune(store) == []
    assert being_written.is_file()
    assert sorted(path.name for path in being_written.parents[1].iterdir()) == [
        SECTION_FILE,
        "shards",
    ], "nothing of the look at the clock is left"


def test_what_was_left_over_goes(being_written: Path) -> None:
    import os

    old_s = time.time() - 2 * LEFTOVER_S
    os.utime(being_written, (old_s, old_s))
    store = str(being_written.parents[2])
    assert [removal.path for removal in prune(store, dry_run=True)] == [str(being_written)]
    assert [removal.path for removal in prune(store)] == [str(being_written)]
    assert not being_written.exists()
