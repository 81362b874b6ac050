"""Reading pieces out of shards: a few files stay open, a few decoded row groups stay in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raykd.errors import StoreError
from raykd.soft_targets.spec import CodecSpec
from raykd.store.entry import shard_file
from raykd.store.pieces import Int64s
from raykd.store.place import Place
from raykd.store.shard import open_shard, shard_schema

OPEN_FILES: Final = 64
CACHE_BYTES: Final = 64 << 20
"""Decoded row groups that stay."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Recent(Generic[_Key, _Value]):
    """The values last used, up to a total size; thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._values: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _Key) -> _Value | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: _Key, value: _Value, size: int) -> None:
        with self._lock:
            if key in self._values:
                self._total -= self._values.pop(key)[1]
            self._values[key] = (value, size)
            self._total += size
            while self._total > self._most and len(self._values) > 1:
                self._total -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._total = 0


class _OpenShard:
    """A shard's file; one thread at a time reads from it."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self.file = file
        self.lock = threading.Lock()
        groups = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
        self.ends: Int64s = np.cumsum(np.array(groups, np.int64))


class ShardFiles:
    """The shards of a section, opened as they are needed; thread-safe."""

    def __init__(self, place: Place, spec: CodecSpec) -> None:
        self._place = place
        self._schema = shard_schema(spec)
        self._open: _Recent[str, _OpenShard] = _Recent(OPEN_FILES)
        self._groups: _Recent[tuple[str, int], pa.Table] = _Recent(CACHE_BYTES)

    def rows(self, name: str, wanted: Int64s) -> pa.Table:
        """Read rows of a shard.

        Args:
            name: The shard.
            wanted: int64 numbers of rows, ascending; repeats are legal.

        Raises:
            StoreError: The shard is gone, corrupt or not of this section; says what to do.
        """
        path = self._place.path(shard_file(name))
        try:
            return self._rows(name, wanted)
        except FileNotFoundError:
            raise StoreError(
                f"{path}: is published but not there; it was removed by hand, or pruned while this "
                "runs. `raykd store prune --bad` removes its entry, and the teacher scores its "
                "rows again"
            ) from None
        except (OSError, pa.ArrowException, IndexError) as error:
            raise StoreError(corrupt(path, str(error))) from error

    def _rows(self, name: str, wanted: Int64s) -> pa.Table:
        shard = self._shard(name)
        groups = np.searchsorted(shard.ends, wanted, side="right")
        parts = []
        for group in np.unique(groups).tolist():
            start = int(shard.ends[group - 1]) if group else 0
            here = pa.array(wanted[groups == group] - start)
            parts.append(self._group(name, shard, group).take(here))
        return pa.concat_tables(parts)

    def _shard(self, name: str) -> _OpenShard:
        shard = self._open.get(name)
        if shard is None:
            file = open_shard(self._place.open(shard_file(name)))
            if not file.schema_arrow.equals(self._schema):
                raise pa.ArrowInvalid(f"its columns are others:\n{file.schema_arrow}")
            shard = _OpenShard(file)
            self._open.put(name, shard, 1)
        return shard

    def _group(self, name: str, shard: _OpenShard, group: int) -> pa.Table:
        table = self._groups.get((name, group))
        if table is None:
            with shard.lock:
                table = self._groups.get((name, group))
                if table is None:
                    table = shard.file.read_row_group(group, use_threads=False)
                    self._groups.put((name, group), table, table.nbytes)
        return table

    def close(self) -> None:
        """Let go of files and memory."""
        self._open.clear()
        self._groups.clear()


def corrupt(path: str, what: str) -> str:
    """The message of a shard that cannot be trusted."""
    return (
        f"{path}: is corrupt: {what.strip()}; `raykd store verify` looks at every shard, "
        "`raykd store prune --bad` removes the bad ones, and the teacher scores their rows again"
    )
