"""From texts with labels to token ids, learned positions and gold values.

Each row is one text as its encoder reads it, special tokens included. What is learned stands at its
first token, or at the first token of each word; see `schema.PREPARED` for how the mask says so.

Shapes: n tokens, p learned positions, W gold values a position, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raykd.config.classifier import Task
from raykd.config.corpus import DataConfig
from raykd.data.documents import BadRecord, BadRecords, Document, LabelledText, RunningText
from raykd.data.gold import Gold
from raykd.data.tokenize import TokenizedDocument
from raykd.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LabelSpec:
    """What a classifier is taught.

    Attributes:
        task: The task; it says what a gold value is: the number of a label (`single_label`,
            `tokens`), a 0 or 1 for each label (`multi_label`), a number (`regression`), or number
            of the pair, side in it and likeness (`embedding`). NaN is what nobody knows.
        labels: Their names, by number.
    """

    task: Task
    labels: tuple[str, ...] = ()


def label_facts(spec: LabelSpec | None) -> dict[str, Any]:
    """What prepared rows depend on beside the text; nothing for text to be continued."""
    return {} if spec is None else {"labels": asdict(spec)}


class LabelledTokenizer:
    """Tokenizes texts with their encoder's special tokens, and says what is known of each.

    Of a pair for `task: embedding` each side becomes a row of its own.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        spec: LabelSpec,
        data: DataConfig,
        bad_records: BadRecords,
    ) -> None:
        """Take the tokenizer.

        Raises:
            CorpusError: It is none of an encoder.
        """
        self._tokenizer: Any = tokenizer
        self._spec = spec
        self._data = data
        self._bad_records = bad_records
        empty = self._tokenizer("")["input_ids"]
        if len(empty) < 2 or not self._tokenizer.is_fast:
            raise CorpusError(
                f"teacher.model: the tokenizer ({self._tokenizer.name_or_path!r}) puts no special "
                "tokens around a text, or is not a fast one; a classifier needs an encoder's"
            )

    def __call__(self, documents: Iterable[Document]) -> Iterator[TokenizedDocument]:
        """Yield documents in order; one whose label cannot be read is a bad record."""
        for document in documents:
            content = document.content
            if isinstance(content, RunningText):
                content = LabelledText(content.text)
            assert isinstance(content, LabelledText), "the job's rules refuse other layouts"
            try:
                yield from self._rows(document, content)
            except BadRecord as bad:
                self._bad_records.report(document.place, str(bad), content.text)

    def _rows(self, document: Document, content: LabelledText) -> list[TokenizedDocument]:
        if self._spec.task == "tokens":
            return [self._words(document, content)]
        if self._spec.task == "embedding":
            return self._sides(document, content)
        gold = _gold(content.label, self._spec, document.place)
        return [self._whole(document, content.text, content.pair, gold)]

    def _sides(self, document: Document, content: LabelledText) -> list[TokenizedDocument]:
        likeness = _number(content.label)
        sides = [text for text in (content.text, content.pair) if text is not None]
        return [
            self._whole(document, text, None, np.array([document.index, side, likeness]))
            for side, text in enumerate(sides)
        ]

    def _whole(
        self, document: Document, text: str, pair: str | None, gold: Any
    ) -> TokenizedDocument:
        """A text that has one learned position, its first token."""
        ids, cut = self._encoded(document, text, pair)
        learn = np.zeros(len(ids), np.uint8)
        learn[1] = bool(text.strip())  # of an empty text nothing is learned
        return TokenizedDocument(
            document.index,
            document.place,
            np.asarray(ids, np.int32),
            learn,
            np.asarray(gold, np.float32)[None, :],
            cut,
        )

    def _words(self, document: Document, content: LabelledText) -> TokenizedDocument:
        """A text whose words have labels: each is learned at the first of its tokens."""
        if content.words is None:
            raise BadRecord("`task: tokens` needs a list of words; found text")
        gold = _word_gold(content, self._spec, document.place)
        encoded = self._encode(list(content.words), None, is_split_into_words=True)
        cut = self._cut(document, len(encoded["input_ids"]))
        if cut:
            encoded = self._encode(
                list(content.words), None, is_split_into_words=True, **self._shortened
            )
        words = encoded.word_ids()
        first = [
            at
            for at, word in enumerate(words)
            if word is not None and (at == 0 or words[at - 1] != word)
        ]
        learn = np.zeros(len(words), np.uint8)
        learn[np.array(first, dtype=np.int64) + 1] = 1
        chosen = gold[[words[at] for at in first]] if first else gold[:0]
        ids = np.asarray(encoded["input_ids"], np.int32)
        return TokenizedDocument(document.index, document.place, ids, learn, chosen[:, None], cut)

    def _encoded(self, document: Document, text: str, pair: str | None) -> tuple[list[int], int]:
        encoded = self._encode(text, pair)
        cut = self._cut(document, len(encoded["input_ids"]))
        if cut:
            encoded = self._encode(text, pair, **self._shortened)
        ids: list[int] = encoded["input_ids"]
        if pair is not None and "token_type_ids" in encoded:
            self._require_types(ids, encoded["token_type_ids"])
        return ids, cut

    def _encode(self, text: Any, pair: str | None, **options: Any) -> Any:
        return self._tokenizer(text, pair, add_special_tokens=True, verbose=False, **options)

    @property
    def _shortened(self) -> dict[str, Any]:
        return {"truncation": "longest_first", "max_length": self._data.sequence_length_tokens}

    def _cut(self, document: Document, num_tokens: int) -> int:
        """Tokens too many."""
        length = self._data.sequence_length_tokens
        if num_tokens > length and self._data.long_documents == "refuse":
            raise CorpusError(
                f"{document.place}: {num_tokens:,} tokens, but a row holds "
                f"data.sequence_length_tokens = {length:,}; raise it, or set data.long_documents "
                "to `cut`"
            )
        return max(0, num_tokens - length)

    def _require_types(self, ids: list[int], types: list[int]) -> None:
        """Models are told the second text by the separators before it (`models.encoder`)."""
        separators = np.cumsum(np.asarray(ids) == self._tokenizer.sep_token_id)
        rule = np.minimum(np.concatenate([[0], separators[:-1]]), 1)
        if any(types) and not np.array_equal(rule, types):
            raise BadRecord(
                f"the pair holds the separator {self._tokenizer.sep_token!r} as text, so that its "
                "two texts cannot be told apart"
            )


