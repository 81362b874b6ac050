from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from letter_tokenizer import letter_tokenizer
from transformers import PreTrainedTokenizerFast


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return letter_tokenizer()


@pytest.fixture
def write_jsonl(tmp_path: Path):
    """Write records to a new file and return its path."""

    def write(records: list[Any], name: str = "corpus.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write
