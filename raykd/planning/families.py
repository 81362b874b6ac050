"""From a model's configuration to its parameters, family by family.

The names and shapes are those of `transformers`; a test compares them with its models, built
without weights, for every family here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from raykd.errors import ModelError
from raykd.planning.gpt2 import GPT2, gpt2_shape
from raykd.planning.shape import ModelShape, Norm, Parameter

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are made, and what `config.json` may leave out.

    Attributes:
        defaults: What `transformers` takes for a key that is not there.
        attention_bias: Biases of queries, keys and values: `never`, `always`, or by the key.
        output_bias: Of the projection after attention.
        mlp_bias: Whether a key `mlp_bias` is read.
        layer_norms: Names of the norms over the width in a layer, in the model's order.
        head_norm: Shape of the norms on queries and keys: none, one head, or `per_head` where the
            key `use_qk_norm` asks for one a head, or `whole` for all heads together.
        norm: How its norms compute.
    """

    defaults: Config
    attention_bias: str = "never"
    output_bias: str = "never"
    mlp_bias: bool = False
    layer_norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    head_norm: str = "none"
    norm: Norm = "rms"


_FOUR_NORMS: Final = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _sizes(
    vocab: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int | None = None
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": False,
    }


_TIED: Final = {"tie_word_embeddings": True}
_GEMMA: Final = {"head_dim": 256, **_TIED}
_COHERE: Final = _sizes(256000, 8192, 22528, 40, 64) | _TIED

FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(_sizes(32000, 4096, 11008, 32, 32), "key", "key", mlp_bias=True),
    "mistral": Family(_sizes(32000, 4096, 14336, 32, 32, 8)),
    "qwen2": Family(_sizes(151936, 4096, 22016, 32, 32, 32), "always"),
    "qwen3": Family(
        _sizes(151936, 4096, 22016, 32, 32, 32) | {"head_dim": 128}, "key", "key", head_norm="one"
    ),
    "granite": Family(_sizes(32000, 4096, 11008, 32, 32), "key", "key", mlp_bias=True),
    "smollm3": Family(_sizes(128256, 2048, 11008, 36, 16, 4) | _TIED, "key", "key", mlp_bias=True),
    "olmo2": Family(
        _sizes(50304, 4096, 11008, 32, 32),
        "key",
        "key",
        layer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        head_norm="whole",
        norm="rms_in_fp32",
    ),
    "gemma": Family(
        _sizes(256000, 3072, 24576, 28, 16, 16) | _GEMMA, "key", "key", norm="rms_in_fp32"
    ),
    "gemma2": Family(
        _sizes(256000, 2304, 9216, 26, 8, 4) | _GEMMA | {"attn_logit_softcapping": 50.0},
        "key",
        "key",
        layer_norms=_FOUR_NORMS,
        norm="rms_in_fp32",
    ),
    "gemma3_text": Family(
        _sizes(262208, 2304, 9216, 26, 8, 4) | _GEMMA,
        "key",
        "key",
        layer_norms=_FOUR_NORMS,
        head_norm="one",
        norm="rms_in_fp32",
    ),
    "cohere": Family(
        _COHERE,
        "key",
        "key",
        layer_norms=("input_layernorm",),
        head_norm="per_head",
        norm="layer_in_fp32",
    ),
    "cohere2": Family(
        _COHERE, "key", "key", layer_norms=("input_layernorm",), norm="layer_in_fp32"
    ),
}
KNOWN: Final = (*FAMILIES, GPT2)


def shape_of(config: Config, field: str) -> ModelShape:
    """The shape of the model that a configuration describes.

    Args:
        config: What `config.json` holds.
        field: Where the model stands in the job, for messages.

    Raises:
        ModelError: The family is not one of `KNOWN`, or a key is missing.
    """
    model_type = config.get("model_type")
    if model_type == GPT2:
        return gpt2_shape(config, field)
    if model_type not in FAMILIES:
        raise ModelError(
            f"{field}: raykd plan does not know how {model_type or 'a model without model_type'} "
            f"is made; it knows {', '.join(KNOWN)}. The job may run all the same: `raykd check` "
            "opens the model"
        )
    return _decoder(str(model_type), FAMILIES[str(model_type)], config, field)


