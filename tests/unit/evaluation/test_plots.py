"""Plots: ticks, axes, and SVG that is well formed whatever the data."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from raykd.evaluation.plots import Line, line_plot, log_ticks, nice_ticks
from raykd.telemetry.units import number


def plot(*lines: Line, log_above_ratio: float | None = None, y_top: float | None = None) -> Markup:
    return line_plot(
        lines,
        title="Loss",
        x_label="step",
        y_label="nats",
        format_x=number,
        format_y=number,
        log_above_ratio=log_above_ratio,
        y_top=y_top,
    )


def texts(svg: Markup) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 4, [0, 1, 2, 3, 4]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (3, 11, [4, 6, 8, 10]),
        (0, 12, [0, 2.5, 5, 7.5, 10]),
        (-2, 2, [-2, -1, 0, 1, 2]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_whole_ticks() -> None:
    assert nice_ticks(1, 3, 6, whole=True) == [1, 2, 3]
    assert all(tick == int(tick) for tick in nice_ticks(1, 12, 6, whole=True))


@pytest.mark.parametrize("low", [1e-7, 0.3, 17.0, 1e9])
@pytest.mark.parametrize("ratio", [1.01, 1.7, 30.0, 1e4])
def test_ticks_are_few_and_within(low: float, ratio: float) -> None:
    ticks = nice_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 8
    slack = low * 1e-6
    assert all(low - slack <= tick <= low * ratio + slack for tick in ticks)


def test_log_ticks() -> None:
    assert log_ticks(0.04, 5) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    assert log_ticks(1e-4, 10) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 10])


def test_log_scale_where_it_spans_far() -> None:
    near = Line("kl", "student", [(0, 2.0), (1, 0.5)])
    far = Line("kl", "student", [(0, 2.0), (1, 0.01)])
    zero = Line("kl", "student", [(0, 2.0), (1, 0.0)])
    assert "log scale" not in plot(near, log_above_ratio=20)
    assert "log scale" in plot(far, log_above_ratio=20)
    assert "log scale" not in plot(far)
    assert "log scale" not in plot(zero, log_above_ratio=20)


def test_higher_values_stand_higher() -> None:
    svg = ElementTree.fromstring(plot(Line("a", "student", [(0, 1.0), (1, 3.0), (2, 2.0)])))
    line = svg.find(".//polyline")
    assert line is not None
    places = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[1][1] < places[2][1] < places[0][1]


@pytest.mark.parametrize("values", [[0.0], [5.0], [0.0, 0.0], [-1.0, -1.0], [1e-12, 2e-12]])
def test_few_or_equal_values(values: list[float]) -> None:
    svg = plot(Line("a", "student", list(enumerate(values))))
    assert "nan" not in svg
    ElementTree.fromstring(svg)


def test_nothing_to_draw() -> None:
    assert plot() == ""
    assert plot(Line("a", "student", []), Line("b", "teacher", [(1, None), (2, math.nan)])) == ""


def test_gaps() -> None:
    line = Line("a", "student", [(0, 1.0), (1, 2.0), (2, math.inf), (3, None), (4, 1.0)])
    assert len(list(ElementTree.fromstring(plot(line)).iter("polyline"))) == 2


def test_tick_texts_are_short() -> None:
    shown = texts(plot(Line("a", "student", [(0, 0.0), (100, 4.0)])))
    assert "4" in shown
    assert "4.00" not in shown


def test_labels_are_escaped() -> None:
    svg = plot(Line("<b>&", "student", [(0, 1.0), (1, 2.0)]))
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg


def test_y_top() -> None:
    assert "1" in texts(plot(Line("a", "student", [(0, 0.1), (1, 0.2)]), y_top=1.0))
