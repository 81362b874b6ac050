"""Against a real server: every row ends once, nothing is paid twice, the cap holds."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.config.sampling import SamplingConfig
from raykd.endpoint.asker import EndpointAsker
from raykd.endpoint.ledger import Totals
from raykd.endpoint.spend import SpendCapError
from raykd.errors import GenerationError, JobError, TeacherError
from raykd.schema import COMPLETIONS
from tests.endpoint_server import Served, chat, prompt_of

PRICE = {"input": 1000.0, "output": 1000.0}
"""A tenth of a cent a token: an answer of the server's 15 tokens costs 1.5 cents."""
EACH_USD = 0.015


async def _ask(asker_of: Any, prompts: pa.Table, each: int) -> tuple[list[Any], Totals]:
    async with asker_of() as asker:
        parts = [prompts.slice(at, each) for at in range(0, prompts.num_rows, each)]
        answers = await asyncio.gather(*map(asker, parts), return_exceptions=True)
    return answers, asker.totals


def ask_all(
    teacher: Any, sampling: SamplingConfig, folder: Path, prompts: pa.Table, each: int = 1
) -> tuple[list[Any], Totals]:
    """Tables or exceptions, part by part; and what was paid."""
    return asyncio.run(_ask(lambda: EndpointAsker(teacher, sampling, folder, "run"), prompts, each))


def ask(teacher: Any, sampling: SamplingConfig, folder: Path, prompts: pa.Table) -> pa.Table:
    answers, _ = ask_all(teacher, sampling, folder, prompts, 2)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return pa.concat_tables(answers)


