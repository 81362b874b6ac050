"""What raykd exports to Prometheus: a name, a kind, a unit and a sentence for each metric.

Ray puts `ray_` before every name. Gauges end with the process that set them; counters stay as long
as its node does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "raykd_"
EXPORTED_PREFIX = "ray_"
"""What Ray puts before a name."""

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    unit: str
    """Empty for plain numbers."""
    description: str
    labels: tuple[str, ...] = ("run",)


def _gauge(name: str, unit: str, description: str) -> Metric:
    return Metric(PREFIX + name, "gauge", unit, description)


def _counter(name: str, unit: str, description: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", "counter", unit, description, ("run", *labels))


_TABLE = (
    # Where the run is.
    _gauge("training", "", "1 while the student trains, 0 before and after."),
    _gauge("progress_timestamp_seconds", "s", "Unix time of the last step, or training's begin."),
    _gauge("step", "", "Steps done."),
    _gauge("steps_planned", "", "Steps of the whole run."),
    _gauge("checkpoint_step", "", "Steps that the newest checkpoint has done."),
    _gauge("checkpoint_row", "", "Row at which a resumed run would go on."),
    # What is learned.
    _gauge("loss", "nats", "Loss of the last step, a mean over its learned tokens."),
    _gauge("divergence", "nats", "The loss's part from the teacher, temperature squared included."),
    _gauge("cross_entropy", "nats", "Cross-entropy a token on the text itself."),
    _gauge("learning_rate", "", "Learning rate of the last step."),
    _gauge("gradient_norm", "", "Gradient norm of the last step, before clipping."),
    _gauge("heldout_kl", "nats", "KL a token from the teacher on the held-out rows."),
    _gauge("heldout_top1_agreement_ratio", "", "Held-out tokens where both put the same id first."),
    _gauge("heldout_perplexity", "", "Perplexity of the student on the held-out text."),
    # Who is fast, and who waits for whom; over the last 20 steps.
    _gauge("step_seconds", "s", "Length of the last step, waiting included."),
    _gauge("student_tokens_per_second", "tokens/s", "Tokens through the student; its waits count."),
    _gauge("student_wait_ratio", "", "Share of the student's time spent waiting for its rows."),
    _gauge("teacher_tokens_per_second", "tokens/s", "What all replicas do while they are busy."),
    _gauge("teacher_busy_ratio", "", "Share of the replicas' time spent at work."),
    _gauge("teacher_held_back_ratio", "", "The rest: replicas ready, and nothing asked of them."),
    _counter("steps", "", "Steps made; one that is made again counts again."),
    _counter("student_tokens", "tokens", "All tokens through the student, padding too."),
    _counter("student_seconds", "s", "Time of all steps, waiting included."),
    _counter("student_wait_seconds", "s", "Time that the rank which waited longest waited."),
    _counter("teacher_busy_seconds", "s", "Busy time of the teacher on the rows of all steps."),
    # The teacher's replicas and their queue.
    _gauge("teacher_replicas_running", "", "Replicas that answer."),
    _gauge("teacher_replicas_wanted", "", "Replicas that run or are being started."),
    _gauge("teacher_replicas_limit", "", "Replicas that there may be."),
    _gauge("teacher_requests_waiting", "", "Requests on their way, less one at work a replica."),
    _gauge("teacher_requests_limit", "", "Requests that may be on their way."),
    _gauge("stream_limit_bytes", "bytes", "Most bytes of rows on their way."),
    # What comes to the student: counted in the processes that ask.
    _counter("soft_target_rows", "", "Rows whose soft targets came, from wherever."),
    _counter("soft_target_bytes", "bytes", "Bytes of soft targets that came, as Arrow columns."),
    _counter("teacher_requests", "", "Requests that the teacher answered."),
    _counter("teacher_rows", "", "Rows that the teacher answered for."),
    _counter("teacher_bytes", "bytes", "Bytes of soft targets that the teacher sent."),
    _counter("teacher_requests_lost", "", "Tries of a request lost with a replica, or too long."),
    _counter("teacher_requests_refused", "", "Tries of a request at which the engine raised."),
    _counter("store_hit_rows", "", "Rows with a token to learn that the store had."),
    _counter("store_missed_rows", "", "Rows with a token to learn that it lacked."),
    # What went wrong.
    _counter("student_restarts", "", "Times that the student group began to train again."),
    _counter("student_rank_failures", "", "Failures of a rank that left a traceback.", "rank"),
    _counter("run_failures", "", "Ends of a run by an error, by the error's class.", "error"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric, by its name in the code."""


def exported(metric: Metric) -> str:
    """The metric's name in Prometheus."""
    return EXPORTED_PREFIX + metric.name
