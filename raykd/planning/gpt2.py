"""GPT-2: Conv1D weights (in, out), biases everywhere, learned positions, LayerNorm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raykd.errors import ModelError
from raykd.planning.shape import ModelShape, Parameter, Role

GPT2: Final = "gpt2"


def gpt2_shape(config: Mapping[str, Any], field: str) -> ModelShape:
    """The shape of a GPT-2.

    Args:
        config: What `config.json` holds.
        field: Where the model stands in the job, for messages.

    Raises:
        ModelError: It has cross-attention.
    """
    names = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    known = {name: int(config.get(name) or default) for name, default in names.items()}
    if config.get("add_cross_attention"):
        raise ModelError(f"{field}: raykd plan does not know gpt2 with add_cross_attention")
    width = known["n_embd"]
    inner = int(config.get("n_inner") or 4 * width)
    tied = bool(config.get("tie_word_embeddings", True))
    parameters = [
        Parameter("transformer.wte.weight", (known["vocab_size"], width), "embedding"),
        Parameter("transformer.wpe.weight", (known["n_positions"], width), "embedding"),
    ]
    for layer in range(known["n_layer"]):
        parameters += _layer(f"transformer.h.{layer}.", width, inner)
    parameters += _layer_norm("transformer.ln_f", width)
    if not tied:
        parameters.append(Parameter("lm_head.weight", (known["vocab_size"], width), "head", 0))
    return ModelShape(
        model_type=GPT2,
        vocab_size=known["vocab_size"],
        hidden_size=width,
        num_layers=known["n_layer"],
        num_heads=known["n_head"],
        num_kv_heads=known["n_head"],
        head_size=width // known["n_head"],
        intermediate_size=inner,
        tied=tied,
        norm="layer",
        norms_a_layer=2,
        head_norm_groups=0,
        one_input=False,
        feed_forward_kept=5,
        full_scores=False,
        sharded=False,
        parameters=tuple(parameters),
    )


def _layer(at: str, width: int, inner: int) -> list[Parameter]:
    found = [*_layer_norm(f"{at}ln_1", width), *_layer_norm(f"{at}ln_2", width)]
    for name, shape in (
        ("attn.c_attn", (width, 3 * width)),
        ("attn.c_proj", (width, width)),
        ("mlp.c_fc", (width, inner)),
        ("mlp.c_proj", (inner, width)),
    ):
        found.append(Parameter(f"{at}{name}.weight", shape, "linear"))
        found.append(Parameter(f"{at}{name}.bias", shape[1:], "bias"))
    return found


def _layer_norm(name: str, width: int) -> list[Parameter]:
    roles: tuple[tuple[str, Role], ...] = (("weight", "norm"), ("bias", "norm"))
    return [Parameter(f"{name}.{part}", (width,), role) for part, role in roles]
