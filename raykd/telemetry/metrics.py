"""What one step of training is told by, and its line of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from raykd.errors import DivergenceError

_NULLABLE = frozenset({"divergence", "hidden", "attention"})
_INTEGERS = frozenset({"step", "row_start", "row_end", "tokens", "tokens_seen"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutMetrics:
    """What was measured on the held-out rows after a step."""

    kl: float
    """Nats a token from the teacher, over its top-k ids and one bucket for all others."""
    top1_agreement: float
    """Share of tokens, 0 to 1, where student and teacher put the same id first."""
    perplexity: float
    """Of the student on the text itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerMetrics:
    """How far the student's inner states were from the teacher's in a step, weights left out."""

    hidden: float | None
    """Distance of hidden states; None where they are not compared."""
    attention: float | None
    """Nats between attention relations; None where they are not compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """One optimizer step, over all ranks."""

    step: int
    """From 1."""
    epoch: float
    """Epochs of the corpus learned from when the step ended."""
    row_start: int
    """First row of the run that the step consumed."""
    row_end: int
    """One past the last row that the step consumed."""
    tokens: int
    """Tokens learned from."""
    tokens_seen: int
    """All tokens through the model, with prompts and padding."""
    loss: float
    divergence: float | None
    """Nats a token from the teacher; None where nothing is learned from it."""
    cross_entropy: float
    """Nats a token on the text itself."""
    lr: float
    grad_norm: float
    """Before clipping."""
    seconds: float
    """The whole step, waiting included."""
    wait_s: float
    """The longest that any rank waited for soft targets."""
    teacher_s: float
    """Busy seconds of the teacher on the step's rows, summed over replicas; 0 for kept targets."""
    time: float
    """Unix seconds at the step's end."""
    heldout: HeldoutMetrics | None = None
    inner: InnerMetrics | None = None
    """Where inner states are learned from."""

    def to_json(self) -> str:
        """The step as one line, without its line end.

        Raises:
            DivergenceError: A number is not finite.
        """
        tree = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name not in _GROUPS
        }
        try:
            return json.dumps(tree, allow_nan=False)
        except ValueError:
            raise DivergenceError(
                f"step {self.step} (rows {self.row_start} to {self.row_end - 1}): "
                f"{', '.join(_not_finite(tree))} is not a finite number; such a step is never "
                "written to the metrics"
            ) from None

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Parse one line.

        Raises:
            ValueError: The line is not JSON, or a key is missing, unknown or of another type.
        """
        tree = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(tree, dict):
            raise ValueError(f"a step is an object; found {type(tree).__name__}")
        groups = {name: _group(name, tree.pop(name, None)) for name in _GROUPS}
        numbers = _numbers(tree, {f.name for f in fields(cls)} - _GROUPS.keys())
        return cls(**numbers, **groups)


_GROUPS: Final[dict[str, type[HeldoutMetrics] | type[InnerMetrics]]] = {
    "heldout": HeldoutMetrics,
    "inner": InnerMetrics,
}
"""Of numbers that only some steps have."""


def _group(name: str, tree: Any) -> Any:
    """Numbers that only some steps have."""
    if tree is None:
        return None
    if not isinstance(tree, dict):
        raise ValueError(f"{name} is an object; found {type(tree).__name__}")
    kind = _GROUPS[name]
    return kind(**_numbers(tree, {f.name for f in fields(kind)}))


def _numbers(tree: dict[str, Any], names: set[str]) -> dict[str, Any]:
    if tree.keys() != names:
        missing, unknown = sorted(names - tree.keys()), sorted(tree.keys() - names)
        raise ValueError(f"keys missing: {missing}, unknown: {unknown}")
    return {name: _checked(name, value) for name, value in tree.items()}


def _checked(name: str, value: Any) -> int | float | None:
    if value is None and name in _NULLABLE:
        return None
    wanted = int if name in _INTEGERS else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        kind = "an integer" if name in _INTEGERS else "a number"
        raise ValueError(f"{name} is {kind}; found {value!r}")
    return value if name in _INTEGERS else float(value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _not_finite(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _not_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{prefix}{name}"
