"""The codecs that a probe tries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from raykd.soft_targets.spec import CodecSpec

KS: Final = (8, 16, 32, 64, 128, 256, 512)
DRAWS: Final = (25, 50, 100)
WIDTHS_AT: Final = 64
"""The k at which all widths are compared, and the tail is dropped."""
LARGEST_FULL: Final = 4096
"""`full` is listed up to this vocabulary; beyond, a token would take more than 8 KB."""


@dataclass(frozen=True)
class Candidate:
    """A codec to try."""

    label: str
    spec: CodecSpec
    settings: dict[str, str | int | float | bool]


def candidates(base: CodecSpec) -> list[Candidate]:
    """The codecs that a table compares, cheapest first within each kind.

    Args:
        base: Vocabulary, temperatures, hidden size, seed and fingerprint.
    """
    found = [_top_k(base, k, "int8") for k in KS if k < base.vocab_size]
    if base.vocab_size > WIDTHS_AT:
        found += [_top_k(base, WIDTHS_AT, width) for width in ("int6", "bf16", "fp32")]
        found.append(_top_k(base, WIDTHS_AT, "int8", tail=False))
    for draws in DRAWS:
        spec = replace(base, codec="sampled", draws=draws)
        found.append(Candidate(f"sampled {draws}", spec, {"codec": "sampled", "draws": draws}))
    for width in ("int8", "bf16"):
        spec = replace(base, codec="hidden", hidden_values=width)
        settings: dict[str, str | int | float | bool]
        settings = {"codec": "hidden", "hidden_values": width}
        found.append(Candidate(f"hidden {width}", spec, settings))
    if base.vocab_size <= LARGEST_FULL:
        spec = replace(base, codec="full", values="bf16")
        found.append(Candidate("full bf16", spec, {"codec": "full", "values": "bf16"}))
    return found


def _top_k(base: CodecSpec, k: int, width: str, *, tail: bool = True) -> Candidate:
    spec = replace(base, codec="top_k", top_k=k, values=width, tail=tail)
    label = f"top_k {k} {width}{'' if tail else ' no tail'}"
    settings: dict[str, str | int | float | bool] = {
        "codec": "top_k",
        "top_k": k,
        "values": width,
        "tail": tail,
    }
    return Candidate(label, spec, settings)
