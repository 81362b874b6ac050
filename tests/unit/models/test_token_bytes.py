"""Which bytes an id is, by two kinds of tokenizers."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.errors import ModelError
from raykd.models.token_bytes import token_bytes

TEXT = "The müde stone 😀, 中文\n\n  a\ttab."


@pytest.fixture(scope="module")
def sentence_piece() -> Any:
    """BPE with byte tokens, as Llama 2 and Mistral have."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", "T", "h", "e", "a", "Th", "The", "A", "\u2581a", "\n"]
    merges = [("T", "h"), ("Th", "e"), ("\u2581", "a")]
    machine = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    machine.normalizer = normalizers.Replace(" ", "\u2581")
    machine.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=machine, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("name", ["tiny_tokenizer", "sentence_piece"])
def test_the_bytes_of_a_texts_tokens_are_the_text(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    found = token_bytes(tokenizer, len(tokenizer))
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(found.of_id[i] or b"?" for i in ids) == TEXT.encode()
    assert all(i in found.ids[found.of_id[i]] for i in ids)  # type: ignore[index]


def test_a_character_comes_before_its_byte(sentence_piece: Any) -> None:
    found = token_bytes(sentence_piece, len(sentence_piece))
    vocabulary = sentence_piece.get_vocab()
    assert found.ids[b"A"] == (vocabulary["A"], vocabulary["<0x41>"])
    assert found.ids[b"\xf0"] == (vocabulary["<0xF0>"],)


def test_special_tokens_have_no_bytes_of_text(tiny_tokenizer: Any) -> None:
    found = token_bytes(tiny_tokenizer, len(tiny_tokenizer))
    end = tiny_tokenizer.eos_token_id
    assert found.of_id[end] is None
    assert found.ids[b"<eos>"] == (end,)


def test_ids_that_no_text_has_come_first_and_ends_are_not_among_them(tiny_tokenizer: Any) -> None:
    wide = len(tiny_tokenizer) + 3
    found = token_bytes(tiny_tokenizer, wide)
    user, pad = tiny_tokenizer.convert_tokens_to_ids(["<|user|>", "<pad>"])
    assert found.unwritten[:5] == (wide - 1, wide - 2, wide - 3, user, pad)
    ends = tiny_tokenizer.convert_tokens_to_ids(["<eos>", "<|end|>", "<|assistant|>"])
    assert not set(ends) & set(found.unwritten)
    # The rarest follow: what was merged last.
    assert found.unwritten[-1] == min(i for i, content in enumerate(found.of_id) if content)


def test_ids_beyond_the_logits_are_left_out(tiny_tokenizer: Any) -> None:
    found = token_bytes(tiny_tokenizer, 300)
    assert len(found.of_id) == 300
    assert max(i for each in found.ids.values() for i in each) < 300


def test_word_pieces_are_refused(encoder_tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"top_logprobs: which bytes .* `method: sequence`"):
        token_bytes(encoder_tokenizer, len(encoder_tokenizer))
