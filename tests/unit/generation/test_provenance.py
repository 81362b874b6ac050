"""What people read of everything generated, and what the student learns of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest

from raykd.config.generation import GenerationConfig
from raykd.generation.provenance import generated_table, learned_table
from raykd.generation.reasoning import split
from raykd.generation.samples import Sample
from raykd.generation.selection import select

MakeSample = Callable[..., Sample]
THOUGHT = "<think>\n3 and 4\n</think>\n\n7"


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>a</think> b", "<think>a</think>", " b"),
        ("a\n</think>\nb", "a\n</think>", "\nb"),
        ("b", None, "b"),
        ("<think>a", "<think>a", None),
        (" <think>a", " <think>a", None),
        ("say <think> aloud", None, "say <think> aloud"),
        ("", None, ""),
    ],
)
def test_reasoning_and_answer(text: str, reasoning: str | None, answer: str | None) -> None:
    parts = split(text)
    assert parts == (reasoning, answer)
    assert (parts.reasoning or "") + (parts.answer or "") == text


@pytest.mark.parametrize(
    ("how", "content", "unlearned"),
    [
        ("keep", THOUGHT, None),
        ("drop", "7", None),
        ("mask", THOUGHT, "<think>\n3 and 4\n</think>"),
    ],
)
def test_chats_to_learn_from(
    how: Literal["keep", "mask", "drop"],
    content: str,
    unlearned: str | None,
    sample: MakeSample,
) -> None:
    one = sample(THOUGHT, chat=True, prompt=5, told="be kind")
    [row] = learned_table([one], how).to_pylist()
    assert row["group"] == 5
    # What only the teacher was told is not there.
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    assert row["messages"][-1] == {
        "role": "assistant",
        "content": content,
        "unlearned": unlearned,
    }


@pytest.mark.parametrize(
    ("how", "prompt", "completion"),
    [
        ("keep", "question 0", THOUGHT),
        ("drop", "question 0", "7"),
        ("mask", "question 0<think>\n3 and 4\n</think>", "\n\n7"),
    ],
)
def test_pairs_to_learn_from(
    how: Literal["keep", "mask", "drop"], prompt: str, completion: str, sample: MakeSample
) -> None:
    [row] = learned_table([sample(THOUGHT)], how).to_pylist()
    assert row == {"prompt": prompt, "completion": completion, "group": 0}


def test_everything_generated_can_be_read(
    sample: MakeSample, generation: Callable[..., GenerationConfig]
) -> None:
    given = [
        sample(THOUGHT, chat=True, gold="7", told="be kind"),
        sample("no", chat=True, prompt=1, finish_reason="length"),
    ]
    select(given, generation(filters=[{"length": {"min_characters": 5}}]))
    rows: list[dict[str, Any]] = generated_table(given, "someone", '{"top_p": 1}').to_pylist()
    first, second = rows
    assert first["prompt"] == "question 0"
    assert (first["system"], first["gold"]) == ("be kind", "7")
    assert first["reasoning"] == "<think>\n3 and 4\n</think>"
    assert first["completion"] == THOUGHT
    assert (first["kept"], second["kept"]) == (True, False)
    assert first["verdict_length"] == "passed"
    assert second["verdict_answered"].startswith("cut off")
    assert second["verdict_length"] is None
    assert first["teacher"] == "someone"
    assert learned_table(given, "keep").num_rows == 1
