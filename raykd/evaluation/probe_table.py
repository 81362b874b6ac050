"""A probe as a person reads it: three tables and what to write into the job."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raykd.evaluation.probe_data import CodecFound, Probe, Recommended


def probe_tables(probe: Probe) -> RenderableType:
    """Everything that a person decides from."""
    return Group(_teacher(probe), "", _codecs(probe), Text(_notes(probe), "dim"), "", advice(probe))


def advice(probe: Probe) -> RenderableType:
    """The recommendation and its reasons."""
    best = probe.recommended
    lines = [
        ("recommended", "bold"),
        (f"  soft_targets: {as_yaml(best)}", "bold green"),
        (f"    {best.codec_reason}", ""),
        (f"  loss.temperature: {best.temperature:g}", "bold green"),
        (f"    {best.temperature_reason}", ""),
        (f"  teacher.replicas: {best.replicas}", "bold green"),
        (f"    {best.split_reason}", ""),
    ]
    return Group(*(Text(line, style) for line, style in lines))


def as_yaml(best: Recommended) -> str:
    """The codec's keys, as one would write them in the job file."""
    told = {k: str(v).lower() if isinstance(v, bool) else v for k, v in best.settings.items()}
    return "{" + ", ".join(f"{key}: {value}" for key, value in told.items()) + "}"


def _teacher(probe: Probe) -> Group:
    found = probe.teacher
    head = (
        f"teacher, on {probe.tokens:,} tokens of {probe.rows} rows: entropy "
        f"{found.entropy_mean:.2f} nats (median {found.entropy_median:.2f}, 95 % below "
        f"{found.entropy_p95:.2f}); likeliest id {found.top1_mass:.1%}"
    )
    table = _plain_table("mass of the k likeliest ids, k =", *map(str, found.mass_by_k))
    for label, at in (("mean", 0), ("5th percentile over tokens", 1)):
        table.add_row(label, *(f"{mass[at]:.0%}" for mass in found.mass_by_k.values()))
    return Group(Text(head, "bold"), table)


def _codecs(probe: Probe) -> Group:
    loss = " + ".join(
        name if weight == 1 else f"{weight:g} {name}" for name, weight in probe.divergence.items()
    )
    head = (
        f"codecs, on {probe.compared_tokens:,} tokens: {loss} at temperature "
        f"{probe.temperature:g}; the student with its first weights, whose divergence from `full` "
        f"is {probe.full_loss:.4f} nats a token"
    )
    table = _plain_table(
        "codec", "B wire", "B rest", "loss gap", "cosine", "bias", "enc/s", "dec/s"
    )
    for one in probe.codecs:
        chosen = one.settings == probe.recommended.settings
        table.add_row(*_cells(one, probe.full_loss), style="green" if chosen else "")
    return Group(Text(head, "bold"), table)


def _plain_table(first: str, *others: str) -> Table:
    """Narrow enough for 80 columns."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(one: CodecFound, full_loss: float) -> list[str]:
    cells = [one.label, f"{one.wire_bytes:,.0f}", f"{one.rest_bytes:,.0f}"]
    if one.refused is None:
        cells += [_share(one.loss_gap / full_loss), f"{one.cosine:.4f}", _share(one.bias)]
    else:
        cells += [one.refused, "", ""]
    return [*cells, _thousands(one.encode_tokens_per_s), _thousands(one.decode_tokens_per_s)]


def _thousands(value: float) -> str:
    return f"{value / 1000:,.{1 if value < 1e5 else 0}f}k"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.2%}"


def _notes(probe: Probe) -> str:
    dense = 2 * probe.vocab_size
    return (
        f"Bytes are for one learned token; every log probability in bf16 would take {dense:,}. "
        "Loss gap: divergence over that of `full`, less 1. Cosine and bias: of the gradient by "
        "the student's hidden states, against `full`. Encode and decode: tokens a second of one "
        "process; encode counts the search through the vocabulary."
    )
