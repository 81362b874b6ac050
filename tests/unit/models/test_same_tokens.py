from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.errors import ModelError
from raykd.models.vocab import check_same_tokens, shared_vocab_size


class Vocabulary:
    """As much of a tokenizer as is compared."""

    def __init__(self, *tokens: str) -> None:
        self._ids = {token: i for i, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self._ids


def config(vocab_size: int) -> Any:
    text = SimpleNamespace(vocab_size=vocab_size)
    return SimpleNamespace(get_text_config=lambda: text)


def test_the_same_tokenizer(tiny_tokenizer: Any) -> None:
    check_same_tokens(tiny_tokenizer, copy.deepcopy(tiny_tokenizer))


def test_a_token_more(tiny_tokenizer: Any) -> None:
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["<new>"])
    with pytest.raises(ModelError) as caught:
        check_same_tokens(tiny_tokenizer, other)
    size = len(tiny_tokenizer)
    assert f"id {size}: teacher None, student '<new>'" in str(caught.value)
    assert f"({size} and {size + 1} tokens; 1 ids differ)" in str(caught.value)


def test_the_first_five_differences_are_shown() -> None:
    teacher = Vocabulary("<eos>", *"abcdefgh")
    student = Vocabulary("<eos>", *"hgfedcba")
    with pytest.raises(ModelError) as caught:
        check_same_tokens(teacher, student)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "(9 and 9 tokens; 8 ids differ)" in message
    shown = [line.strip() for line in message.splitlines() if line.startswith("  id ")]
    assert shown == [
        "id 1: teacher 'a', student 'h'",
        "id 2: teacher 'b', student 'g'",
        "id 3: teacher 'c', student 'f'",
        "id 4: teacher 'd', student 'e'",
        "id 5: teacher 'e', student 'd'",
    ]
    assert "Choose a student of the teacher's family" in message


@pytest.mark.parametrize(("teacher", "student", "shared"), [(3, 3, 3), (8, 5, 5), (3, 128, 3)])
def test_padded_embedding_rows_are_left_out(teacher: int, student: int, shared: int) -> None:
    tokenizer: Any = Vocabulary("a", "b", "c")
    assert shared_vocab_size(tokenizer, config(teacher), config(student)) == shared


@pytest.mark.parametrize(("teacher", "student", "side"), [(2, 8, "teacher"), (8, 2, "student")])
def test_a_model_with_fewer_rows_than_ids(teacher: int, student: int, side: str) -> None:
    tokenizer: Any = Vocabulary("a", "b", "c")
    with pytest.raises(ModelError) as caught:
        shared_vocab_size(tokenizer, config(teacher), config(student))
    assert str(caught.value).startswith(
        f"{side}: its vocab_size is 2, but the tokenizer has ids up to 2"
    )


def test_padded_rows_of_real_models(tiny_tokenizer: Any, llama_config: Any) -> None:
    size = len(tiny_tokenizer)
    padded, plain = llama_config(vocab_size=384), llama_config()
    assert shared_vocab_size(tiny_tokenizer, padded, plain) == size
    assert shared_vocab_size(tiny_tokenizer, padded, padded) == 384
