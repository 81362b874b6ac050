"""Prompt log probabilities as soft targets, from a stand-in of what vLLM hands over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from raykd.errors import SoftTargetError, TeacherError
from raykd.soft_targets import codec, top_k
from raykd.soft_targets.codec import Encoded, TokenError
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.vllm_documents import Document
from raykd.teacher.vllm_logprobs import Read, encode_top_k, num_asked, read, whole_rows

VOCAB = 50
SPEC = CodecSpec("top_k", VOCAB, top_k=4, values="fp32")


@dataclass
class Flat:
    """`vllm.logprobs.FlatLogprobs`: of the first token nothing, then the label, the likeliest."""

    start_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


def flat_of(logits_TV: torch.Tensor, token_ids: list[int], asked: int) -> Flat:
    """As vLLM does: normalised over all ids, likeliest first, the prompt's own token before."""
    logprobs_TV = logits_TV.log_softmax(1)
    flat = Flat([0], [], [])
    for row, label in zip(logprobs_TV, token_ids[1:], strict=False):
        flat.start_indices.append(len(flat.token_ids))
        values, ids = row.topk(asked)
        flat.token_ids += [label, *ids.tolist()]
        flat.logprobs += [row[label].item(), *values.tolist()]
    return flat


def document_of(num_tokens: int, wanted: list[int], vocab_size: int = VOCAB) -> Document:
    draw = np.random.default_rng(num_tokens)
    return Document(0, 0, draw.integers(0, vocab_size, num_tokens).tolist(), np.array(wanted))


