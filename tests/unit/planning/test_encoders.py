"""Encoders by arithmetic against the models of `transformers`, built without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from raykd.config.classifier import Task
from raykd.errors import ModelError
from raykd.models.encoder import EncoderSpec, with_task
from raykd.models.encoder_init import build_encoder
from raykd.planning.encoder_families import ENCODERS
from raykd.planning.encoders import Head, encoder_shape

TASKS: tuple[Task, ...] = ("single_label", "regression", "tokens", "embedding", "masked")
TIED_LAST = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"}
"""Where `transformers` meets a tied weight's other name first."""


def sizes_of(name: str) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if name == "distilbert":
        names = ("dim", "hidden_dim", "n_layers", "n_heads")
    sizes = dict(zip(names, (32, 48, 2, 4), strict=True))
    return {"vocab_size": 100, "max_position_embeddings": 40, "pad_token_id": 0, **sizes}


def theirs(config: Any, task: Task) -> dict[str, tuple[int, ...]]:
    labels = ("a", "b", "c") if task in ("single_label", "tokens") else ()
    spec = EncoderSpec(task, labels, None)
    with torch.device("meta"):
        model = build_encoder(with_task(config, spec), spec)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def head(task: Task, share: float = 1.0) -> Head:
    return Head(task, 3 if task in ("single_label", "tokens") else 1, share)


@pytest.mark.parametrize("variant", [{}, {"tie_word_embeddings": False}, {"type_vocab_size": 1}])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ENCODERS)
def test_names_and_shapes(name: str, task: Task, variant: dict[str, Any]) -> None:
    config = AutoConfig.for_model(name, **sizes_of(name), **variant)
    expected = theirs(config, task)
    if variant.get("tie_word_embeddings", True):
        expected = {TIED_LAST.get(key, key): shape for key, shape in expected.items()}
    given = {**config.to_dict(), "model_type": name}
    shape = encoder_shape(given, head(task), "student")
    assert {p.name: p.shape for p in shape.parameters} == expected


@pytest.mark.parametrize("name", ENCODERS)
def test_defaults_are_those_of_transformers(name: str) -> None:
    config = AutoConfig.for_model(name)
    for key, value in ENCODERS[name].defaults.items():
        assert getattr(config, key) == value
    shape = encoder_shape({"model_type": name}, head("single_label"), "student")
    assert shape.num_parameters == sum(
        torch.Size(size).numel() for size in theirs(config, "single_label").values()
    )


def test_published_sizes() -> None:
    """What the hub's safetensors of these models count, pooler and heads apart."""
    published = {"bert": 109_482_240 - 768 * 769, "distilbert": 66_362_880}
    for name, expected in published.items():
        shape = encoder_shape({"model_type": name}, head("embedding"), "teacher")
        assert shape.num_parameters == expected


def test_a_learned_matrix_stands_beside() -> None:
    given = {"model_type": "bert", **sizes_of("bert")}
    plain = encoder_shape(given, Head("embedding", 1, 1.0), "student")
    wider = encoder_shape(given, Head("embedding", 1, 1.0, 56), "student")
    assert wider.num_parameters - plain.num_parameters == 56 * 32
    assert encoder_shape(given, Head("embedding", 1, 1.0, 32), "student") == plain


@pytest.mark.parametrize("name", ["deberta-v2", "llama", None])
def test_unknown_families_are_refused(name: str | None) -> None:
    with pytest.raises(ModelError, match=r"teacher\.model: raykd plan does not know .*distilbert"):
        encoder_shape({"model_type": name}, head("masked"), "teacher.model")


@pytest.mark.parametrize("value", [0, "32", True])
def test_sizes_are_whole_numbers(value: Any) -> None:
    given = {"model_type": "distilbert", **sizes_of("distilbert"), "n_heads": value}
    with pytest.raises(ModelError, match="whole number `n_heads`"):
        encoder_shape(given, head("tokens"), "teacher.model")
