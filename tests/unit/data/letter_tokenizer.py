"""A tokenizer of a few words and letters, made here, so that expected ids can be read off."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<pad>", "<eos>", "<bos>", "<|user|>", "<|assistant|>", "<|end|>"]

TURNS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GENERATION = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# As some templates do: a system prompt where the messages have none.
PREAMBLE = "{% if messages[0].role != 'system' %}<|user|>be good<|end|>{% endif %}" + TURNS
# As some reasoning templates do: what the assistant said is shortened once another turn follows.
FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if loop.last %}{{ m.content }}{% else %}x{% endif %}<|end|>{% endfor %}"
)


def letter_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """One token a character: lower-case letters, digits, space; everything else is <unk>."""
    vocabulary = [*SPECIAL, *string.ascii_lowercase, *string.digits, " "]
    machine = Tokenizer(
        models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token="<unk>")
    )
    machine.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    settings: dict[str, Any] = {
        "tokenizer_object": machine,
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"],
        **options,
    }
    return PreTrainedTokenizerFast(**settings)
