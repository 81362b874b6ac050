"""From documents to token ids, and which of them are learned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raykd.data.documents import (
    BadRecord,
    BadRecords,
    Chat,
    Document,
    LabelledText,
    Prompt,
    PromptCompletion,
)
from raykd.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 4_000_000

_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class TokenizedDocument:
    """A document as tokens.

    Attributes:
        index: The document's number in its corpus.
        place: Where it stands, for messages.
        input_ids: int32 [n].
        learn: uint8 [n]; 1 where that token itself is to be learned.
        gold: float32 [p, W], of a classifier's document: what is known at each of its p learned
            positions, NaN where nothing is (`data.gold`).
        tokens_cut: Tokens that it was shortened by already.
        slice: The slice of the data that it is of; None where the corpus names none.
    """

    index: int
    place: str
    input_ids: npt.NDArray[np.int32]
    learn: npt.NDArray[np.uint8]
    gold: npt.NDArray[np.float32] | None = None
    tokens_cut: int = 0
    slice: str | None = None


class DocumentTokenizer:
    """Tokenizes documents in order, many at a time.

    Running text begins with the tokenizer's begin-of-text token where it has such a habit, and ends
    with end-of-text if `append_eos`; a completion ends so too. A chat ends as its template ends it.
    Prompt and completion are tokenized apart, so that generating after the prompt meets the same
    tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, append_eos: bool, bad_records: BadRecords
    ) -> None:
        """Take the tokenizer and what to do with a chat that its template refuses.

        Raises:
            CorpusError: `append_eos` without an end-of-text token.
        """
        self._tokenizer: Any = tokenizer
        self._bad_records = bad_records
        self._begin = self._begin_tokens()
        self._end = self._end_tokens() if append_eos else []

    def __call__(self, documents: Iterable[Document]) -> Iterator[TokenizedDocument]:
        """Yield documents in order; a chat that cannot be rendered is a bad record."""
        for batch in _batches(documents):
            if isinstance(batch[0].content, Chat):
                yield from self._chats(batch)
            else:
                yield from self._texts(batch)

    def _texts(self, batch: list[Document]) -> Iterator[TokenizedDocument]:
        parts = [_parts(document) for document in batch]
        encoded = iter(self._encode([text for pair in parts for text in pair]))
        for document, pair in zip(batch, parts, strict=True):
            first = next(encoded)
            if len(pair) == 1 and not first:  # an empty text is no lesson in ending at once
                yield _tokenized(document, [], [])
                continue
            ids = [*self._begin, *first]
            num_read = 0
            if len(pair) == 2:
                num_read = len(ids)
                ids += next(encoded)
            if ids[-1:] != self._end:
                ids += self._end
            yield _tokenized(document, ids, [0] * num_read + [1] * (len(ids) - num_read))

    def _chats(self, batch: list[Document]) -> Iterator[TokenizedDocument]:
        template = self._chat_template()
        render = self._by_generation if _GENERATION_BLOCK.search(template) else self._by_turns
        for document in batch:
            assert isinstance(document.content, Chat)
            try:
                ids, learn = render(document.content.messages)
            except BadRecord as bad:
                excerpt = repr(document.content.messages)
                self._bad_records.report(document.place, str(bad), excerpt)
                continue
            yield _tokenized(document, ids, learn)

    def _by_generation(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """The template itself marks what the assistant says."""
        encoded = self._template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        if any(message.get("unlearned") for message in messages):
            raise BadRecord(
                "part of a message is not to be learned, and the chat template's {% generation %} "
                "blocks say otherwise; use `generation.reasoning: keep` or `drop`"
            )
        return encoded["input_ids"], encoded["assistant_masks"]

    def _by_turns(self, messages: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """Find the assistant's turns by rendering the chat up to each of them."""
        whole = self._template(messages, tokenize=False)
        spans = [
            self._turn_span(messages, turn, whole)
            for turn, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        encoded = self._tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        learn = [
            int(any(start <= first < stop for start, stop in spans))
            for first, _ in encoded["offset_mapping"]
        ]
        return encoded["input_ids"], learn

    def _turn_span(self, messages: list[dict[str, Any]], turn: int, whole: str) -> tuple[int, int]:
        """Characters [start, stop) of `whole` that the assistant says in `turn`."""
        after = self._template(messages[: turn + 1], tokenize=False)
        before = self._before(messages[:turn], after)
        if not (after.startswith(before) and whole.startswith(after)):
            raise BadRecord(
                f"the chat template renders the messages before message {turn + 1} in another way "
                "once it follows, so what the assistant says there cannot be told apart; use a "
                "chat template with {% generation %} blocks, or prompt and completion columns"
            )
        return len(before) + _unlearned(messages[turn], whole[len(before) : len(after)]), len(after)

    def _before(self, earlier: list[dict[str, Any]], after: str) -> str:
        """What stands in `after` before the assistant speaks, its header included if it can be."""
        if not earlier:  # nothing can be rendered, yet a default system prompt may stand there
            header = self._assistant_header()
            return after[: after.find(header) + len(header)] if header in after else ""
        before: str = self._template(earlier, tokenize=False, add_generation_prompt=True)
        if not after.startswith(before):
            before = self._template(earlier, tokenize=False)
        return before

    def _assistant_header(self) -> str:
        """What the template writes to let the assistant speak."""
        asked = [{"role": "user", "content": "x"}]
        without: str = self._template(asked, tokenize=False)
        whole: str = self._template(asked, tokenize=False, add_generation_prompt=True)
        return whole.removeprefix(without)

    def _template(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        import jinja2

        try:
            return self._tokenizer.apply_chat_template(messages, **options)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise BadRecord(
                f"the tokenizer's chat template refuses the messages: {error}"
            ) from error

    def _encode(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # rows are cut to length later; longer documents are no mistake
        )["input_ids"]
        return ids

    def _begin_tokens(self) -> list[int]:
        bos = self._tokenizer.bos_token_id
        habit = self._tokenizer("", add_special_tokens=True)["input_ids"]
        return [bos] if bos is not None and list(habit[:1]) == [bos] else []

    def _end_tokens(self) -> list[int]:
        if self._tokenizer.eos_token_id is None:
            raise CorpusError(
                "data.append_eos: the tokenizer has no end-of-text token; set it to false"
            )
        return [self._tokenizer.eos_token_id]

    def _chat_template(self) -> str:
        field = self._bad_records.field
        if not self._tokenizer.chat_template:
            raise CorpusError(
                f"{field}.columns.messages: the tokenizer ({self._tokenizer.name_or_path!r}) has "
                "no chat template; use a model with one, or `prompt` and `completion` columns"
            )
        if not self._tokenizer.is_fast:
            raise CorpusError(
                f"{field}.columns.messages: the tokenizer ({self._tokenizer.name_or_path!r}) does "
                "not say which characters its tokens cover (it is not a fast one); use `prompt` "
                "and `completion` columns"
            )
        template: str = self._tokenizer.get_chat_template()
        return template


def _unlearned(message: dict[str, Any], said: str) -> int:
    """Characters at the start of what the assistant says that are not to be learned."""
    part = message.get("unlearned")
    if not part:
        return 0
    at = said.find(part)
    if at < 0:
        raise BadRecord(
            "the chat template leaves out what of an assistant's message is not to be learned"
        )
    return at + len(part)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents, bounded in number and in characters."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += sum(len(text) for text in _parts(document))
        if len(batch) == BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _parts(document: Document) -> tuple[str, ...]:
    content = document.content
    if isinstance(content, Chat):
        return tuple(message["content"] for message in content.messages)
    if isinstance(content, PromptCompletion):
        return (content.prompt, content.completion)
    if isinstance(content, Prompt):
        raise CorpusError(
            f"{document.place}: a prompt without a completion has nothing to learn or to measure; "
            "name the completions' column (`columns: {completion: ...}`)"
        )
    assert not isinstance(content, LabelledText), "classifiers tokenize for themselves"
    return (content.text,)


def _tokenized(document: Document, ids: list[int], learn: list[int]) -> TokenizedDocument:
    return TokenizedDocument(
        document.index,
        document.place,
        np.asarray(ids, dtype=np.int32),
        np.asarray(learn, dtype=np.uint8),
        slice=document.slice,
    )