def _gold(label: Any, spec: LabelSpec, place: str) -> Gold:
    """Values of a text's one position [W]."""
    if spec.task == "regression":
        return np.array([_number(label)], np.float32)
    if spec.task == "single_label":
        return np.array([math.nan if label is None else _index(label, spec, place)], np.float32)
    values = np.full(len(spec.labels), math.nan, np.float32)
    if label is not None:
        if not isinstance(label, list):
            raise BadRecord(f"`task: multi_label` needs a list of labels; found {label!r}")
        values[:] = 0
        values[[_index(one, spec, place) for one in label]] = 1
    return values


def _word_gold(content: LabelledText, spec: LabelSpec, place: str) -> Gold:
    """Values of the words [words]."""
    assert content.words is not None
    labels = content.label if content.label is not None else [None] * len(content.words)
    if not isinstance(labels, list) or len(labels) != len(content.words):
        found = f"{len(labels)}" if isinstance(labels, list) else repr(labels)
        raise BadRecord(f"{len(content.words)} words need as many labels in a list; found {found}")
    values = [math.nan if one is None else _index(one, spec, place) for one in labels]
    return np.array(values, np.float32)


def _index(label: Any, spec: LabelSpec, place: str) -> int:
    """Number of a label.

    Raises:
        CorpusError: The task has no such label.
    """
    if isinstance(label, str) and label in spec.labels:
        return spec.labels.index(label)
    if type(label) is int and 0 <= label < len(spec.labels):
        return label
    shown = ", ".join(spec.labels[:20]) + (" ..." if len(spec.labels) > 20 else "")
    raise CorpusError(
        f"{place}: label {label!r} is none of the {len(spec.labels)} that the classifier has: "
        f"{shown}; mend the data, or name all of them in `classifier.labels` (a teacher must have "
        "the same)"
    )


def _number(label: Any) -> float:
    if label is None:
        return math.nan
    if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
        raise BadRecord(f"the label must be a finite number; found {label!r}")
    return float(label)
