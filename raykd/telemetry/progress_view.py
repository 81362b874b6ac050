"""How a moment of the run looks: one plain line, or a panel for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from raykd.telemetry.metrics import HeldoutMetrics
from raykd.telemetry.replicas import ReplicaSample
from raykd.telemetry.summary import Summary
from raykd.telemetry.units import duration, number, share, tokens_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What there is to see at one time."""

    stage: str
    elapsed_s: float
    """Since the stage began."""
    done: int = 0
    total: int | None = None
    unit: str = "step"
    loss: float | None = None
    recent: Summary | None = None
    heldout: HeldoutMetrics | None = None
    eta_s: float | None = None
    teacher: ReplicaSample | None = None


def plain_line(moment: Moment) -> str:
    """The moment in one line without styles."""
    return " · ".join([f"[{moment.stage}] {_position(moment)}".rstrip(), *_figures(moment)])


def panel(moment: Moment, title: str, spinner: Spinner) -> RenderableType:
    """The moment as a panel that fits 80 columns."""
    rows: list[RenderableType] = [_head(moment, spinner)]
    if moment.total:
        rows.append(_bar(moment))
    rows.extend(Text.assemble(*line, overflow="fold") for line in _details(moment))
    return Panel(
        Group(*rows),
        title=Text(title, style="bold"),
        title_align="left",
        border_style="cyan",
        padding=(0, 1),
    )


def _position(moment: Moment) -> str:
    if not moment.done and moment.total is None:
        return duration(moment.elapsed_s)
    of = f"/{moment.total}" if moment.total is not None else ""
    return f"{moment.unit} {moment.done}{of}"


def _figures(moment: Moment) -> list[str]:
    figures: list[str] = []
    if moment.loss is not None:
        figures.append(f"loss {number(moment.loss)}")
    if moment.heldout is not None:
        figures.append(f"held-out KL {number(moment.heldout.kl)}")
    for pairs in (_rates(moment.recent), _replicas(moment.teacher), _waits(moment.recent)):
        figures.extend(" ".join(pair) for pair in pairs)
    if moment.eta_s is not None:
        figures.append(f"{duration(moment.eta_s)} left")
    return figures


def _rates(recent: Summary | None) -> list[list[str]]:
    """Labels and values: how fast either side is."""
    if recent is None:
        return []
    rates = [["student", tokens_per_s(recent.tokens_per_s)]]
    if recent.teacher_tokens_per_s is not None:
        rates.append(["teacher", tokens_per_s(recent.teacher_tokens_per_s)])
    return rates


def _waits(recent: Summary | None) -> list[list[str]]:
    """Who waits for whom; the teacher waits where it is ready and the student is not."""
    if recent is None:
        return []
    waits = [["student waits", share(recent.wait_share)]]
    if recent.teacher_held_back_share is not None:
        waits.append(["teacher waits", share(recent.teacher_held_back_share)])
    return waits


def _replicas(teacher: ReplicaSample | None) -> list[list[str]]:
    """Replicas that run, of those there may be, and requests that wait for one."""
    if teacher is None:
        return []
    starting = teacher.wanted - teacher.running
    more = f" ({starting} starting)" if starting > 0 else ""
    replicas = f"{teacher.running}/{teacher.most} replicas{more}"
    return [["teacher", replicas], ["queue", f"{teacher.queued}"]]


def _head(moment: Moment, spinner: Spinner) -> RenderableType:
    spinner.update(text=Text(moment.stage, style="bold"))
    grid = Table.grid(expand=True)
    grid.add_column(justify="left")
    grid.add_column(justify="right")
    grid.add_row(spinner, Text(duration(moment.elapsed_s), style="dim"))
    return grid


def _bar(moment: Moment) -> RenderableType:
    assert moment.total
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    left = share(moment.done / moment.total)
    if moment.eta_s is not None:
        left += f" · {duration(moment.eta_s)} left"
    bar = ProgressBar(total=moment.total, completed=moment.done, complete_style="cyan")
    grid.add_row(Text(_position(moment)), bar, Text(left))
    return grid


def _details(moment: Moment) -> list[list[str | tuple[str, str]]]:
    lines: list[list[str | tuple[str, str]]] = []
    for pairs in (_rates(moment.recent), _waits(moment.recent), _replicas(moment.teacher)):
        if pairs:
            lines.append(_labelled(pairs))
    quality = [["loss", number(moment.loss)]] if moment.loss is not None else []
    if moment.heldout is not None:
        quality.append(["held-out KL", number(moment.heldout.kl)])
        quality.append(["top-1", share(moment.heldout.top1_agreement)])
    if quality:
        lines.append(_labelled(quality))
    return lines


def _labelled(pairs: list[list[str]]) -> list[str | tuple[str, str]]:
    parts: list[str | tuple[str, str]] = []
    for label, value in pairs:
        parts.extend([("   " if parts else "", "dim"), (f"{label} ", "dim"), (value, "bold")])
    return parts
