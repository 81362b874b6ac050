"""The families of encoders: how `transformers` names their parts, and what it fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Config = Mapping[str, Any]


@dataclass(frozen=True)
class EncoderFamily:
    """How the encoders of one `model_type` are made.

    Attributes:
        prefix: Of the body's parameters where a head stands beside it.
        layer: Name of a layer, its number left open.
        attention: Names of queries, keys, values and of what follows them.
        attention_norm: The norm after attention.
        feed_forward: Names of its two matrices.
        output_norm: The norm after them.
        label_head: Matrices before the one that gives a text's labels, and that one.
        masked_head: Names of the masked head's matrix, its norm, and the matrix to the vocabulary.
        masked_bias: The bias of the latter, tied to it or by itself.
        defaults: What `transformers` takes for a key that is not there.
        pooler: Whether a text's labels come of a pooler.
        full_scores: Whether its attention is written out, with all T x T scores.
        hidden_dropouts: In a layer, beside attention's.
        dropouts: Keys of the two rates: hidden states, attention.
        sizes: Its own names of sizes, by those of most others.
    """

    prefix: str
    defaults: Config
    layer: str = "encoder.layer.{}."
    attention: tuple[str, str, str, str] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    )
    attention_norm: str = "attention.output.LayerNorm"
    feed_forward: tuple[str, str] = ("intermediate.dense", "output.dense")
    output_norm: str = "output.LayerNorm"
    label_head: tuple[str, ...] = ("classifier.dense", "classifier.out_proj")
    masked_head: tuple[str, str, str] = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")
    masked_bias: str = "lm_head.bias"
    pooler: bool = False
    full_scores: bool = False
    hidden_dropouts: int = 2
    dropouts: tuple[str, str] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    sizes: Mapping[str, str] | None = None


def _defaults(vocab: int, **others: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "tie_word_embeddings": True,
        **others,
    }


_DISTILBERT_SIZES: Final = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
}
_OF_BERT: Final = ("predictions.transform.dense", "predictions.transform.LayerNorm")

ENCODERS: Final[Mapping[str, EncoderFamily]] = {
    "bert": EncoderFamily(
        "bert.",
        _defaults(30522, type_vocab_size=2),
        label_head=("classifier",),
        masked_head=(f"cls.{_OF_BERT[0]}", f"cls.{_OF_BERT[1]}", "cls.predictions.decoder"),
        masked_bias="cls.predictions.bias",
        pooler=True,
    ),
    "roberta": EncoderFamily("roberta.", _defaults(50265, type_vocab_size=2)),
    "xlm-roberta": EncoderFamily("roberta.", _defaults(30522, type_vocab_size=2)),
    "distilbert": EncoderFamily(
        "distilbert.",
        {
            "vocab_size": 30522,
            "dim": 768,
            "hidden_dim": 3072,
            "n_layers": 6,
            "n_heads": 12,
            "max_position_embeddings": 512,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "tie_word_embeddings": True,
        },
        layer="transformer.layer.{}.",
        attention=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
        ),
        attention_norm="sa_layer_norm",
        feed_forward=("ffn.lin1", "ffn.lin2"),
        output_norm="output_layer_norm",
        label_head=("pre_classifier", "classifier"),
        masked_head=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        masked_bias="vocab_projector.bias",
        hidden_dropouts=1,
        dropouts=("dropout", "attention_dropout"),
        sizes=_DISTILBERT_SIZES,
    ),
    "mpnet": EncoderFamily(
        "mpnet.",
        _defaults(30527, relative_attention_num_buckets=32),
        attention=(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
        ),
        attention_norm="attention.LayerNorm",
        full_scores=True,
    ),
}


def size_names(model_type: Any) -> Mapping[str, str]:
    """A family's own names of sizes, by those of most others."""
    family = ENCODERS.get(str(model_type))
    return (family.sizes if family else None) or {}
