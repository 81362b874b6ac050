"""What was paid is known again, whatever happened to the process that wrote it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from raykd.endpoint.answer import Answer
from raykd.endpoint.ledger import Ledger
from raykd.endpoint.logprobs import packed, unpacked
from raykd.errors import StorageError


def write(folder: Path, run: str, *answers: tuple[str, str, float]) -> None:
    async def add_all() -> None:
        with Ledger(folder, run) as ledger:
            for key, text, cost in answers:
                await ledger.add(key, Answer(text, "stop", 2, 3), cost)

    asyncio.run(add_all())


def test_answers_of_all_runs_are_found_and_only_ones_own_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "one", ("a", "müde\nund", 0.5), ("b", "B", 0.25))
    write(tmp_path, "two", ("c", "C", 4.0))
    with Ledger(tmp_path, "one") as ledger:
        assert ledger.find("a") == Answer("müde\nund", "stop", 2, 3)
        assert ledger.find("c") == Answer("C", "stop", 2, 3)
        assert ledger.find("d") is None
        assert ledger.totals.cost_usd == 0.75
        assert (ledger.totals.answers, ledger.totals.completion_tokens) == (2, 6)


def test_an_answer_is_found_at_once(tmp_path: Path) -> None:
    async def add() -> None:
        with Ledger(tmp_path, "one") as ledger:
            await ledger.add("a", Answer("A", "stop"), 0.0)
            assert ledger.find("a") == Answer("A", "stop")

    asyncio.run(add())


def test_a_half_written_line_is_none(tmp_path: Path) -> None:
    write(tmp_path, "one", ("a", "A", 1.0), ("b", "B", 1.0))
    (file,) = tmp_path.glob("paid-*.jsonl")
    file.write_bytes(file.read_bytes()[:-20])
    write(tmp_path, "one", ("c", "C", 1.0))
    with Ledger(tmp_path, "one") as ledger:
        assert ledger.find("a")
        assert ledger.find("c")
        assert ledger.find("b") is None
        assert ledger.totals.cost_usd == 2.0


def test_lost_answers_are_counted_and_not_found(tmp_path: Path) -> None:
    async def lose() -> None:
        with Ledger(tmp_path, "one") as ledger:
            await ledger.lose("a", "cut", 0.5)

    asyncio.run(lose())
    with Ledger(tmp_path, "one") as ledger:
        assert ledger.find("a") is None
        assert (ledger.totals.lost, ledger.totals.cost_usd) == (1, 0.5)


def test_many_at_once_are_each_a_line(tmp_path: Path) -> None:
    async def add_all() -> None:
        with Ledger(tmp_path, "one") as ledger:
            await asyncio.gather(
                *(ledger.add(str(i), Answer("x" * i, "stop"), 0.0) for i in range(100))
            )
            assert all(ledger.find(str(i)) == Answer("x" * i, "stop") for i in range(100))

    asyncio.run(add_all())
    (file,) = tmp_path.glob("paid-*.jsonl")
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 100


def test_a_ledger_in_which_nothing_was_paid_leaves_no_file(tmp_path: Path) -> None:
    with Ledger(tmp_path, "one"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="what is paid for must be kept"):
        Ledger(tmp_path / "file", "one")


def test_log_probabilities_are_kept_and_old_lines_have_none(tmp_path: Path) -> None:
    told = packed([("\xf0", -0.5, [("\xf0", -0.5), (7, -1.5), (None, -2.0)])])

    async def add() -> None:
        with Ledger(tmp_path, "one") as ledger:
            await ledger.add("a", Answer("A", "stop", logprobs=told), 0.5)

    asyncio.run(add())
    # As it was written before answers had them.
    answer = {"completion": "B", "finish_reason": "stop", "prompt_tokens": 2}
    answer |= {"completion_tokens": 3, "mean_logprob": None}
    line = {"key": "b", "run": "one", "cost_usd": 0.25, "answer": answer}
    (tmp_path / "paid-old.jsonl").write_text(json.dumps(line) + "\n")
    with Ledger(tmp_path, "one") as ledger:
        assert ledger.totals.cost_usd == 0.75
        first, second = ledger.find("a"), ledger.find("b")
    assert second == Answer("B", "stop", 2, 3)
    assert first is not None
    assert unpacked(first.logprobs) == [
        {
            "token": b"\xf0",
            "token_id": None,
            "logprob": -0.5,
            "top": [
                {"token": b"\xf0", "token_id": None, "logprob": -0.5},
                {"token": None, "token_id": 7, "logprob": -1.5},
                {"token": None, "token_id": None, "logprob": -2.0},
            ],
        }
    ]
