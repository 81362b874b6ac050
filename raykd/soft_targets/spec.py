"""What a codec keeps: everything that teacher, wire, store and student must agree on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from raykd.errors import SoftTargetError

CODECS: Final = ("top_k", "sampled", "hidden", "full")
"""Of distributions."""
STATES: Final = "states"
"""The codec of inner states; it travels beside one of the others, or alone."""
TOP_K_HIDDEN: Final = "top_k_hidden"
"""The codec of a masked language model's distributions with the hidden states that they come of."""
_TOP_K: Final = ("top_k", TOP_K_HIDDEN)
TOP_K_VALUES: Final = ("fp32", "bf16", "int8", "int6")
FULL_VALUES: Final = ("fp32", "bf16")
HIDDEN_VALUES: Final = ("fp32", "bf16", "int8")
MOST_DRAWS: Final = 255
"""A count is kept in one byte."""

# What decides the columns of each codec, beside `codec` and `fingerprint`; the rest is not in the
# stamp, so that a change of it does not make kept targets useless. Nor is `seed`: another seed's
# draws are as good.
_STAMPED: Final = {
    "top_k": ("vocab_size", "top_k", "values", "tail"),
    "sampled": ("vocab_size", "draws", "proposal", "target_temperature"),
    "hidden": ("hidden_size", "hidden_values"),
    "full": ("vocab_size", "values"),
    TOP_K_HIDDEN: ("vocab_size", "top_k", "values", "tail", "hidden_size", "hidden_values"),
    "states": ("hidden_size", "state_layers", "attention_layer", "attention_widths"),
}


