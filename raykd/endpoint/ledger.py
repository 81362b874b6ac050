"""What was paid for: a line for each answer, written as it comes, beside what is generated.

A run that is killed has published only whole parts of what was generated; with these lines it does
not pay again for the rest. Each process appends to a file of its own; all are read.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from raykd.endpoint.answer import Answer
from raykd.errors import StorageError

PATTERN: Final = "paid-*.jsonl"


@dataclass
class Totals:
    """What a run has paid for, resumed or not."""

    answers: int = 0
    lost: int = 0
    """Requests whose answer did not arrive whole, and that may have been charged."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class Ledger:
    """Answers by key, and what a run paid."""

    def __init__(self, folder: Path, run: str) -> None:
        """Read what is there.

        Args:
            folder: Shared by all runs that ask this teacher in the same way.
            run: Whose spending is counted.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._run = run
        self._at: dict[str, tuple[Path, int]] = {}
        self.totals = Totals()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob(PATTERN)):
                self._read(file)
            self._file = folder / PATTERN.replace("*", uuid.uuid4().hex)
            self._out: IO[bytes] = self._file.open("ab")
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be used ({error.strerror}): what is paid for must be kept before "
                "more is asked; free space there, or set storage_path"
            ) from None
        self._one_at_a_time = asyncio.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        if not self._file.stat().st_size:
            self._file.unlink()

    def find(self, key: str) -> Answer | None:
        """The answer to a request, if it was paid for before."""
        if key not in self._at:
            return None
        file, at = self._at[key]
        with file.open("rb") as opened:
            opened.seek(at)
            return Answer(**json.loads(opened.readline())["answer"])

    async def add(self, key: str, answer: Answer, cost_usd: float) -> None:
        """Keep an answer; it lies on disk when this returns."""
        line = {"key": key, "run": self._run, "cost_usd": cost_usd, "answer": asdict(answer)}
        self._at[key] = (self._file, await self._write(line))
        self._count(line)

    async def lose(self, key: str, why: str, cost_usd: float) -> None:
        """Keep that a request may have been charged, though its answer did not arrive."""
        line = {"key": key, "run": self._run, "cost_usd": cost_usd, "lost": why}
        await self._write(line)
        self._count(line)

    async def _write(self, line: dict[str, Any]) -> int:
        text = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._append, text)

    def _append(self, text: bytes) -> int:
        at = self._out.seek(0, os.SEEK_END)
        self._out.write(text)
        self._out.flush()
        os.fsync(self._out.fileno())
        return at

    def _read(self, file: Path) -> None:
        for at, line in _whole_lines(file):
            if "answer" in line:
                self._at[line["key"]] = (file, at)
            self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        if line["run"] != self._run:
            return
        self.totals.cost_usd += line["cost_usd"]
        answer = line.get("answer")
        if answer is None:
            self.totals.lost += 1
            return
        self.totals.answers += 1
        self.totals.prompt_tokens += answer["prompt_tokens"] or 0
        self.totals.completion_tokens += answer["completion_tokens"] or 0


def _whole_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Place and content of each line; one that a killed process left half written is none."""
    at = 0
    with file.open("rb") as opened:
        for text in opened:
            with suppress(ValueError):
                yield at, json.loads(text)
            at += len(text)
