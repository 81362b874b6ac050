"""Completions judged by a reward model: one number for each, the higher the better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch

from raykd.config.scorer import ScorerConfig
from raykd.errors import ModelError
from raykd.generation.samples import Sample
from raykd.models.load import ModelSource, load_config, load_tokenizer, torch_dtype

FIELD: Final = "generation.scorer"
BATCH: Final = 8

Score = Callable[[Sequence[Sample]], list[float | None]]
"""Of each completion; None where the model cannot read so much."""


def require_scorer(source: ModelSource) -> None:
    """Refuse a model that does not give one number for a text.

    Raises:
        ModelError: It classifies, or is no model of `transformers`.
    """
    config = load_config(source, f"{FIELD}.model")
    if config.num_labels != 1:
        raise ModelError(
            f"{FIELD}.model: {source.path} has {config.num_labels} outputs; a reward model has "
            "one, the higher the better (AutoModelForSequenceClassification with `num_labels: 1`)"
        )


class RewardModel:
    """A reward model in this process."""

    def __init__(self, source: ModelSource, config: ScorerConfig) -> None:
        """Open it.

        Args:
            source: Of one output.
            config: How to run it.

        Raises:
            ModelError: It cannot be opened.
        """
        from transformers import AutoModelForSequenceClassification

        require_scorer(source)
        torch.set_num_threads(config.threads)
        self._tokenizer: Any = load_tokenizer(source, f"{FIELD}.model")
        self._device = torch.device("cuda" if config.device == "gpu" else "cpu")
        try:
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                source.path, dtype=torch_dtype(config.dtype), **source.hub_arguments
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{FIELD}.model: cannot load {source.path}: {error}") from error
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._pad_id()
        self._model = model.to(self._device).eval()
        self._context: int | None = getattr(model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """The score of each completion; None where it is longer than the model's context."""
        read = [encoded(one, self._tokenizer) for one in samples]
        scores: list[float | None] = [None] * len(samples)
        short = [i for i, ids in enumerate(read) if len(ids["input_ids"]) <= self._longest]
        for batch in _batches(sorted(short, key=lambda i: len(read[i]["input_ids"]))):
            inputs = self._padded([read[i] for i in batch])
            found = self._model(**inputs).logits[:, 0].float().tolist()
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
        return scores

    @property
    def _longest(self) -> float:
        return float("inf") if self._context is None else self._context

    def _pad_id(self) -> int:
        return int(self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0)

    def _padded(self, read: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Rows of one length, on the device; padded at the end, which is masked."""
        longest = max(len(one["input_ids"]) for one in read)
        fill = {"input_ids": self._model.config.pad_token_id}
        names = [name for name in read[0] if name != "attention_mask"]
        padded = {
            name: torch.tensor(
                [one[name] + [fill.get(name, 0)] * (longest - len(one[name])) for one in read]
            )
            for name in names
        }
        lengths = torch.tensor([len(one["input_ids"]) for one in read])
        padded["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return {name: tensor.to(self._device) for name, tensor in padded.items()}


def encoded(one: Sample, tokenizer: Any) -> dict[str, list[int]]:
    """A prompt with its answer, as a reward model reads it.

    A chat goes through the model's chat template, where it has one; else the question, which is the
    last turn, and the answer are a pair. What is judged is what follows the reasoning.
    """
    if one.request.read is not None and tokenizer.chat_template:
        chat = [*one.request.read, {"role": "assistant", "content": one.answer}]
        found = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
    else:
        found = tokenizer(one.request.asked, one.answer, verbose=False)
    return {name: list(values) for name, values in found.items()}


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(numbers), BATCH):
        yield numbers[at : at + BATCH]
