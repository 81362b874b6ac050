"""From an encoder's configuration to its parameters, the head of its task included.

The names and shapes are those of `transformers`; a test compares them with its models, built
without weights, for every family and task here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from raykd.config.classifier import Task
from raykd.errors import ModelError
from raykd.planning.encoder_families import ENCODERS, Config, EncoderFamily, size_names
from raykd.planning.shape import EncoderPart, ModelShape, Parameter, Role, total


@dataclass(frozen=True)
class Head:
    """What an encoder is asked for.

    Attributes:
        task: The task.
        num_outputs: Labels, or 1.
        share: Of a row's tokens, those that the head says something of.
        to_width: Of vectors that a learned matrix brings the model's own to; None without one.
    """

    task: Task
    num_outputs: int
    share: float
    to_width: int | None = None


def encoder_shape(config: Config, head: Head, field: str) -> ModelShape:
    """The shape of the encoder that a configuration describes, with the head of a task.

    Args:
        config: What `config.json` holds.
        head: The task.
        field: Where the model stands in the job, for messages.

    Raises:
        ModelError: The family is not one of `ENCODERS`, or a size is missing.
    """
    model_type = config.get("model_type")
    family = ENCODERS.get(str(model_type))
    if family is None:
        raise ModelError(
            f"{field}: raykd plan does not know how {model_type or 'a model without model_type'} "
            f"is made; encoders that it knows are {', '.join(ENCODERS)}. The job may run all the "
            "same: `raykd check` opens the model"
        )
    made = _Encoder(family, {**family.defaults, **config}, head, field)
    parameters = tuple(made.parameters())
    heads = made.size("num_attention_heads")
    hidden, attention = (float(made.given.get(name) or 0.0) for name in family.dropouts)
    return ModelShape(
        model_type=str(model_type),
        vocab_size=made.size("vocab_size"),
        hidden_size=made.hidden,
        num_layers=made.size("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_size=made.hidden // heads,
        intermediate_size=made.size("intermediate_size"),
        tied=bool(made.given["tie_word_embeddings"]),
        norm="layer",
        norms_a_layer=2,
        head_norm_groups=0,
        one_input=False,
        feed_forward_kept=2,
        full_scores=family.full_scores,
        sharded=False,
        parameters=parameters,
        encoder=EncoderPart(
            hidden_dropouts=family.hidden_dropouts if hidden > 0 else 0,
            attention_dropout=attention > 0,
            head_products=round(head.share * made.head_numbers(parameters)),
        ),
    )


@dataclass(frozen=True)
class _Encoder:
    family: EncoderFamily
    given: Config
    head: Head
    field: str

    def size(self, name: str) -> int:
        """A size, under the family's own name."""
        own = size_names(self.given.get("model_type")).get(name, name)
        value = self.given.get(own)
        if type(value) is not int or value < 1:
            raise ModelError(
                f"{self.field}: its configuration needs a whole number `{own}` of at least 1; "
                f"found {value!r}"
            )
        return value

    @property
    def hidden(self) -> int:
        return self.size("hidden_size")

    def head_numbers(self, parameters: tuple[Parameter, ...]) -> int:
        """Numbers that a learned position is multiplied with after the body."""
        tied = self.head.task == "masked" and bool(self.given["tie_word_embeddings"])
        vocabulary = self.size("vocab_size") * self.hidden if tied else 0
        return vocabulary + total(p for p in parameters if p.role == "head")

    def parameters(self) -> Iterator[Parameter]:
        """All of them; tied ones once."""
        body = "" if self.head.task == "embedding" else self.family.prefix
        yield from self._embeddings(f"{body}embeddings.")
        for layer in range(self.size("num_hidden_layers")):
            yield from self._layer(body + self.family.layer.format(layer))
        if "relative_attention_num_buckets" in self.family.defaults:
            shape = (self.size("relative_attention_num_buckets"), self.size("num_attention_heads"))
            yield Parameter(f"{body}encoder.relative_attention_bias.weight", shape, "embedding")
        yield from self._head(body)
        if self.head.to_width not in (None, self.hidden):
            assert self.head.to_width is not None
            # Learned beside the encoder, and left behind.
            yield Parameter("projection.weight", (self.head.to_width, self.hidden), "head")

    def _embeddings(self, at: str) -> Iterator[Parameter]:
        rows = [("word", "vocab_size"), ("position", "max_position_embeddings")]
        if "type_vocab_size" in self.family.defaults:
            rows.append(("token_type", "type_vocab_size"))
        for name, of in rows:
            shape = (self.size(of), self.hidden)
            yield Parameter(f"{at}{name}_embeddings.weight", shape, "embedding")
        yield from self._norm(f"{at}LayerNorm")

    def _layer(self, at: str) -> Iterator[Parameter]:
        family, inner = self.family, self.size("intermediate_size")
        for name in family.attention:
            yield from _linear(at + name, self.hidden, self.hidden)
        yield from self._norm(at + family.attention_norm)
        up, down = family.feed_forward
        yield from _linear(at + up, inner, self.hidden)
        yield from _linear(at + down, self.hidden, inner)
        yield from self._norm(at + family.output_norm)

    def _head(self, body: str) -> Iterator[Parameter]:
        if self.head.task == "masked":
            yield from self._masked_head()
        elif self.head.task == "tokens":
            yield from _linear("classifier", self.head.num_outputs, self.hidden, "head")
        elif self.head.task != "embedding":
            if self.family.pooler:
                yield from _linear(f"{body}pooler.dense", self.hidden, self.hidden, "head")
            *before, last = self.family.label_head
            for name in before:
                yield from _linear(name, self.hidden, self.hidden, "head")
            yield from _linear(last, self.head.num_outputs, self.hidden, "head")

    def _masked_head(self) -> Iterator[Parameter]:
        dense, norm, decoder = self.family.masked_head
        vocab = self.size("vocab_size")
        yield Parameter(self.family.masked_bias, (vocab,), "bias")
        yield from _linear(dense, self.hidden, self.hidden, "head")
        yield from self._norm(norm)
        if not self.given["tie_word_embeddings"]:
            yield Parameter(f"{decoder}.weight", (vocab, self.hidden), "head")
            if self.family.masked_bias != f"{decoder}.bias":
                yield Parameter(f"{decoder}.bias", (vocab,), "bias")

    def _norm(self, name: str) -> Iterator[Parameter]:
        for part in ("weight", "bias"):
            yield Parameter(f"{name}.{part}", (self.hidden,), "norm")


def _linear(name: str, out: int, into: int, role: Role = "linear") -> Iterator[Parameter]:
    yield Parameter(f"{name}.weight", (out, into), role)
    yield Parameter(f"{name}.bias", (out,), "bias")
