"""Completions judged by a reward model: one number for each, the higher the better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from raykd.config.scorer import ScorerConfig
from raykd.errors import ModelError
from raykd.generation.samples import Sample
from raykd.models.encoder import FROM_SECOND_POSITION
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
        self._model = model.to(self._device).eval()
        # Of a padded row a decoder's score is read before the first id like the pad's: where it has
        # no pad of its own, every text goes alone.
        self._batch = 1 if model.config.pad_token_id is None else BATCH
        self._longest = longest_text(model.config, self._tokenizer)

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample]) -> list[float | None]:
        """The score of each completion; None where it is longer than the model's context."""
        read = [encoded(one, self._tokenizer) for one in samples]
        scores: list[float | None] = [None] * len(samples)
        short = [i for i, ids in enumerate(read) if len(ids["input_ids"]) <= self._longest]
        ordered = sorted(short, key=lambda i: len(read[i]["input_ids"]))
        for at in range(0, len(ordered), self._batch):
            batch = ordered[at : at + self._batch]
            inputs = self._padded([read[i] for i in batch])
            found = self._model(**inputs).logits[:, 0].float().tolist()
            for i, score in zip(batch, found, strict=True):
                scores[i] = score
        return scores

    def _padded(self, read: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Rows of one length, on the device; padded at the end, which is masked."""
        longest = max(len(one["input_ids"]) for one in read)
        fill = {"input_ids": self._model.config.pad_token_id or 0}
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
        found = _rendered([*one.request.read, _said(one.answer)], tokenizer)
    else:
        found = tokenizer(one.request.asked, one.answer, verbose=False)
    return {name: list(values) for name, values in found.items()}


def require_chats(source: ModelSource, with_system: bool) -> None:
    """Refuse a reward model whose chat template refuses chats such as will be judged.

    Args:
        source: The model.
        with_system: Whether they begin with a system turn.

    Raises:
        ModelError: Says what the template complains of.
    """
    tokenizer: Any = load_tokenizer(source, f"{FIELD}.model")
    if tokenizer.chat_template:
        system = [{"role": "system", "content": "x"}] if with_system else []
        _rendered([*system, {"role": "user", "content": "x"}, _said("x")], tokenizer)


def longest_text(config: Any, tokenizer: Any) -> int:
    """Most tokens that a model reads.

    Args:
        config: The model's.
        tokenizer: Its tokenizer, which may know better.
    """
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.model_type in FROM_SECOND_POSITION:
        context -= 2
    return int(min(context, tokenizer.model_max_length))


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def _rendered(chat: list[dict[str, str]], tokenizer: Any) -> Any:
    import jinja2

    try:
        return tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"{FIELD}.model: its chat template refuses the chats that it should judge: {error}; "
            "choose another reward model, or chats without what it refuses (such as "
            "`generation.keep_system_prompt: false`)"
        ) from error
