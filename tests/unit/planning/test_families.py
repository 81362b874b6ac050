"""Parameters by arithmetic against the models of `transformers`, built without weights."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raykd.errors import ModelError
from raykd.planning.families import FAMILIES, KNOWN, shape_of

TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_GPT2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"head_dim": 16},
    {"use_qk_norm": True},
    {"num_key_value_heads": 4},
    {"n_inner": 20},
    {"n_positions": 64},
]
REAL = {
    # The sizes in the models' own config.json.
    "llama-3.2-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "gemma-2-2b": {"model_type": "gemma2"},
    "gpt2": {"model_type": "gpt2"},
    "mistral-7b-v0.1": {"model_type": "mistral"},
}
PUBLISHED = {
    # What the hub's safetensors of these models count.
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-0.5b": 494_032_768,
    "gemma-2-2b": 2_614_341_888,
    "gpt2": 124_439_808,
    "mistral-7b-v0.1": 7_241_732_096,
}


def theirs(config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Each family with every variant that its configuration has."""
    found = []
    for name in KNOWN:
        default = AutoConfig.for_model(name)
        for variant in VARIANTS:
            known = all(hasattr(default, key) for key in variant) or (
                "head_dim" in variant and name != "gpt2"
            )
            if known and not (name == "gpt2" and "num_key_value_heads" in variant):
                found.append((name, variant))
    return found


@pytest.mark.parametrize(("name", "variant"), cases(), ids=str)
def test_names_and_shapes(
    name: str, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "disabled", True)
    fields = {**(TINY_GPT2 if name == "gpt2" else TINY), **variant}
    config = AutoConfig.for_model(name, **fields)
    expected = theirs(config)
    for given in ({"model_type": name, **fields}, config.to_dict()):
        shape = shape_of(given, "student")
        assert {p.name: p.shape for p in shape.parameters} == expected


@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    given = REAL[name]
    fields = {key: value for key, value in given.items() if key != "model_type"}
    shape = shape_of(given, "teacher")
    model_type = str(given["model_type"])
    assert {p.name: p.shape for p in shape.parameters} == theirs(
        AutoConfig.for_model(model_type, **fields)
    )
    assert shape.num_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_are_those_of_transformers(name: str) -> None:
    config = AutoConfig.for_model(name)
    for key, value in FAMILIES[name].defaults.items():
        # None stands for as many as there are heads.
        expected = config.num_attention_heads if value is None else value
        assert getattr(config, key) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_shards_are_cut_as_transformers_cuts_them(name: str) -> None:
    plan = AutoConfig.for_model(name).base_model_tp_plan
    shape = shape_of({"model_type": name, **TINY, "attention_bias": True}, "teacher")
    cut = {}
    for parameter in shape.parameters:
        module, _, kind = parameter.name.rpartition(".")
        if parameter.role in ("linear", "bias"):
            style = plan[module.removeprefix("model.").replace(".0.", ".*.").replace(".1.", ".*.")]
            expected = {"col": 0, "row": 1 if kind == "weight" else None}[style[:3]]
            cut[parameter.name] = (parameter.split, expected)
    assert cut
    assert all(ours == expected for ours, expected in cut.values())


def test_a_shard_rounds_up() -> None:
    shape = shape_of({"model_type": "llama", **TINY}, "teacher")
    whole = {p.name: p for p in shape.parameters}
    up = whole["model.layers.0.mlp.up_proj.weight"]
    assert up.shard_size(3) == 16 * 32
    assert up.shard_size(5) == 10 * 32
    assert whole["model.norm.weight"].shard_size(4) == 32
    assert shape.shard_parameters(1) == shape.num_parameters


@pytest.mark.parametrize("name", ["mixtral", "gemma3", None])
def test_unknown_families_are_refused(name: str | None) -> None:
    with pytest.raises(ModelError, match=r"teacher\.model: raykd plan does not know .*llama"):
        shape_of({"model_type": name, **TINY}, "teacher.model")


@pytest.mark.parametrize("value", [0, -1, "32", 3.5, True])
def test_sizes_are_whole_numbers(value: Any) -> None:
    with pytest.raises(ModelError, match="hidden_size"):
        shape_of({"model_type": "llama", **TINY, "hidden_size": value}, "teacher.model")
