"""Tiny models of several architectures; and packed rows to put through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

VOCAB = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
EXTRAS: dict[str, dict[str, Any]] = {
    "llama": {},
    # small caps and scales, so that leaving one out shows
    "gemma2": {"final_logit_softcapping": 1.5, "sliding_window": 64, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 5.0},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    "phi3": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
}
NOT_OF_OLDER_MODELS = ("head_dim", "num_key_value_heads", "intermediate_size")


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """A model of an architecture in fp32 with weights drawn from `seed`."""

    def make(model_type: str, seed: int = 0, **fields: Any) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = {**SIZES, **EXTRAS[model_type], **fields}
        if model_type in ("gpt2", "opt"):
            sizes = {k: v for k, v in sizes.items() if k not in NOT_OF_OLDER_MODELS}
        torch.manual_seed(seed)
        config = AutoConfig.for_model(model_type, **sizes)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return make