def logits_of(num_tokens: int, vocab_size: int = VOCAB, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(num_tokens, vocab_size, generator=torch.manual_seed(0)) * scale


def test_only_wanted_tokens_are_read() -> None:
    document = document_of(9, [0, 3, 7])
    logits = logits_of(9)
    said = read(flat_of(logits, document.token_ids, 5), document)
    expected = logits.log_softmax(1)[document.wanted]
    np.testing.assert_allclose(said.logprobs_MC, expected.topk(5).values, atol=1e-6)
    assert said.ids_MC.tolist() == expected.topk(5).indices.tolist()
    labels = [document.token_ids[at + 1] for at in (0, 3, 7)]
    np.testing.assert_allclose(said.label_logprobs_M, expected[range(3), labels].numpy(), atol=1e-6)


@pytest.mark.parametrize("values", ["fp32", "bf16", "int8", "int6"])
def test_columns_are_those_of_the_codec_on_the_same_logits(values: str) -> None:
    spec = CodecSpec("top_k", VOCAB, top_k=4, values=values)
    document = document_of(30, list(range(29)))
    logits = logits_of(30)
    ours = encode_top_k(read(flat_of(logits, document.token_ids, 5), document), spec)
    theirs = top_k.encode(logits[:29], torch.from_numpy(document.labels), spec)
    assert list(ours.columns) == list(theirs.columns)
    for name, column in ours.columns.items():
        assert column.dtype == theirs.columns[name].dtype
        assert column.shape == theirs.columns[name].shape
        difference = (as_mass(ours, name) - as_mass(theirs, name)).abs().max().item()
        allowed = 2e-6 if column.dtype == torch.float32 else 1
        assert difference <= allowed, name


def as_mass(encoded: Encoded, name: str) -> torch.Tensor:
    """Float64; a tail as its mass, whose float32 rest of 1 has digits to 1e-7, not as its log."""
    column = encoded.columns[name].double()
    return column.exp() if name == top_k.LOG_TAIL else column


def test_a_tail_smaller_than_float32_shows_keeps_its_bounds() -> None:
    """1 - kept is a rounding error there: what the next likeliest id allows is taken."""
    logits = torch.full((2, VOCAB), -30.0)
    logits[:, :4] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    document = document_of(3, [0, 1])
    encoded = encode_top_k(read(flat_of(logits, document.token_ids, 5), document), SPEC)
    log_tail = encoded.columns[top_k.LOG_TAIL][:, 0]
    next_logprob = logits.double().log_softmax(1)[0, 4].item()
    assert (
        (log_tail >= next_logprob - 1e-4) & (log_tail <= next_logprob + math.log(46) + 1e-4)
    ).all()


def test_no_tail_is_left_of_a_whole_vocabulary() -> None:
    spec = CodecSpec("top_k", 6, top_k=6, values="fp32")
    document = document_of(4, [0, 1, 2], vocab_size=6)
    assert num_asked(spec, 6) == 6
    said = read(flat_of(logits_of(4, 6), document.token_ids, 6), document)
    encoded = encode_top_k(said, spec)
    assert (encoded.columns[top_k.LOG_TAIL] == -math.inf).all()
    assert (
        "target_log_tail"
        not in encode_top_k(said, CodecSpec("top_k", 6, top_k=6, tail=False)).columns
    )


def test_equals_are_told_lowest_id_first() -> None:
    logits = torch.zeros(2, VOCAB)
    logits[:, [30, 10, 20, 5, 40]] = 4.0
    document = document_of(3, [0, 1])
    encoded = encode_top_k(read(flat_of(logits, document.token_ids, 5), document), SPEC)
    assert encoded.columns[top_k.IDS].tolist() == [
        sorted(row) for row in encoded.columns[top_k.IDS].tolist()
    ]


def test_ids_of_a_padded_head_take_no_mass() -> None:
    """Two rows beyond the shared vocabulary, both likely: they are named, so all is exact."""
    logits = logits_of(20, VOCAB + 2)
    logits[:, VOCAB] = logits.amax(1) + 1
    logits[:, VOCAB + 1] = logits[:, :VOCAB].amax(1) - 0.1
    document = document_of(20, list(range(19)))
    asked = num_asked(SPEC, VOCAB + 2)
    assert asked == 7
    ours = encode_top_k(read(flat_of(logits, document.token_ids, asked), document), SPEC)
    theirs = top_k.encode(logits[:19, :VOCAB], torch.from_numpy(document.labels), SPEC)
    for name in theirs.columns:
        np.testing.assert_allclose(
            as_mass(ours, name), as_mass(theirs, name), atol=2e-5, err_msg=name
        )


def test_too_many_likely_ids_of_a_padded_head_are_refused() -> None:
    logits = logits_of(3, VOCAB + 40)
    logits[:, VOCAB:] += 20
    document = document_of(3, [0, 1])
    said = read(flat_of(logits, document.token_ids, num_asked(SPEC, VOCAB + 40)), document)
    with pytest.raises(SoftTargetError, match="full_vocabulary"):
        encode_top_k(said, SPEC)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_no_number_is_named(bad: float) -> None:
    ids = np.tile(np.arange(5), (3, 1))
    logprobs = np.tile(np.log([0.4, 0.3, 0.1, 0.1, 0.05]).astype(np.float32), (3, 1))
    logprobs[1] = bad
    with pytest.raises(TokenError, match="log probabilities") as caught:
        encode_top_k(Read(ids, logprobs, logprobs[:, 0]), SPEC)
    assert caught.value.token == 1


def test_every_log_probability_serves_as_logits() -> None:
    """At every temperature, for every codec: a constant a token is no difference."""
    document = document_of(12, [0, 2, 10])
    logits = logits_of(12)
    flat = flat_of(logits, document.token_ids, VOCAB)
    rows = whole_rows(read(flat, document), VOCAB, 48)
    labels = torch.from_numpy(document.labels % 48)
    spec = CodecSpec("top_k", 48, (1.0, 0.7, 4.0), top_k=5, values="fp32")
    ours = codec.encode(rows, labels, None, spec)
    theirs = codec.encode(logits[document.wanted][:, :48], labels, None, spec)
    for name, column in theirs.columns.items():
        np.testing.assert_allclose(ours.columns[name], column, atol=1e-5, err_msg=name)


def test_answers_that_are_not_of_this_prompt_are_refused() -> None:
    document = document_of(6, [0, 4])
    flat = flat_of(logits_of(6), document.token_ids, 5)
    others = Document(0, 0, [(one + 1) % VOCAB for one in document.token_ids], document.wanted)
    with pytest.raises(TeacherError, match="other tokens"):
        read(flat, others)
    # A prefix that came from a cache has no log probabilities.
    short: Any = Flat(flat.start_indices[:3], flat.token_ids[:12], flat.logprobs[:12])
    with pytest.raises(TeacherError, match="at 3 tokens of a prompt of 6"):
        read(short, document)
    with pytest.raises(TeacherError, match="not all"):
        whole_rows(read(flat, document), VOCAB, VOCAB)
