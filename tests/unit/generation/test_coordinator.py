"""What is asked, how much at once, and what is kept when something breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd import schema
from raykd.config.generation import GenerationConfig
from raykd.errors import OrderError, StorageError, TeacherError
from raykd.generation import store as stores
from raykd.generation.coordinator import Asker, complete, completions
from raykd.generation.requests import Prompt, Request, requests
from raykd.generation.store import GenerationStore

MakeGeneration = Callable[..., GenerationConfig]


@pytest.fixture
def wanted(generation: MakeGeneration) -> list[Request]:
    return list(requests([Prompt(i, None, f"prompt {i}") for i in range(10)], generation(), 0))


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    return GenerationStore(tmp_path / "kept", "someone", "{}")


class Teacher:
    """Answers with the prompt in capitals; fails at a prompt, if it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.at_once = self.most_at_once = 0
        self.fails_at = fails_at

    async def __call__(self, prompts: pa.Table) -> pa.Table:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        numbers = prompts.column("prompt").to_pylist()
        # Later requests are answered first.
        await asyncio.sleep(0.02 / (1 + numbers[0]))
        self.at_once -= 1
        if self.fails_at in numbers:
            raise TeacherError(f"prompt {self.fails_at} breaks it")
        self.asked += numbers
        rows = [answer_to(text) for text in prompts.column("text").to_pylist()]
        return pa.Table.from_pylist(rows, schema=schema.COMPLETIONS)


def answer_to(text: str) -> dict[str, Any]:
    return {
        "completion": text.upper(),
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "mean_logprob": None,
    }


def run(wanted: list[Request], store: GenerationStore, teacher: Any, **options: Any) -> int:
    size, at_once = options.get("size", 2), options.get("at_once", 3)
    return asyncio.run(complete(wanted, store, Asker(teacher, size, at_once)))


def test_all_are_asked_once_and_found_again(wanted: list[Request], store: GenerationStore) -> None:
    teacher = Teacher()
    assert run(wanted, store, teacher) == 10
    assert sorted(teacher.asked) == list(range(10))
    assert teacher.most_at_once == 3
    assert completions(wanted, store) == [answer_to(f"prompt {i}") for i in range(10)]
    assert run(wanted, store, teacher) == 0
    assert len(teacher.asked) == 10


def test_what_was_answered_before_a_failure_is_kept(
    wanted: list[Request], store: GenerationStore
) -> None:
    first = Teacher(fails_at=5)
    with pytest.raises(TeacherError, match="prompt 5 breaks it"):
        run(wanted, store, first)
    # What was on its way with it was waited for; nothing was asked after it.
    assert set(first.asked) >= {0, 1, 2, 3}
    assert not {8, 9} & set(first.asked)
    second = Teacher()
    assert run(wanted, store, second) == 10 - len(first.asked)
    assert sorted(first.asked + second.asked) == list(range(10))


def test_equal_prompts_are_asked_once(store: GenerationStore, generation: MakeGeneration) -> None:
    same = list(requests([Prompt(i, None, "one") for i in range(4)], generation(), 0))
    teacher = Teacher()
    assert run(same, store, teacher) == 1
    assert [each["completion"] for each in completions(same, store)] == ["ONE"] * 4


def test_progress_is_told(wanted: list[Request], store: GenerationStore) -> None:
    run(wanted[:4], store, Teacher())
    told: list[tuple[int, int]] = []
    asker = Asker(Teacher(), 3, 1)
    asyncio.run(complete(wanted, store, asker, lambda *at: told.append(at)))
    assert told == [(4, 10), (7, 10), (10, 10)]


def test_an_answer_of_another_form_is_refused(
    wanted: list[Request], store: GenerationStore
) -> None:
    async def odd(prompts: pa.Table) -> pa.Table:
        return pa.table({"completion": ["x"] * prompts.num_rows})

    with pytest.raises(OrderError, match="what the teacher wrote"):
        run(wanted, store, odd)