@dataclass(frozen=True)
class CodecSpec:
    """One codec with its options; picklable and hashable.

    Attributes:
        codec: `top_k`, `sampled`, `hidden`, `full`, `states` or `top_k_hidden`; the last has the
            options of both.
        vocab_size: Width of the logits that both sides share.
        temperatures: 1 first, all above 0. `top_k` keeps the log tail at each; `sampled` serves
            the last.
        top_k: Ids kept a token, `top_k` and `top_k_hidden` only.
        values: Width of the log probabilities. `top_k`: fp32, bf16, int8 or int6; `full`: fp32 or
            bf16. int8 is the default: at k = 128 it adds 1e-7 nats where the teacher's head works
            in bf16 and 1.5e-5 where in fp32; int6 saves 6 to 9 % of the bytes at rest and adds
            2e-4 nats; bf16 has half again the bytes on the wire (benchmarks/codecs.py).
        tail: `top_k` only: keep the mass of the ids left out. False is the plain top-k of other
            programs, biased: it exists to be compared with.
        draws: `sampled` only: R, from 1 to 255.
        proposal_temperature: `sampled` only: ids are drawn at it; None is `temperatures[-1]`.
        hidden_values: `hidden` and `top_k_hidden` only: fp32, bf16 or int8 with a scale a token.
        hidden_size: `hidden`, `top_k_hidden` and `states` only: D.
        state_layers: `states` only: layers whose hidden states are kept, ascending.
        attention_layer: `states` only: the layer whose projections are kept; None for none.
        attention_widths: `states` only: name (query, key, value) and width of each of them.
        seed: `sampled` only: goes into `token_keys`; not into the stamp.
        fingerprint: Of the teacher and its tokenizer; part of the stamp.

    Raises:
        ValueError: A field is outside what is allowed; names the field.
        SoftTargetError: `top_k` exceeds the vocabulary.
    """

    codec: str
    vocab_size: int
    temperatures: tuple[float, ...] = (1.0,)
    top_k: int = 64
    values: str = "int8"
    tail: bool = True
    draws: int = 50
    proposal_temperature: float | None = None
    hidden_values: str = "bf16"
    hidden_size: int = 0
    state_layers: tuple[int, ...] = ()
    attention_layer: int | None = None
    attention_widths: tuple[tuple[str, int], ...] = ()
    seed: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        known = (*CODECS, STATES, TOP_K_HIDDEN)
        _require(self.codec in known, "codec", self.codec, "one of " + ", ".join(known))
        _require(
            1 <= self.vocab_size < 2**31, "vocab_size", self.vocab_size, "from 1 to 2,147,483,647"
        )
        check_temperatures(self.temperatures)
        if self.codec in _TOP_K:
            self._check_top_k()
        if self.codec in ("hidden", TOP_K_HIDDEN):
            self._check_hidden()
        elif self.codec == "sampled":
            self._check_sampled()
        elif self.codec == STATES:
            self._check_states()
        elif self.codec == "full":
            _require(
                self.values in FULL_VALUES,
                "values",
                self.values,
                f"{_names(FULL_VALUES)} with codec full",
            )

    def _check_top_k(self) -> None:
        _require(self.top_k >= 1, "top_k", self.top_k, "at least 1")
        _require(self.values in TOP_K_VALUES, "values", self.values, _names(TOP_K_VALUES))
        require_top_k_fits(self.top_k, self.vocab_size)

    def _check_hidden(self) -> None:
        allowed = HIDDEN_VALUES
        _require(self.hidden_size >= 1, "hidden_size", self.hidden_size, "at least 1")
        _require(
            self.hidden_values in allowed, "hidden_values", self.hidden_values, _names(allowed)
        )

    def _check_sampled(self) -> None:
        _require(1 <= self.draws <= MOST_DRAWS, "draws", self.draws, f"from 1 to {MOST_DRAWS}")
        if self.proposal_temperature is not None:
            _require(
                math.isfinite(self.proposal_temperature) and self.proposal_temperature > 0,
                "proposal_temperature",
                self.proposal_temperature,
                "finite and above 0",
            )

    def _check_states(self) -> None:
        ascending = sorted(set(self.state_layers))
        good = list(self.state_layers) == ascending and all(at >= 0 for at in ascending)
        _require(good, "state_layers", self.state_layers, "ascending layers from 0")
        _require(
            bool(self.state_layers or self.attention_widths), "state_layers", (), "given, or widths"
        )
        _require(
            (self.attention_layer is None) == (not self.attention_widths),
            "attention_widths",
            self.attention_widths,
            "given with attention_layer, and only with it",
        )
        if self.state_layers:
            _require(self.hidden_size >= 1, "hidden_size", self.hidden_size, "at least 1")

    @property
    def source(self) -> Literal["logits", "hidden"]:
        """What `encode` takes."""
        return "hidden" if self.codec == "hidden" else "logits"

    @property
    def target_temperature(self) -> float:
        """The last temperature: the loss's own."""
        return self.temperatures[-1]

    @property
    def proposal(self) -> float:
        """The temperature at which `sampled` draws."""
        if self.proposal_temperature is None:
            return self.target_temperature
        return self.proposal_temperature

    @property
    def facts(self) -> dict[str, Any]:
        """All that decides this codec's columns, by name, in plain values; no `fingerprint`.

        Fields of other codecs are not in it, nor are temperatures where nothing depends on them.
        """
        facts = {"codec": self.codec} | {
            name: _plain(getattr(self, name)) for name in _STAMPED[self.codec]
        }
        if self.codec in _TOP_K and self.tail:
            facts["temperatures"] = list(self.temperatures)
        return facts

    @property
    def stamp(self) -> int:
        """uint32 of `facts` and `fingerprint`."""
        facts: list[Any] = [self.codec, self.fingerprint]
        facts += [(name, getattr(self, name)) for name in _STAMPED[self.codec]]
        if self.codec in _TOP_K and self.tail:
            facts.append(self.temperatures)
        digest = hashlib.blake2b(repr(facts).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little")


def require_top_k_fits(top_k: int, vocab_size: int) -> None:
    """Raise SoftTargetError if more ids are to be kept than there are."""
    if top_k > vocab_size:
        raise SoftTargetError(
            f"soft_targets.top_k is {top_k}, but the teacher's vocabulary has {vocab_size} ids: "
            f"set soft_targets.top_k to at most {vocab_size}"
        )


def check_temperatures(temperatures: Sequence[float]) -> None:
    """Raise ValueError unless they are positive and begin with 1."""
    if not temperatures or temperatures[0] != 1.0:
        raise ValueError(f"temperatures must begin with 1.0; found {tuple(temperatures)}")
    if not all(math.isfinite(t) and t > 0 for t in temperatures):
        raise ValueError(f"temperatures must be finite and above 0; found {tuple(temperatures)}")


def _plain(value: Any) -> Any:
    """Lists in the place of tuples, as JSON gives them back."""
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _names(allowed: tuple[str, ...]) -> str:
    return "one of " + ", ".join(allowed)


def _require(good: bool, field: str, value: object, allowed: str) -> None:
    if not good:
        raise ValueError(f"{field} must be {allowed}; found {value!r}")
