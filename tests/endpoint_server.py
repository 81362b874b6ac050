"""An OpenAI-compatible server on localhost that counts, and fails when a test says so."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

Reply = Callable[[dict[str, Any]], dict[str, Any]]
Fault = Callable[[str, int], str | None]
"""Prompt, and how often it was asked before, to what goes wrong."""


def prompt_of(body: dict[str, Any]) -> str:
    """The last turn of a chat, or the text."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def chat(
    text: str | None, *, prompt_tokens: int = 10, completion_tokens: int = 5, **choice: Any
) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                **choice,
            }
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


def echo(body: dict[str, Any]) -> dict[str, Any]:
    """The prompt in capitals."""
    said = prompt_of(body).upper()
    if "messages" in body:
        return chat(said)
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return {"choices": [{"text": said, "finish_reason": "stop"}], "usage": usage}


@dataclass
class Served:
    """What the server saw; tests read it, and say what goes wrong."""

    url: str = ""
    reply: Reply = echo
    fault: Fault = lambda prompt, before: None
    delay_s: float = 0.0
    slow_s: float = 0.6
    retry_after: str = "0"
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by prompt, failed ones too."""
    answered: Counter[str] = field(default_factory=Counter)
    """Whole answers by prompt: what a provider charges for."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    models: list[str] | None = field(default_factory=lambda: ["parrot"])
    wants_key: str | None = None
    now: int = 0
    most_at_once: int = 0

    async def answer(self, request: Request) -> Response:
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            return await self._answer(request)
        finally:
            self.now -= 1

    async def _answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        prompt = prompt_of(body)
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.times.append(time.monotonic())
        wrong = self.fault(prompt, self.asked[prompt])
        self.asked[prompt] += 1
        await asyncio.sleep(self.delay_s)
        if wrong is not None:
            return await self._wrong(wrong, request)
        self.answered[prompt] += 1
        return JSONResponse(self.reply(body))

    async def list_models(self, request: Request) -> Response:
        given = request.headers.get("authorization")
        if self.wants_key is not None and given != f"Bearer {self.wants_key}":
            return JSONResponse({"error": {"message": f"who is {given}?"}}, 401)
        if self.models is None:
            return PlainTextResponse("nothing here", 404)
        return JSONResponse({"data": [{"id": name} for name in self.models]})

    async def _wrong(self, what: str, request: Request) -> Response:
        if what == "429":
            error = {"error": {"message": "too fast", "code": "rate_limit_exceeded"}}
            return JSONResponse(error, 429, {"retry-after": self.retry_after})
        if what == "500":
            return PlainTextResponse("oh", 500)
        if what == "slow":
            await asyncio.sleep(self.slow_s)
            return PlainTextResponse("late")
        if what == "cut":
            return StreamingResponse(_breaks_off(), headers={"content-length": "1000"})
        if what == "malformed":
            return PlainTextResponse('{"choices": [{"message": {"content": "half a')
        if what == "echoed key":
            said = f"wrong key: {request.headers.get('authorization')}"
            return JSONResponse({"error": {"message": said, "code": "invalid_api_key"}}, 401)
        status, _, message = what.partition(" ")
        return JSONResponse({"error": {"message": message, "code": message}}, int(status))


async def _breaks_off() -> Any:
    yield b'{"choices": ['
    raise ConnectionResetError


@contextmanager
def serving(**settings: Any) -> Iterator[Served]:
    """A server in a thread, for as long as the block lasts."""
    served = Served(**settings)
    app = FastAPI()
    app.post("/v1/chat/completions")(served.answer)
    app.post("/v1/completions")(served.answer)
    app.get("/v1/models")(served.list_models)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        served.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield served
        finally:
            server.should_exit = True
            thread.join(5)
