"""Documents that are held out together, and parts of messages that are read and not learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raykd.config.corpus import ColumnsConfig, CorpusConfig
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords, Chat, Document, Prompt
from raykd.data.tokenize import DocumentTokenizer
from raykd.errors import CorpusError

THOUGHT = "<think>no and then</think>"


def learned(tokenizer: Any, *messages: dict[str, Any]) -> str:
    document = Document(0, "here", Chat(list(messages)))
    [found] = DocumentTokenizer(tokenizer, True, BadRecords())([document])
    kept = [i for i, learn in zip(found.input_ids, found.learn, strict=True) if learn]
    return str(tokenizer.decode(kept))


def test_what_is_not_to_be_learned_is_only_read(tiny_tokenizer: Any) -> None:
    user = {"role": "user", "content": "the river"}
    said = {"role": "assistant", "content": f"{THOUGHT} a stone", "unlearned": None}
    assert learned(tiny_tokenizer, user, said) == f"{THOUGHT} a stone<|end|>"
    masked = {**said, "unlearned": THOUGHT}
    assert learned(tiny_tokenizer, user, masked) == " a stone<|end|>"
    # Of two turns only the one that says so.
    assert learned(tiny_tokenizer, user, said, user, masked) == (
        f"{THOUGHT} a stone<|end|> a stone<|end|>"
    )


def test_a_template_that_leaves_it_out_is_told(tiny_tokenizer: Any) -> None:
    user = {"role": "user", "content": "the river"}
    said = {"role": "assistant", "content": "a stone", "unlearned": THOUGHT}
    with pytest.raises(CorpusError, match="leaves out what of an assistant's message"):
        learned(tiny_tokenizer, user, said)


def test_a_template_that_marks_for_itself_is_told(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    said = {"role": "assistant", "content": f"{THOUGHT} a", "unlearned": THOUGHT}
    with pytest.raises(CorpusError, match=r"generation\.reasoning: keep"):
        learned(tokenizer, {"role": "user", "content": "the"}, said)


def test_documents_of_a_group_have_its_number(tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    source.write_text("".join(json.dumps({"t": "a", "g": g}) + "\n" for g in (4, 9, 4)))
    columns = ColumnsConfig(text="t", group="g")
    corpus = CorpusConfig(source=str(source), columns=columns)
    assert [one.index for one in read_documents(corpus, BadRecords())] == [4, 9, 4]


@pytest.mark.parametrize("group", ["a", -1, True, None, 1.5])
def test_a_group_is_a_whole_number(group: object, tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    source.write_text(json.dumps({"t": "a", "g": group}) + "\n")
    columns = ColumnsConfig(text="t", group="g")
    corpus = CorpusConfig(source=str(source), columns=columns)
    with pytest.raises(CorpusError, match="'g' must be a whole number of at least 0"):
        list(read_documents(corpus, BadRecords()))


def test_a_prompt_alone_is_no_document(tiny_tokenizer: Any) -> None:
    document = Document(0, "c.jsonl:4", Prompt("the river"))
    with pytest.raises(CorpusError, match=r"c\.jsonl:4: a prompt without a completion"):
        list(DocumentTokenizer(tiny_tokenizer, True, BadRecords())([document]))
