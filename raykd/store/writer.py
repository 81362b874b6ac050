"""What is to be stored gathers in memory and goes out as shards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from raykd.errors import StoreError
from raykd.soft_targets.spec import CodecSpec
from raykd.store.entry import Entry, checksum, new_name, new_writer
from raykd.store.piece_targets import PieceTargets
from raykd.store.pieces import KEY_BYTES, Keys, keys_to_bytes
from raykd.store.place import Place
from raykd.store.shard import encode_shard


class ShardWriter:
    """Gathers pieces and writes a shard when there are enough, or when they have waited.

    What came in one `add` goes out in one shard. A shard that could not be written stays in memory,
    before what came later. Thread-safe.
    """

    def __init__(
        self,
        place: Place,
        spec: CodecSpec,
        published: Callable[[Entry], None],
        shard_bytes: int,
        shard_seconds: float,
    ) -> None:
        """Begin with nothing.

        Args:
            place: The section.
            spec: Its codec.
            published: Is told of each shard once it is published.
            shard_bytes: A shard goes out when it would be so large before compression.
            shard_seconds: Or when its first piece is so old, whether or not more comes.
        """
        self._place, self._spec, self._published = place, spec, published
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._name, self._sequence = new_writer(), 0
        self._parts: list[PieceTargets] = []
        self._bytes = 0
        self._since_s = 0.0
        self._failed = False
        self._pending: set[bytes] = set()
        self._state = threading.Lock()
        self._flushing = threading.Lock()
        self._closed = threading.Event()
        self._timer: threading.Thread | None = None

    def add(self, targets: PieceTargets) -> None:
        """Take pieces, those that wait here already left out; write a shard if one is due.

        Raises:
            StoreError: The shard could not be written; all pieces are kept for a later try.
        """
        with self._state:
            self._take(targets)
            due = self._failed or (bool(self._parts) and self._is_due())
        if due:
            self.flush()

    def _take(self, targets: PieceTargets) -> None:
        fresh = []
        for at, key in enumerate(_split(targets.keys)):
            if key not in self._pending:
                self._pending.add(key)
                fresh.append(at)
        if not fresh:
            return
        part = targets.take(fresh)
        if not self._parts:
            self._since_s = time.monotonic()
        self._parts.append(part)
        self._bytes += part.num_bytes
        if self._timer is None:
            self._timer = threading.Thread(target=self._watch, name="raykd-store", daemon=True)
            self._timer.start()

    def waits_for(self, keys: Keys) -> bool:
        """Whether all these pieces wait here; false for none."""
        with self._state:
            return bool(len(keys)) and all(key in self._pending for key in _split(keys))

    def flush(self) -> None:
        """Write and publish all that waits as one shard; without anything, do nothing.

        Raises:
            StoreError: It could not be written; nothing is published, all pieces are kept.
        """
        with self._flushing:
            with self._state:
                parts, self._parts = self._parts, []
                num_bytes, self._bytes = self._bytes, 0
                since_s = self._since_s
            if not parts:
                return
            try:
                self._published(self._write(parts))
            except BaseException:
                with self._state:
                    self._parts = parts + self._parts
                    self._bytes += num_bytes
                    self._since_s, self._failed = since_s, True
                raise
            with self._state:
                self._failed = False
                for part in parts:
                    self._pending.difference_update(_split(part.keys))

    def _write(self, parts: list[PieceTargets]) -> Entry:
        data = encode_shard(parts, self._spec)
        name = new_name(self._name, self._sequence)
        self._sequence += 1
        entry = _entry(name, parts, data)
        self._place.write(entry.shard, data)
        try:
            self._place.write(entry.file, entry.to_bytes())
        except StoreError:
            # Elsewhere an upload that was reported as failed may have succeeded all the same; then
            # the shard has to be there, and if not, `prune` removes it in time.
            if self._place.is_local:
                self._place.remove(entry.shard)
            raise
        return entry

    def _is_due(self) -> bool:
        has_waited = time.monotonic() - self._since_s >= self._shard_seconds
        return has_waited or self._bytes >= self._shard_bytes

    def _watch(self) -> None:
        """Write what has waited, also when nothing comes any more."""
        pause_s = self._shard_seconds
        while not self._closed.wait(pause_s):
            pause_s = self._shard_seconds
            with self._state:
                left_s = self._since_s + self._shard_seconds - time.monotonic()
                waiting = bool(self._parts)
            if waiting and left_s > 0:
                pause_s = left_s
            elif waiting:
                try:
                    self.flush()
                except StoreError:
                    # The pieces are kept: the next `add`, `flush` or `close` tries and raises.
                    continue

    def close(self) -> None:
        """Write what waits and stop.

        Raises:
            StoreError: It could not be written.
        """
        self._closed.set()
        if self._timer is not None and self._timer is not threading.current_thread():
            self._timer.join()
        self.flush()


def _entry(name: str, parts: list[PieceTargets], data: bytes) -> Entry:
    return Entry(
        name,
        tokens=sum(int(part.tokens.sum()) for part in parts),
        num_bytes=len(data),
        checksum=checksum(data),
        written_s=time.time(),
        keys=np.concatenate([part.keys for part in parts]),
    )


def _split(keys: Keys) -> list[bytes]:
    joined = keys_to_bytes(keys)
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]
