"""The report's plots: what each shows, and how its axes read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raykd.evaluation import report_tasks
from raykd.evaluation.plots import Line, line_plot
from raykd.evaluation.report_data import Report
from raykd.telemetry.replicas import ReplicaSample, elapsed_s
from raykd.telemetry.summary import SeriesPoint
from raykd.telemetry.units import count, number, share

_LOG_ABOVE_RATIO = 20.0
_NO_STEPS = "No step was trained."
_NO_SAMPLES = "No teacher was watched."
_NO_MEASUREMENTS = "Not measured while training; evaluation.every_steps in the job turns it on."
_TIME_UNITS = ((5400.0, 3600.0, "hours"), (150.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))

Measure = Callable[[SeriesPoint], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with the lines of its legend; `missing` stands where there is no plot."""

    title: str
    lines: list[Line]
    plot: Markup
    missing: str


def figures(report: Report) -> list[Figure]:
    """Loss, held-out divergence, throughput, waiting and, where watched, the teacher's replicas."""
    curve = report.curve
    shown = [_loss(curve, report_tasks.unit(report)), _throughput(curve), _waiting(curve)]
    if not report_tasks.is_of_labels(report):
        shown.insert(1, _heldout(report))
    return [*shown, replicas_figure(report.teacher)] if report.teacher else shown


def _loss(curve: Sequence[SeriesPoint], unit: str) -> Figure:
    steps = [float(point.step) for point in curve]
    lines = [
        _line("loss", "loss", steps, curve, lambda point: point.loss),
        _line("divergence", "divergence", steps, curve, lambda point: point.divergence),
        _line("cross-entropy", "cross-entropy", steps, curve, lambda point: point.cross_entropy),
    ]
    plot = line_plot(
        lines,
        title="Loss by step",
        x_label="step",
        y_label=unit,
        format_x=_step,
        format_y=number,
    )
    return _figure("Loss", lines, plot, _NO_STEPS)


def _heldout(report: Report) -> Figure:
    points = [(float(point.step), point.kl) for point in report.heldout_curve]
    lines = [Line("student", "student", points)]
    plot = line_plot(
        lines,
        title="Held-out KL to the teacher by step",
        x_label="step",
        y_label="nats a token",
        format_x=_step,
        format_y=number,
        log_above_ratio=_LOG_ABOVE_RATIO,
    )
    return _figure("Held-out KL to the teacher", lines, plot, _NO_MEASUREMENTS)


def _throughput(curve: Sequence[SeriesPoint]) -> Figure:
    times, unit = _times(curve)
    lines = [
        _line("student, waiting included", "student", times, curve, lambda p: p.tokens_per_s),
        _line("teacher, while busy", "teacher", times, curve, lambda p: p.teacher_tokens_per_s),
    ]
    plot = line_plot(
        lines,
        title="Throughput over time",
        x_label=f"training time, {unit}",
        y_label="tokens a second",
        format_x=number,
        format_y=count,
    )
    return _figure("Throughput", lines, plot, _NO_STEPS)


def _waiting(curve: Sequence[SeriesPoint]) -> Figure:
    times, unit = _times(curve)
    lines = [
        _line("student waits for teacher", "student", times, curve, lambda p: p.wait_share),
        _line(
            "teacher held back by student",
            "teacher",
            times,
            curve,
            lambda p: p.teacher_held_back_share,
        ),
    ]
    plot = line_plot(
        lines,
        title="Shares of time spent waiting",
        x_label=f"training time, {unit}",
        y_label="share of the time",
        format_x=number,
        format_y=share,
        y_top=1.0,
    )
    return _figure("Who waited for whom", lines, plot, _NO_STEPS)


def replicas_figure(samples: Sequence[ReplicaSample]) -> Figure:
    """Replicas and queue over the time that the teacher was watched."""
    seconds = elapsed_s(samples)
    scale, unit = _unit(seconds[-1] if seconds else 0.0)
    times = [one / scale for one in seconds]
    measures = (
        ("replicas running", "teacher", [float(s.running) for s in samples]),
        ("replicas wanted", "divergence", [float(s.wanted) for s in samples]),
        ("requests queued", "student", [float(s.queued) for s in samples]),
    )
    lines = [Line(label, css, list(zip(times, ys, strict=True))) for label, css, ys in measures]
    plot = line_plot(
        lines,
        title="Replicas and queue over time",
        x_label=f"time, {unit}",
        y_label="count",
        format_x=number,
        format_y=count,
    )
    return _figure("The teacher's replicas", lines, plot, _NO_SAMPLES)


def _line(
    label: str, css: str, xs: Sequence[float], curve: Sequence[SeriesPoint], measure: Measure
) -> Line:
    return Line(label, css, [(x, measure(point)) for x, point in zip(xs, curve, strict=True)])


def _figure(title: str, lines: list[Line], plot: Markup, missing: str) -> Figure:
    """Lines that were never measured have no place in the legend."""
    return Figure(title, [line for line in lines if line.has_points], plot, missing)


def _times(curve: Sequence[SeriesPoint]) -> tuple[list[float], str]:
    """Training time at each point, in the unit that suits the longest."""
    scale, unit = _unit(curve[-1].elapsed_s if curve else 0.0)
    return [point.elapsed_s / scale for point in curve], unit


def _unit(longest_s: float) -> tuple[float, str]:
    """Seconds of the unit that suits a length of time, and its name."""
    return next((scale, unit) for above, scale, unit in _TIME_UNITS if longest_s >= above)


def _step(value: float) -> str:
    return f"{value:,.0f}"
