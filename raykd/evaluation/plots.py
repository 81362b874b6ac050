"""Line plots as inline SVG: no script, colours from the page's style sheet, text that scales."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 28, 46

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. Points that are not finite leave a gap.

    Attributes:
        label: Its name in the legend and in the tooltips.
        css: The class that gives its colour and dash.
        points: (x, y), x ascending.
    """

    label: str
    css: str
    points: Sequence[tuple[float, float | None]]

    @property
    def has_points(self) -> bool:
        """Whether there is anything to draw."""
        return bool(_finite(self))


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from values to the unit interval, with its ticks."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        low, high = (_log(self.low), _log(self.high)) if self.log else (self.low, self.high)
        return ((_log(value) if self.log else value) - low) / (high - low)


def line_plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    format_x: Format,
    format_y: Format,
    y_top: float | None = None,
    log_above_ratio: float | None = None,
) -> Markup:
    """Draw lines over one x axis.

    Args:
        lines: What to draw; lines without a finite point are left out.
        title: Read aloud to those who do not see the plot.
        x_label: Name and unit.
        y_label: Name and unit.
        format_x: How a place on the x axis reads.
        format_y: How a value reads.
        y_top: The y axis ends here, whatever the data; None goes by the data.
        log_above_ratio: Where the largest value is more than this many times the smallest, and
            all are positive, the y axis is logarithmic.

    Returns:
        An `<svg>` element; empty where there is no finite point.
    """
    drawn = [line for line in lines if line.has_points]
    if not drawn:
        return Markup("")
    xs = [x for line in drawn for x, _ in _finite(line)]
    ys = [y for line in drawn for _, y in _finite(line)]
    x_axis = _x_axis(xs)
    y_axis = _y_axis(ys, y_top, log_above_ratio)
    label = y_label + (", log scale" if y_axis.log else "")
    parts = [
        _grid(x_axis, y_axis, format_x, format_y, x_label, label),
        *(_draw(line, x_axis, y_axis, x_label, format_x, format_y) for line in drawn),
    ]
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, title, Markup("").join(parts))


def nice_ticks(low: float, high: float, num_wanted: int = 5, whole: bool = False) -> list[float]:
    """Round numbers 1, 2, 2.5 or 5 times a power of ten apart, from `low` to `high` inclusive.

    Args:
        low: Where the axis begins.
        high: Where it ends; more than `low`.
        num_wanted: About how many.
        whole: Integers only.
    """
    rough = (high - low) / num_wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; powers alone over four decades."""
    decades = range(math.floor(_log(low)), math.ceil(_log(high)) + 1)
    factors = (1,) if len(decades) > 5 else (1, 2, 5)
    ticks = [f * 10.0**d for d in decades for f in factors]
    return [t for t in ticks if low * 0.999 <= t <= high * 1.001]


def _x_axis(xs: Sequence[float]) -> Axis:
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 1, high + 1
    whole = all(x == int(x) for x in xs)
    return Axis(low, high, nice_ticks(low, high, 6, whole))


def _y_axis(ys: Sequence[float], top: float | None, log_above_ratio: float | None) -> Axis:
    low, high = min(ys), max(ys)
    if log_above_ratio is not None and low > 0 and high > low * log_above_ratio:
        low, high = low / 1.15, high * 1.15
        return Axis(low, high, log_ticks(low, high), log=True)
    low = min(low, 0.0)
    high = top if top is not None else high + 0.05 * (high - low)
    if low == high:
        high = low + 1.0
    return Axis(low, high, nice_ticks(low, high))


def _grid(
    x_axis: Axis, y_axis: Axis, format_x: Format, format_y: Format, x_label: str, y_label: str
) -> Markup:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [
        *(_tick_y(_y(tick, y_axis), _short(format_y(tick)), right) for tick in y_axis.ticks),
        *(_tick_x(_x(tick, x_axis), _short(format_x(tick)), bottom) for tick in x_axis.ticks),
    ]
    parts.append(
        Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
            _LEFT, bottom, right, bottom
        )
    )
    parts.append(_text((_LEFT + right) / 2, HEIGHT - 8, "middle", x_label, "name"))
    parts.append(_text(4, 12, "start", y_label, "name"))
    return Markup("").join(parts)


def _tick_y(y: float, text: str, right: int) -> Markup:
    line = Markup('<line class="grid" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>')
    return line.format(_LEFT, y, right, y) + _text(_LEFT - 8, y + 4, "end", text)


def _tick_x(x: float, text: str, bottom: int) -> Markup:
    return _text(x, bottom + 19, "middle", text)


def _short(text: str) -> str:
    """A tick is a round number: `2.50k` reads `2.5k`, `4.00` reads `4`."""
    return re.sub(r"\.0+(?!\d)|(\.\d*[1-9])0+(?!\d)", r"\1", text)


def _draw(
    line: Line, x_axis: Axis, y_axis: Axis, x_label: str, format_x: Format, format_y: Format
) -> Markup:
    strokes = [_stroke(run, x_axis, y_axis) for run in _runs(line)]
    with_dots = len(_finite(line)) <= 24
    marks = [
        Markup(
            '<g class="spot">{}<circle class="hit" cx="{:.1f}" cy="{:.1f}" r="8"/>'
            "<title>{}: {}\n{} {}</title></g>"
        ).format(
            _dot(_x(x, x_axis), _y(y, y_axis), with_dots),
            _x(x, x_axis),
            _y(y, y_axis),
            line.label,
            format_y(y),
            x_label,
            format_x(x),
        )
        for x, y in _finite(line)
    ]
    return Markup('<g class="{}">{}</g>').format(line.css, Markup("").join(strokes + marks))


def _stroke(run: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> Markup:
    places = " ".join(f"{_x(x, x_axis):.1f},{_y(y, y_axis):.1f}" for x, y in run)
    return Markup('<polyline points="{}"/>').format(places)


def _dot(x: float, y: float, shown: bool) -> Markup:
    css = "dot" if shown else "dot quiet"
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(css, x, y)


def _text(x: float, y: float, anchor: str, text: str, css: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, escape(text)
    )


def _finite(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if y is not None and math.isfinite(y)]


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """The line's points, cut where one is not finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is not None and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _x(value: float, axis: Axis) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, axis: Axis) -> float:
    place = min(max(axis.place(value), 0.0), 1.0)
    return HEIGHT - _BOTTOM - place * (HEIGHT - _TOP - _BOTTOM)


def _log(value: float) -> float:
    return math.log10(value)