def test_completions_come_row_for_row(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    table = ask(teacher(), sampling, tmp_path, prompts(5))
    assert table.schema == COMPLETIONS
    assert table.to_pylist() == [
        {
            "completion": f"WORD {i}",
            "finish_reason": "stop",
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "mean_logprob": None,
            "logprobs": None,
        }
        for i in range(5)
    ]


def test_plain_text_goes_to_completions(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    table = ask(teacher(), sampling, tmp_path, prompts(1, messages=None, text="once upon"))
    assert table.column("completion").to_pylist() == ["ONCE UPON"]
    assert served.bodies[0]["prompt"] == "once upon"


def test_one_in_ten_fails_and_every_row_ends_once(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    kinds = ("429", "500", "cut", "malformed")
    injected: list[str] = []

    def fault(prompt: str, before: int) -> str | None:
        draw = random.Random(f"{prompt} {before}")
        if draw.random() >= 0.1:
            return None
        injected.append(draw.choice(kinds))
        return injected[-1]

    served.fault = fault
    answers, totals = ask_all(teacher(max_concurrent_requests=16), sampling, tmp_path, prompts(200))
    assert set(injected) == set(kinds), "every kind of failure was met"
    rows = [row for table in answers for row in table.to_pylist()]
    assert [row["completion"] for row in rows] == [f"WORD {i}" for i in range(200)]
    # A prompt that was answered whole is never asked again.
    assert served.answered == {f"word {i}": 1 for i in range(200)}
    assert sum(served.asked.values()) == 200 + len(injected)
    assert totals.answers == 200
    assert totals.lost == sum(kind in ("cut", "malformed") for kind in injected)


def test_a_request_that_takes_too_long_is_sent_again(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.fault = lambda prompt, before: "slow" if not before else None
    answers, totals = ask_all(teacher(timeout_s=0.4), sampling, tmp_path, prompts(1))
    assert answers[0].column("completion").to_pylist() == ["WORD 0"]
    assert totals.lost >= 1
    assert served.asked["word 0"] == totals.lost + 1


def test_a_429_holds_all_requests_as_long_as_it_says(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.retry_after = "0.4"
    served.fault = lambda prompt, before: "429" if prompt == "word 0" and not before else None
    ask_all(teacher(max_concurrent_requests=1), sampling, tmp_path, prompts(3))
    gaps = [b - a for a, b in zip(served.times, served.times[1:], strict=False)]
    assert gaps[0] >= 0.39
    assert sum(served.asked.values()) == 4


def test_no_more_at_once_than_allowed(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.delay_s = 0.02
    ask_all(teacher(max_concurrent_requests=3), sampling, tmp_path, prompts(12))
    assert served.most_at_once == 3


def test_requests_keep_the_pace(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    ask_all(teacher(requests_per_minute=600), sampling, tmp_path, prompts(6))
    # The first one's way is longer, by the time that connecting takes.
    assert served.times[-1] - served.times[0] >= 5 * 0.1 - 0.25


def test_the_same_prompt_on_its_way_is_asked_once(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.delay_s = 0.05
    twice = pa.concat_tables([prompts(1), prompts(1)])
    answers, _ = ask_all(teacher(), sampling, tmp_path, twice)
    assert [t.column("completion")[0].as_py() for t in answers] == ["WORD 0"] * 2
    assert served.asked == {"word 0": 1}


def test_other_samples_are_other_requests(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    table = pa.concat_tables([prompts(1), prompts(1, sample=1, seed=7)])
    ask_all(teacher(), sampling, tmp_path, table)
    assert served.asked == {"word 0": 2}


def test_what_was_paid_is_not_asked_again(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    price = {"price_per_million_tokens": PRICE}
    first, before = ask_all(teacher(**price), sampling, tmp_path, prompts(4))
    again, after = ask_all(teacher(**price), sampling, tmp_path, prompts(6))
    assert again[:4] == first
    assert served.asked == {f"word {i}": 1 for i in range(6)}
    assert before.cost_usd == pytest.approx(4 * EACH_USD)
    assert after.cost_usd == pytest.approx(6 * EACH_USD), "spending survives"


def test_other_sampling_is_asked_anew(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    ask_all(teacher(), sampling, tmp_path, prompts(1))
    ask_all(teacher(), sampling.model_copy(update={"stop": ["."]}), tmp_path, prompts(1))
    assert served.asked == {"word 0": 2}


def test_the_cap_holds(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.delay_s = 0.01
    cap = 0.2
    answers, totals = ask_all(
        teacher(price_per_million_tokens=PRICE, max_cost_usd=cap, max_concurrent_requests=4),
        sampling,
        tmp_path,
        prompts(40),
    )
    charged = sum(served.answered.values()) * EACH_USD
    assert totals.cost_usd == pytest.approx(charged)
    assert charged <= cap
    assert charged > cap - 4 * EACH_USD - 0.05, "and most of it is used"
    assert sum(isinstance(one, SpendCapError) for one in answers) == 40 - totals.answers
    message = next(str(one) for one in answers if isinstance(one, SpendCapError))
    assert "0.2 USD" in message
    assert f"{charged:.6f} USD are spent" in message
    assert "--resume" in message


def test_the_cap_counts_what_was_spent_before(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    capped = teacher(price_per_million_tokens=PRICE, max_cost_usd=0.12)
    ask_all(capped, sampling, tmp_path, prompts(20))
    before = sum(served.answered.values())
    ask_all(capped, sampling, tmp_path, prompts(20, first=20))
    assert before > 0
    assert sum(served.answered.values()) == before
    higher = teacher(price_per_million_tokens=PRICE, max_cost_usd=1.0)
    answers, _ = ask_all(higher, sampling, tmp_path, prompts(20))
    assert all(isinstance(one, pa.Table) for one in answers)
    assert served.answered == {f"word {i}": 1 for i in range(20)}


def test_an_answer_that_was_lost_counts_as_the_most_it_can_cost(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.fault = lambda prompt, before: "cut" if not before else None
    _, totals = ask_all(teacher(price_per_million_tokens=PRICE), sampling, tmp_path, prompts(1))
    most_usd = (len("word 0") + 16 + sampling.max_new_tokens) * 0.001
    assert totals.lost == 1
    assert totals.cost_usd == pytest.approx(EACH_USD + most_usd)


def test_without_usage_the_most_is_counted(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.reply = lambda body: {"choices": chat("yes")["choices"]}
    answers, totals = ask_all(
        teacher(price_per_million_tokens=PRICE), sampling, tmp_path, prompts(1)
    )
    assert answers[0].column("completion_tokens").to_pylist() == [None]
    assert totals.cost_usd == pytest.approx((6 + 16 + 20) * 0.001)


def test_malformed_answers_are_recorded_after_two(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.fault = lambda prompt, before: "malformed" if prompt == "word 1" else None
    table = ask(teacher(), sampling, tmp_path, prompts(3))
    assert table.column("finish_reason").to_pylist() == ["stop", "malformed", "stop"]
    assert table.column("completion").to_pylist() == ["WORD 0", None, "WORD 2"]
    assert served.asked["word 1"] == 2


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_filtered_prompt_is_recorded(
    code: str,
    served: Served,
    teacher: Any,
    sampling: SamplingConfig,
    prompts: Any,
    tmp_path: Path,
) -> None:
    served.fault = lambda prompt, before: f"400 {code}" if prompt == "word 0" else None
    table = ask(teacher(), sampling, tmp_path, prompts(2))
    assert table.column("finish_reason").to_pylist() == ["refused", "stop"]
    assert table.column("completion").to_pylist() == [None, "WORD 1"]


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("500", TeacherError, "gave no answer in 3 tries"),
        ("400 context_length_exceeded", GenerationError, "prompt 7: the endpoint refuses"),
        ("404 no such model", TeacherError, "model 'parrot' is not there"),
        ("429 insufficient_quota", TeacherError, "nothing is left to spend"),
    ],
)
def test_what_does_not_pass_ends_the_run(
    fault: str,
    error: type[Exception],
    says: str,
    served: Served,
    teacher: Any,
    sampling: SamplingConfig,
    prompts: Any,
    tmp_path: Path,
) -> None:
    served.fault = lambda prompt, before: fault
    with pytest.raises(error, match=says):
        ask(teacher(max_retries=2), sampling, tmp_path, prompts(1, first=7))
    assert sum(served.asked.values()) == (3 if fault == "500" else 1)


def test_nothing_more_is_sent_once_one_has_failed(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.delay_s = 0.02
    served.fault = lambda prompt, before: "404 gone" if prompt == "word 0" else None
    answers, totals = ask_all(teacher(max_concurrent_requests=2), sampling, tmp_path, prompts(50))
    assert sum(served.asked.values()) <= 4
    assert totals.answers == sum(served.answered.values()), "what was on its way is kept"
    assert isinstance(answers[-1], TeacherError)


def test_nobody_waits_for_a_pause_once_one_has_failed(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.retry_after = "300"
    served.fault = lambda prompt, before: "429" if prompt == "word 0" else "404 gone"
    started = time.monotonic()
    answers, _ = ask_all(teacher(), sampling, tmp_path, prompts(2))
    assert [type(one) for one in answers] == [TeacherError, TeacherError]
    assert time.monotonic() - started < 60


def test_a_server_that_is_not_there(
    teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    absent = teacher(base_url="http://127.0.0.1:9/v1", max_retries=1)
    with pytest.raises(TeacherError, match="cannot be reached"):
        ask(absent, sampling, tmp_path, prompts(1))
    _, totals = ask_all(absent, sampling, tmp_path, prompts(1))
    assert totals.lost == 0, "nothing was sent, nothing can be charged"


CANARY = "sk-canary-4f9a1b7c"


def test_the_key_is_nowhere_but_in_the_request(
    served: Served,
    teacher: Any,
    sampling: SamplingConfig,
    prompts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PARROT_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    keyed = teacher(api_key_env="PARROT_KEY", max_retries=1)
    ask(keyed, sampling, tmp_path, prompts(2))
    assert served.keys == [f"Bearer {CANARY}"] * 2
    served.fault = lambda prompt, before: "echoed key"
    with pytest.raises(TeacherError, match="the key in PARROT_KEY") as caught:
        ask(keyed, sampling, tmp_path, prompts(1, first=5))
    assert CANARY not in str(caught.value)
    assert CANARY not in caplog.text
    written = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert written
    assert CANARY.encode() not in written
    assert CANARY not in keyed.model_dump_json()


def test_a_key_that_is_not_set(
    teacher: Any, sampling: SamplingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARROT_KEY", raising=False)

    async def make() -> None:
        EndpointAsker(teacher(api_key_env="PARROT_KEY"), sampling, tmp_path, "run")

    with pytest.raises(JobError, match="PARROT_KEY is not set"):
        asyncio.run(make())


def test_another_servers_key_is_not_sent(
    served: Served,
    teacher: Any,
    sampling: SamplingConfig,
    prompts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    ask(teacher(), sampling, tmp_path, prompts(1))
    assert CANARY not in json.dumps(served.keys)


def test_what_is_on_its_way_is_kept_when_the_asking_task_is_cancelled(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.delay_s = 0.2

    async def cancelled() -> None:
        async with EndpointAsker(teacher(), sampling, tmp_path, "run") as asker:
            task = asyncio.create_task(asker(prompts(3)))
            while sum(served.asked.values()) < 3:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    served.delay_s = 0.0
    table = ask(teacher(), sampling, tmp_path, prompts(3))
    assert table.column("completion").to_pylist() == ["WORD 0", "WORD 1", "WORD 2"]
    assert served.asked == {f"word {i}": 1 for i in range(3)}


def test_the_seed_travels_only_where_it_is_drawn_from(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    warm = sampling.model_copy(update={"temperature": 0.7, "top_p": 0.9, "stop": ["\n"]})
    ask(teacher(), sampling, tmp_path / "a", prompts(1))
    ask(teacher(), warm, tmp_path / "b", prompts(1))
    ask(teacher(send_seed=False), warm, tmp_path / "c", prompts(1))
    cold, seeded, without = served.bodies
    assert "seed" not in cold
    assert seeded["seed"] == 100
    assert (seeded["temperature"], seeded["top_p"], seeded["stop"]) == (0.7, 0.9, ["\n"])
    assert "seed" not in without
    assert prompt_of(cold) == "word 0"


def with_logprobs(body: dict[str, Any]) -> dict[str, Any]:
    """One token, of which one other is told; of word 2 nothing."""
    if prompt_of(body) == "word 2":
        return chat("Y")
    entry = {"token": "Y", "bytes": [89], "logprob": -0.25}
    return chat("Y", logprobs={"content": [{**entry, "top_logprobs": [entry]}]})


def test_top_logprobs_are_asked_for_and_kept(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.reply = with_logprobs
    told = teacher(top_logprobs=3)
    first = ask(told, sampling, tmp_path, prompts(2)).column("logprobs").to_pylist()
    one = {"token": b"Y", "token_id": None, "logprob": -0.25}
    assert first == 2 * [[{**one, "top": [one]}]]
    assert all(body["logprobs"] is True and body["top_logprobs"] == 3 for body in served.bodies)
    # What was paid for comes with them, unasked.
    again = ask(told, sampling, tmp_path, prompts(2)).column("logprobs").to_pylist()
    assert again == first
    assert len(served.bodies) == 2


def test_a_text_has_their_number_in_the_old_place(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    columns = {"tokens": ["Y"], "token_logprobs": [-0.25], "top_logprobs": [{"Y": -0.25}]}
    served.reply = lambda body: {
        "choices": [{"text": "Y", "finish_reason": "stop", "logprobs": columns}]
    }
    text = prompts(1, messages=None, text="once upon")
    table = ask(teacher(top_logprobs=3), sampling, tmp_path, text)
    assert table.column("logprobs").to_pylist()[0][0]["token"] == b"Y"
    assert served.bodies[0]["logprobs"] == 3
    assert "top_logprobs" not in served.bodies[0]


def test_an_endpoint_without_them_is_told_of_at_its_first_answer(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    told = teacher(top_logprobs=3, max_concurrent_requests=1)
    answers, totals = ask_all(told, sampling, tmp_path, prompts(5))
    assert all(isinstance(answer, TeacherError) for answer in answers)
    assert "top_logprobs: 3 were asked for" in str(answers[0])
    assert "method: sequence" in str(answers[0])
    assert totals.answers == 1


def test_one_answer_without_them_among_others_is_an_answer(
    served: Served, teacher: Any, sampling: SamplingConfig, prompts: Any, tmp_path: Path
) -> None:
    served.reply = with_logprobs
    told = teacher(top_logprobs=3, max_concurrent_requests=1)
    found = ask(told, sampling, tmp_path, prompts(4)).column("logprobs").to_pylist()
    assert [one is None for one in found] == [False, False, True, False]
