"""A bucket on this machine that speaks S3's protocol, and a way to it that can be cut.

moto answers; pyarrow's own S3 client asks, over TCP, as it would ask any object storage.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pyarrow.fs as fs
import pytest

BUCKET = "targets"


@dataclass
class Bucket:
    """Where it answers, and what it was asked."""

    address: tuple[str, int]
    requests: Counter[str] = field(default_factory=Counter)
    """How many of each HTTP method."""
    refusals: Counter[str] = field(default_factory=Counter)
    """So many requests to come, by method, are answered with 503."""

    def uri(self, path: str, address: tuple[str, int] | None = None) -> str:
        """A place in it; by another way where an address is given."""
        host, port = address or self.address
        endpoint = quote(f"{host}:{port}", safe="")
        return f"s3://{BUCKET}/{path}?scheme=http&region=us-east-1&endpoint_override={endpoint}"


@contextmanager
def bucket() -> Iterator[Bucket]:
    """An empty bucket; ends with its server."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            found = Bucket(server.get_host_and_port())
            _watch(server, found)
            host, port = found.address
            made = fs.S3FileSystem(
                endpoint_override=f"{host}:{port}",
                scheme="http",
                region="us-east-1",
                allow_bucket_creation=True,
            )
            made.create_dir(BUCKET)
            yield found
        finally:
            server.stop()


def _watch(server: Any, found: Bucket) -> None:
    answer = server._server.app

    def watched(environment: dict[str, Any], start: Any) -> Any:
        method = environment["REQUEST_METHOD"]
        found.requests[method] += 1
        if found.refusals[method]:
            found.refusals[method] -= 1
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"]
        return answer(environment, start)

    server._server.app = watched


class Way:
    """Passes bytes to a server and back until it is cut."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.cuts = 0
        self._left_bytes = math.inf
        threading.Thread(target=self._listen, daemon=True).start()

    def cut_after(self, num_bytes: int) -> None:
        """Pass so many more bytes to the server, over all connections; then end each that sends."""
        self._left_bytes = num_bytes

    def mend(self) -> None:
        """Pass all again."""
        self._left_bytes = math.inf

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self._left_bytes -= len(data)
                if self._left_bytes < 0:
                    self.cuts += 1
                    break
                server.sendall(data)
        _end(client, server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client, server)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
