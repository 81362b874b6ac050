"""Which tokens are masked: how many, which never, and that nothing but the document decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.config.corpus import ColumnsConfig, CorpusConfig, DataConfig
from raykd.data.corpus import read_documents
from raykd.data.documents import BadRecords, Document
from raykd.data.masked import MaskedTokenizer, MaskingSpec, masked_tokens, taught_facts
from raykd.data.prepare import open_rows, prepare, prepare_set
from raykd.data.tokenize import TokenizedDocument
from raykd.errors import CorpusError

Write = Callable[..., Path]
SPEC = MaskingSpec(fraction=0.15, maskings=3, seed=5)
TEXTS = [
    {"text": "the wind moves over the river"},
    {"text": "a teacher learns"},
    {"text": ""},
    {"text": "the [MASK] moves, zebra"},
]


def corpus(path: Path) -> CorpusConfig:
    return CorpusConfig(source=str(path), columns=ColumnsConfig(text="text"))


def settings(found: CorpusConfig, length: int = 16, **data: Any) -> DataConfig:
    given = {"packing": "pad", "long_documents": "cut", **data}
    return DataConfig(corpus=found, sequence_length_tokens=length, **given)


def tokenized(
    tokenizer: Any, found: CorpusConfig, documents: list[Document], spec: MaskingSpec = SPEC
) -> list[TokenizedDocument]:
    bad = BadRecords.of(found, "data.corpus", None)
    return list(MaskedTokenizer(tokenizer, spec, settings(found), bad)(documents))


def test_each_copy_has_masks_of_its_own_whatever_the_order(
    write_jsonl: Write, encoder_tokenizer: Any
) -> None:
    found = corpus(write_jsonl(TEXTS))
    documents = list(read_documents(found, BadRecords.of(found, "data.corpus", None)))
    forwards = tokenized(encoder_tokenizer, found, documents)
    backwards = tokenized(encoder_tokenizer, found, documents[::-1])
    assert [row.index for row in forwards] == sorted(3 * list(range(len(TEXTS))))
    found_by = {
        index: [row.learn.tolist() for row in backwards if row.index == index]
        for index in range(len(TEXTS))
    }
    for index, masks in found_by.items():
        assert masks == [row.learn.tolist() for row in forwards if row.index == index]
    assert len({tuple(mask) for mask in found_by[0]}) > 1
    other = MaskingSpec(SPEC.fraction, SPEC.maskings, SPEC.seed + 1)
    again = tokenized(encoder_tokenizer, found, documents, other)
    assert [row.learn.tolist() for row in again] != [row.learn.tolist() for row in forwards]


def test_special_tokens_are_never_masked(write_jsonl: Write, encoder_tokenizer: Any) -> None:
    found = corpus(write_jsonl(TEXTS))
    documents = list(read_documents(found, BadRecords.of(found, "data.corpus", None)))
    everything = MaskingSpec(fraction=0.999999, maskings=1, seed=1)
    rows = tokenized(encoder_tokenizer, found, documents, everything)
    special = set(encoder_tokenizer.all_special_ids)
    for row in rows:
        assert row.learn.tolist() == [int(token not in special) for token in row.input_ids]
    assert encoder_tokenizer.mask_token_id in rows[3].input_ids
    assert not rows[2].learn.any()  # of an empty text nothing is learned


def test_the_fraction_is_that_of_the_job() -> None:
    may = np.ones(200, bool)
    may[::10] = False
    masked = [
        masked_tokens(may, SPEC, document, copy) for document in range(200) for copy in range(3)
    ]
    num = len(masked) * int(may.sum())
    total = sum(int(one.sum()) for one in masked)
    spread = math.sqrt(num * 0.15 * 0.85)
    assert abs(total - 0.15 * num) < 4 * spread
    # Places do not go together: pairs of neighbours as often as independent draws would be.
    pairs = sum(int((one[1:9] & one[2:10]).sum()) for one in masked)
    expected = 8 * len(masked) * 0.15**2
    assert abs(pairs - expected) < 5 * math.sqrt(expected)
    assert not any(one[~may].any() for one in masked)


def test_a_short_text_has_one_mask_at_least() -> None:
    rare = MaskingSpec(fraction=0.001, maskings=1, seed=0)
    may = np.array([False, True, True, False])
    masks = [masked_tokens(may, rare, document, 0) for document in range(100)]
    assert {int(one.sum()) for one in masks} == {1}
    assert {int(one.argmax()) for one in masks} == {1, 2}
    assert not masked_tokens(~may & may, rare, 0, 0).any()


def test_rows_keep_their_ids_and_say_what_is_masked(
    write_jsonl: Write, encoder_tokenizer: Any, tmp_path: Path
) -> None:
    found = corpus(write_jsonl([TEXTS[0]]))
    bad = BadRecords.of(found, "data.corpus", None)
    stats = prepare_set(
        found, settings(found), encoder_tokenizer, tmp_path / "rows", None, bad, SPEC
    )
    assert stats.rows == 3
    prepared = open_rows(tmp_path / "rows")
    rows = prepared.take(np.arange(3, dtype=np.int64))
    ids = encoder_tokenizer(TEXTS[0]["text"])["input_ids"]
    for at in range(3):
        assert rows.column("input_ids")[at].as_py()[: len(ids)] == ids
        mask = rows.column("loss_mask")[at].as_py()
        wanted = masked_tokens(
            ~np.isin(ids, encoder_tokenizer.all_special_ids), SPEC, 0, at
        ).tolist()
        assert mask[: len(ids) - 1] == wanted[1:]
    assert not (tmp_path / "rows" / "gold.npy").exists()


def test_copies_of_one_document_are_one(
    write_jsonl: Write, encoder_tokenizer: Any, tmp_path: Path, make_job: Callable[..., Any]
) -> None:
    """One must be held out and one learned from: two maskings of one text are no two texts."""
    changes = {
        "method": "classifier",
        "classifier": {"task": "masked", "maskings": 3},
        "data": {
            "corpus": {"source": str(write_jsonl([TEXTS[0]]))},
            "sequence_length_tokens": 16,
            "packing": "pad",
            "long_documents": "cut",
        },
        "soft_targets": {},
        "loss": {},
    }
    with pytest.raises(CorpusError, match="only one document has something to learn"):
        prepare(make_job(changes), encoder_tokenizer, tmp_path / "d", tmp_path / "l", labels=SPEC)


def test_other_masks_are_other_rows() -> None:
    facts = [taught_facts(spec) for spec in (SPEC, MaskingSpec(0.2, 3, 5), None)]
    assert facts[0] != facts[1]
    assert facts[2] == {}


def test_a_long_text_is_cut_or_refused(write_jsonl: Write, encoder_tokenizer: Any) -> None:
    found = corpus(write_jsonl([{"text": "the wind " * 20}]))
    (row,) = tokenized(
        encoder_tokenizer,
        found,
        list(read_documents(found, BadRecords.of(found, "x", None))),
        MaskingSpec(0.15, 1, 0),
    )
    assert len(row.input_ids) == 16
    assert row.tokens_cut > 0
    assert row.input_ids[-1] == encoder_tokenizer.sep_token_id
    bad = BadRecords.of(found, "x", None)
    strict = MaskedTokenizer(encoder_tokenizer, SPEC, settings(found, long_documents="refuse"), bad)
    with pytest.raises(CorpusError, match=r"raise it, or set data\.long_documents"):
        list(strict(read_documents(found, bad)))
