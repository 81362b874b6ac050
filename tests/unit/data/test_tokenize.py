from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import pytest
from letter_tokenizer import FORGETFUL, GENERATION, PREAMBLE, TURNS, letter_tokenizer
from tokenizers.processors import TemplateProcessing

from raykd.data import tokenize
from raykd.data.documents import BadRecords, Chat, Content, Document, PromptCompletion, RunningText
from raykd.data.tokenize import DocumentTokenizer, TokenizedDocument
from raykd.errors import CorpusError

CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "ho"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "bc"},
]


def run(
    contents: Iterable[Content],
    tokenizer: Any,
    append_eos: bool = True,
    bad_records: BadRecords | None = None,
) -> list[TokenizedDocument]:
    documents = (Document(i, f"f.jsonl:{i + 1}", c) for i, c in enumerate(contents))
    return list(DocumentTokenizer(tokenizer, append_eos, bad_records or BadRecords())(documents))


def tokens(document: TokenizedDocument, tokenizer: Any) -> list[str]:
    return tokenizer.convert_ids_to_tokens(document.input_ids.tolist())


def learned(document: TokenizedDocument, tokenizer: Any) -> list[str]:
    return tokenizer.convert_ids_to_tokens(document.input_ids[document.learn == 1].tolist())


def test_running_text_is_learned_whole_and_ends(tokenizer) -> None:
    first, second = run([RunningText("ab c"), RunningText("d")], tokenizer)
    assert tokens(first, tokenizer) == ["a", "b", " ", "c", "<eos>"]
    assert first.learn.tolist() == [1] * 5
    assert (first.input_ids.dtype, first.learn.dtype) == ("int32", "uint8")
    assert (second.index, second.place) == (1, "f.jsonl:2")


def test_without_end_of_text(tokenizer) -> None:
    (document,) = run([RunningText("ab")], tokenizer, append_eos=False)
    assert tokens(document, tokenizer) == ["a", "b"]


def test_the_end_is_not_doubled(tokenizer) -> None:
    (document,) = run([RunningText("ab<eos>")], tokenizer)
    assert tokens(document, tokenizer) == ["a", "b", "<eos>"]


def test_an_empty_text_has_no_tokens(tokenizer) -> None:
    (document,) = run([RunningText("")], tokenizer)
    assert document.input_ids.tolist() == []


@pytest.mark.parametrize("with_end", [False, True])
def test_begin_of_text_comes_first_where_the_tokenizer_puts_it(with_end: bool) -> None:
    tokenizer = letter_tokenizer(bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>" if with_end else "<bos> $A",
        special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)],
    )
    text, pair = run([RunningText("a")], tokenizer) + run([PromptCompletion("q", "a")], tokenizer)
    assert tokens(text, tokenizer) == ["<bos>", "a", "<eos>"]
    assert tokens(pair, tokenizer) == ["<bos>", "q", "a", "<eos>"]
    assert pair.learn.tolist() == [0, 0, 1, 1]


def test_a_begin_token_that_is_only_named_is_not_put(tokenizer) -> None:
    (document,) = run([RunningText("a")], letter_tokenizer(bos_token="<bos>"), append_eos=False)
    assert tokens(document, tokenizer) == ["a"]


def test_only_the_completion_is_learned(tokenizer) -> None:
    first, second = run([PromptCompletion("ab ", "cd"), PromptCompletion("", "x")], tokenizer)
    assert tokens(first, tokenizer) == ["a", "b", " ", "c", "d", "<eos>"]
    assert first.learn.tolist() == [0, 0, 0, 1, 1, 1]
    assert second.learn.tolist() == [1, 1]


@pytest.mark.parametrize("template", [TURNS, GENERATION])
def test_only_what_the_assistant_says_is_learned(template: str) -> None:
    tokenizer = letter_tokenizer(chat_template=template)
    (document,) = run([Chat(CHAT)], tokenizer)
    assert tokens(document, tokenizer) == [
        *("<|user|>", "h", "i", "<|end|>", "<|assistant|>", "h", "o", "<|end|>"),
        *("<|user|>", "a", "<|end|>", "<|assistant|>", "b", "c", "<|end|>"),
    ]
    assert document.learn.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("template", [TURNS, GENERATION, PREAMBLE])
def test_a_chat_that_the_assistant_begins(template: str) -> None:
    tokenizer = letter_tokenizer(chat_template=template)
    (document,) = run([Chat(CHAT[1:3])], tokenizer)
    assert learned(document, tokenizer) == ["h", "o", "<|end|>"]


def test_a_chat_without_an_assistant_teaches_nothing() -> None:
    (document,) = run([Chat(CHAT[:1])], letter_tokenizer(chat_template=TURNS))
    assert document.learn.tolist() == [0, 0, 0, 0]


def test_a_template_that_changes_earlier_turns_is_an_error() -> None:
    tokenizer = letter_tokenizer(chat_template=FORGETFUL)
    with pytest.raises(CorpusError, match=r"f\.jsonl:1: the chat template renders.*generation"):
        run([Chat(CHAT)], tokenizer)


def test_a_chat_that_the_template_refuses_is_a_bad_record() -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    tokenizer = letter_tokenizer(chat_template=template + TURNS)
    with pytest.raises(CorpusError, match=r"f\.jsonl:2: .*chat template refuses.*user first"):
        run([Chat(CHAT), Chat(CHAT[1:])], tokenizer)
    bad_records = BadRecords(skip=True)
    documents = run([Chat(CHAT), Chat(CHAT[1:]), Chat(CHAT)], tokenizer, bad_records=bad_records)
    assert [d.index for d in documents] == [0, 2]
    assert bad_records.count == 1


def test_messages_without_a_chat_template(tokenizer) -> None:
    with pytest.raises(CorpusError, match=r"data\.corpus\.columns\.messages: .*no chat template"):
        run([Chat(CHAT)], tokenizer)


def test_end_of_text_without_such_a_token() -> None:
    with pytest.raises(CorpusError, match=r"data\.append_eos: .*no end-of-text token"):
        run([RunningText("a")], letter_tokenizer(eos_token=None))


def test_many_documents_come_in_order_and_in_batches(
    tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(tokenize, "BATCH_CHARACTERS", 40)
    wanted = [chr(ord("a") + i % 26) * (i % 13 + 1) for i in range(100)]
    documents = run([RunningText(text) for text in wanted], tokenizer, append_eos=False)
    assert ["".join(tokens(d, tokenizer)) for d in documents] == wanted
    assert [d.index for d in documents] == list(range(100))


def test_documents_are_tokenized_as_they_are_asked_for(tokenizer) -> None:
    """Memory stays flat only if no more than a batch is read ahead."""
    read = 0

    def documents():
        nonlocal read
        for index in range(10_000):
            read += 1
            yield Document(index, "x", RunningText("ab"))

    next(iter(DocumentTokenizer(tokenizer, True, BadRecords())(documents())))
    assert read <= tokenize.BATCH_DOCUMENTS


@pytest.mark.parametrize("content", [RunningText("abcdefgh"), Chat(CHAT)])
@pytest.mark.parametrize("template", [TURNS, GENERATION])
def test_long_documents_make_no_warning(
    content: Content, template: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = letter_tokenizer(model_max_length=4, chat_template=template)
    logging.getLogger("transformers").propagate = True
    try:
        with caplog.at_level(logging.WARNING):
            run([content], tokenizer)
            assert caplog.records == []
            tokenizer("abcdefgh")  # the warning is there to be had
            assert caplog.records != []
    finally:
        logging.getLogger("transformers").propagate = False
