"""A machine without anything of Ray's in its environment, and a job API that answers as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, no address, no secrets; what a test sets is gone after it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    # Set first, so that it is taken back whatever the code under test puts there.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)


class JobApi:
    """Ray's job API, as far as a submission speaks with it; notes what it was sent."""

    def __init__(self) -> None:
        import ray

        self.version: dict[str, Any] = {"version": "4", "ray_version": ray.__version__}
        self.metadata: dict[str, Any] | None = None
        self.refuses: tuple[int, str] | None = None
        self.jobs: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.packages: dict[str, bytes] = {}
        self.page: str | None = None
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*api.get(self.path))

            def do_PUT(self) -> None:
                api.packages[self.path] = self._body()
                self._answer(200, {})

            def do_POST(self) -> None:
                body = self._body()
                self._answer(*api.post(self.path, json.loads(body) if body else {}))

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(self, status: int, what: Any) -> None:
                data = what.encode() if isinstance(what, str) else json.dumps(what).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body."""
        if self.refuses is not None:
            return self.refuses
        if self.page is not None:
            return 200, self.page
        if path == "/api/version":
            return 200, self.version
        if path == "/api/v0/cluster_metadata" and self.metadata is not None:
            return 200, {"result": True, "data": self.metadata}
        if path == "/api/jobs/":
            return 200, self.jobs
        found = [job for job in self.jobs if path == f"/api/jobs/{job['submission_id']}"]
        return (200, found[0]) if found else (404, "not there")

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body."""
        if path.endswith("/stop"):
            for job in self.jobs:
                if path == f"/api/jobs/{job['submission_id']}/stop":
                    job["status"] = "STOPPED"
            return 200, {"stopped": True}
        self.sent.append(body)
        return 200, {"job_id": body["submission_id"], "submission_id": body["submission_id"]}


@pytest.fixture
def job_api() -> Iterator[JobApi]:
    """A job API on a port of its own."""
    api = JobApi()
    thread = threading.Thread(target=api.server.serve_forever, args=(0.02,))
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


@pytest.fixture
def details() -> Callable[..., dict[str, Any]]:
    """What Ray says of a submission, some of it changed."""

    def make(identity: str, **changes: Any) -> dict[str, Any]:
        return {
            "type": "SUBMISSION",
            "submission_id": identity,
            "status": "RUNNING",
            "entrypoint": "python -m raykd run job.yaml --resume",
            "message": "Job is currently running.",
            "start_time": 1_700_000_000_000,
            "metadata": {"raykd_run": "tiny"},
            **changes,
        }

    return make