def _decoder(model_type: str, family: Family, config: Config, field: str) -> ModelShape:
    given = {**family.defaults, **config}
    hidden = _size(given, "hidden_size", field)
    heads = _size(given, "num_attention_heads", field)
    shape = _Decoder(
        family=family,
        vocab=_size(given, "vocab_size", field),
        hidden=hidden,
        inner=_size(given, "intermediate_size", field),
        layers=_size(given, "num_hidden_layers", field),
        query=heads * (given.get("head_dim") or hidden // heads),
        heads=heads,
        kv_heads=given.get("num_key_value_heads") or heads,
        tied=bool(given["tie_word_embeddings"]),
        attention_bias=bool(given.get("attention_bias")),
        mlp_bias=bool(given.get("mlp_bias")),
        head_norms=bool(given.get("use_qk_norm")),
    )
    return ModelShape(
        model_type=model_type,
        vocab_size=shape.vocab,
        hidden_size=hidden,
        num_layers=shape.layers,
        num_heads=heads,
        num_kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        intermediate_size=shape.inner,
        tied=shape.tied,
        norm=family.norm,
        norms_a_layer=len(family.layer_norms),
        head_norm_groups=shape.head_norm_groups,
        one_input=len(family.layer_norms) == 1,
        feed_forward_kept=4,
        full_scores=bool(given.get("attn_logit_softcapping")),
        sharded=True,
        parameters=tuple(shape.parameters()),
    )


@dataclass(frozen=True)
class _Decoder:
    family: Family
    vocab: int
    hidden: int
    inner: int
    layers: int
    query: int
    heads: int
    kv_heads: int
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    head_norms: bool

    @property
    def head_size(self) -> int:
        return self.query // self.heads

    @property
    def head_norm_groups(self) -> int:
        if not self.norms_heads:
            return 0
        return 2 if self.family.head_norm == "whole" else self.heads + self.kv_heads

    @property
    def norms_heads(self) -> bool:
        kind = self.family.head_norm
        return kind in ("one", "whole") or (kind == "per_head" and self.head_norms)

    def parameters(self) -> Iterator[Parameter]:
        """All of them; the head only where it is not the embedding."""
        yield Parameter(
            "model.embed_tokens.weight", (self.vocab, self.hidden), "embedding", split=0
        )
        for layer in range(self.layers):
            yield from self._layer(f"model.layers.{layer}.")
        yield Parameter("model.norm.weight", (self.hidden,), "norm")
        if not self.tied:
            yield Parameter("lm_head.weight", (self.vocab, self.hidden), "head", split=0)

    def _layer(self, at: str) -> Iterator[Parameter]:
        family, hidden, inner = self.family, self.hidden, self.inner
        keys = self.kv_heads * self.head_size
        biased = family.attention_bias == "always" or (
            family.attention_bias == "key" and self.attention_bias
        )
        for name, width in (("q", self.query), ("k", keys), ("v", keys)):
            yield from _linear(f"{at}self_attn.{name}_proj", width, hidden, biased, column=True)
        out_biased = family.output_bias == "key" and self.attention_bias
        yield from _linear(f"{at}self_attn.o_proj", hidden, self.query, out_biased, column=False)
        biased = family.mlp_bias and self.mlp_bias
        yield from _linear(f"{at}mlp.gate_proj", inner, hidden, biased, column=True)
        yield from _linear(f"{at}mlp.up_proj", inner, hidden, biased, column=True)
        yield from _linear(f"{at}mlp.down_proj", hidden, inner, biased, column=False)
        yield from self._head_norms(at)
        for name in family.layer_norms:
            yield Parameter(f"{at}{name}.weight", (hidden,), "norm")

    def _head_norms(self, at: str) -> Iterator[Parameter]:
        if not self.norms_heads:
            return
        for name, heads in (("q", self.heads), ("k", self.kv_heads)):
            shapes = {
                "one": (self.head_size,),
                "whole": (heads * self.head_size,),
                "per_head": (heads, self.head_size),
            }
            yield Parameter(
                f"{at}self_attn.{name}_norm.weight", shapes[self.family.head_norm], "norm"
            )


def _linear(name: str, out: int, into: int, biased: bool, *, column: bool) -> Iterator[Parameter]:
    """A linear layer; tensor parallelism cuts its outputs (column) or its inputs (row)."""
    yield Parameter(f"{name}.weight", (out, into), "linear", split=0 if column else 1)
    if biased:
        yield Parameter(f"{name}.bias", (out,), "bias", split=0 if column else None)


def _size(config: Config, name: str, field: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ModelError(
            f"{field}: its configuration needs a whole number `{name}` of at least 1; "
            f"found {value!r}"
        )
    return value