def test_small_files_become_one_and_lose_nothing(
    wanted: list[Request], store: GenerationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MERGE_AT", 4)
    run(wanted, store, Teacher(), size=1)
    files = list((tmp_path / "kept").iterdir())
    # Ten of one answer each: four and three and three, or fewer.
    assert len(files) <= 4
    assert all(file.name.startswith("part-") for file in files)
    assert completions(wanted, store) == [answer_to(f"prompt {i}") for i in range(10)]
    tables = [pq.read_table(file) for file in files]
    assert sum(table.num_rows for table in tables) == 10
    assert {row["text"] for table in tables for row in table.to_pylist()} == {
        f"prompt {i}" for i in range(10)
    }
    assert tables[0].column("teacher").to_pylist()[0] == "someone"


def test_a_damaged_file_is_named(
    wanted: list[Request], store: GenerationStore, tmp_path: Path
) -> None:
    run(wanted, store, Teacher())
    [file] = (tmp_path / "kept").glob("part-*")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(StorageError, match=rf"{file.name}: .* remove the file"):
        store.read({wanted[0].key})


def test_a_file_that_is_still_written_is_not_read(
    wanted: list[Request], store: GenerationStore, tmp_path: Path
) -> None:
    run(wanted[:2], store, Teacher())
    (tmp_path / "kept" / ".part-x.parquet.writing").write_bytes(b"half")
    assert len(store.read({one.key for one in wanted})) == 2


def test_two_runs_may_write_the_same(
    wanted: list[Request], store: GenerationStore, tmp_path: Path
) -> None:
    run(wanted, store, Teacher())
    other = GenerationStore(tmp_path / "kept", "someone", "{}")
    table = pa.Table.from_pylist(
        [answer_to(str(one.text)) for one in wanted], schema=schema.COMPLETIONS
    )
    other.write(wanted, table)
    assert completions(wanted, store) == [answer_to(f"prompt {i}") for i in range(10)]


def told(n: int) -> list[dict[str, object]]:
    """What an endpoint says of one token."""
    one = {"token": b"\xf0", "token_id": None, "logprob": -0.5 * n}
    return [{**one, "top": [{"token": None, "token_id": 7, "logprob": -1.5}]}]


def test_log_probabilities_are_read_apart_a_few_at_a_time(
    wanted: list[Request], store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LOGPROB_ROWS", 3)
    rows = [
        {**answer_to(str(one.text)), "logprobs": None if n == 4 else told(n)}
        for n, one in enumerate(wanted)
    ]
    store.write(wanted, pa.Table.from_pylist(rows, schema=schema.COMPLETIONS))
    keys = {one.key for one in wanted}
    assert all("logprobs" not in row for row in store.read(keys).values())
    parts = list(store.logprobs(keys | {"never asked"}))
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    found = {key: value for part in parts for key, value in part.items()}
    assert found == {one.key: None if n == 4 else told(n) for n, one in enumerate(wanted)}


def test_each_is_told_once_though_two_files_hold_it(
    wanted: list[Request], store: GenerationStore
) -> None:
    rows = [{**answer_to(str(one.text)), "logprobs": told(1)} for one in wanted]
    for _ in range(2):
        store.write(wanted, pa.Table.from_pylist(rows, schema=schema.COMPLETIONS))
    assert sum(len(part) for part in store.logprobs({one.key for one in wanted})) == len(wanted)


def test_what_another_run_merges_meanwhile_is_found(
    wanted: list[Request], store: GenerationStore, tmp_path: Path
) -> None:
    other = GenerationStore(tmp_path / "kept", "someone", "{}")
    for one in wanted:
        row = {**answer_to(str(one.text)), "logprobs": told(1)}
        other.write([one], pa.Table.from_pylist([row], schema=schema.COMPLETIONS))
    keys = {one.key for one in wanted}
    parts = store.logprobs(keys)
    found = dict(next(parts))
    other.merge()
    for part in parts:
        found |= part
    assert found.keys() == keys


def test_files_from_before_there_were_log_probabilities_are_read(
    wanted: list[Request], store: GenerationStore, tmp_path: Path
) -> None:
    run(wanted, store, Teacher())
    [file] = (tmp_path / "kept").glob("part-*")
    pq.write_table(pq.read_table(file).drop_columns("logprobs"), file)
    keys = {one.key for one in wanted}
    assert set(store.read(keys)) == keys
    [part] = store.logprobs(keys)
    assert part == dict.fromkeys([one.key for one in wanted])
