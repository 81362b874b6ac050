"""A plan as tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from raykd.planning.plan_data import Cost, Plan, Writing
from raykd.planning.units import gib, percent, rate, short

if TYPE_CHECKING:
    from rich.console import RenderableType

Say = Callable[[str], None]


def show(plan: Plan, table: Callable[[RenderableType], None], say: Say) -> None:
    """Print a plan.

    Args:
        plan: What to print.
        table: Prints a table.
        say: Prints a line.
    """
    say(f"plan      {plan.name} on {plan.cluster or 'a cluster of your own'}")
    for model in plan.models:
        learns = f", {short(model.trained_parameters)} learn" if model.trained_parameters else ""
        say(
            f"{model.side:<8}  {model.model_type}, {model.parameters:,} parameters{learns}; "
            f"{model.source}"
        )
    say(f"rows      {_amount(plan)}")
    table(_demands(plan))
    if plan.nodes:
        table(_nodes(plan))
    table(_memory(plan))
    if plan.codecs:
        table(_codecs(plan))
    for line in (*_speed(plan), *_writing(plan.writing), *_cost(plan)):
        say(line)
    _verdict(plan, say)


def _amount(plan: Plan) -> str:
    if plan.steps is None:
        return plan.amount_source
    rows = "?" if plan.rows is None else f"{plan.rows:,}"
    return (
        f"{rows} an epoch, {plan.steps:,} steps, {short(plan.tokens or 0)} tokens "
        f"({plan.amount_source})"
    )


def _demands(plan: Plan) -> Table:
    made = Table("phase", "part", "count", "bundles", "labels", "lies on")
    for each in plan.demands:
        if each.on is None:
            where = "no place" if plan.cluster else "-"
        else:
            where = ", ".join(f"{n} on {name}" for name, n in each.on.items())
        labels = ", ".join(f"{k}={v}" for k, v in each.labels.items()) or "-"
        made.add_row(each.phase, each.part, f"{each.count:,}", each.bundles, labels, where)
    return made


def _nodes(plan: Plan) -> Table:
    made = Table("node type", "role", "needed", "of", "idle CPUs", "idle GPUs")
    for each in plan.nodes:
        made.add_row(
            each.node_type + (" (spot)" if each.spot else ""),
            each.role or "-",
            f"{each.needed:,}",
            f"{each.least:,} to {each.most:,}",
            f"{each.idle_cpus:g}" if each.needed else "-",
            str(each.idle_gpus) if each.needed else "-",
        )
    return made


def _memory(plan: Plan) -> Table:
    made = Table("memory of", "on", "needs", "may fill", "headroom", "of which")
    for each in plan.memory:
        have = "unknown" if each.have_bytes is None else gib(each.have_bytes)
        left = "-"
        if each.have_bytes is not None:
            left = gib(each.have_bytes - each.need_bytes) if each.fits else "does not fit"
        where = each.node_type or "-"
        where += {"gpu": " (GPU)", "node": " (one node)", "cpu": " (CPU memory)"}[each.place]
        parts = ", ".join(f"{name} {gib(size)}" for name, size in each.parts.items() if size)
        made.add_row(each.part, where.removeprefix("- "), gib(each.need_bytes), have, left, parts)
    return made


def _codecs(plan: Plan) -> Table:
    made = Table("codec", "bytes a token", "", "teacher to student", "of the network", "buffer")
    for i, each in enumerate(plan.codecs):
        made.add_row(
            each.label + (" (the job's)" if i == 0 else ""),
            f"{each.token_bytes:,.0f}",
            each.kind,
            "unknown" if each.bytes_per_s is None else rate(each.bytes_per_s),
            "-" if each.network_share is None else percent(each.network_share),
            "-" if each.object_store_s is None else f"{each.object_store_s:,.0f} s",
        )
    return made


def _speed(plan: Plan) -> list[str]:
    speed = plan.speed
    lines = []
    if speed.replicas:
        lines.append(
            f"teacher   {_rate(speed.teacher_tokens_per_s)} by {speed.replicas} replicas "
            f"({speed.teacher_source})"
        )
    if speed.ranks:
        lines.append(
            f"student   {_rate(speed.student_tokens_per_s)} by {speed.ranks} ranks "
            f"({speed.student_source})"
        )
    if speed.tokens_per_s is not None:
        waits = "" if speed.student_waits is None else f"; student waits {speed.student_waits:.0%}"
        if speed.teacher_waits is not None:
            waits += f", teacher waits {speed.teacher_waits:.0%}"
        lines.append(f"together  {_rate(speed.tokens_per_s)}{waits}")
    return lines


def _rate(tokens_per_s: float | None) -> str:
    return "unknown" if tokens_per_s is None else f"{tokens_per_s:,.0f} tokens/s"


def _writing(writing: Writing | None) -> list[str]:
    if writing is None:
        return []
    if writing.completions is None:
        count = f"completions ({writing.count_source})"
    else:
        count = f"{writing.completions:,} completions ({writing.count_source})"
    tokens = "" if writing.most_tokens is None else f": {short(writing.most_tokens)} at most"
    lines = [f"writing   {count} of at most {writing.max_new_tokens:,} tokens{tokens}"]
    if writing.replicas:
        hours = "" if writing.hours is None else f"; hours at that length {_hours(writing.hours)}"
        lines.append(
            f"          {_rate(writing.tokens_per_s)} by {writing.replicas} replicas "
            f"({writing.source}){hours}"
        )
    told = _limits(writing)
    return [*lines, f"          {'; '.join(told)}"] if told else lines


def _limits(writing: Writing) -> list[str]:
    """What an endpoint's limits and prices say."""
    told = []
    if writing.least_hours is not None:
        told.append(f"hours at least {_hours(writing.least_hours)} by requests_per_minute")
    if writing.hours_at_length is not None:
        told.append(
            f"hours {_hours(writing.hours_at_length)} by tokens_per_minute at that length, "
            "prompts left out"
        )
    if writing.most_dollars is not None:
        told.append(f"up to {writing.most_dollars:,.2f} USD, and the prompts on top")
    if writing.cap_dollars is not None:
        told.append(f"ends at max_cost_usd {writing.cap_dollars:,.2f}")
    return told


def _cost(plan: Plan) -> list[str]:
    cost = plan.cost
    if cost is None or cost.hours is None:
        return ["hours     unknown: needs rows, rates and a place for everything"]
    phases = {"writing": cost.writing_hours, "filling": cost.filling_hours}
    filling = "".join(f", {h:.1f} of them {name}" for name, h in phases.items() if h)
    uncounted = "start, held-out rows and export"
    if plan.writing is not None and plan.writing.hours is None:
        uncounted = f"writing, {uncounted}"
    gpu_hours = [
        f"{side} {hours:,.1f}"
        for side, hours in (
            ("teacher", cost.teacher_gpu_hours),
            ("student", cost.student_gpu_hours),
        )
        if hours
    ]
    lines = [f"hours     {_hours(cost.hours)}{filling} ({uncounted} not counted)"]
    if gpu_hours:
        lines.append(f"GPU-hours {', '.join(gpu_hours)}")
    if cost.node_hours:
        nodes = ", ".join(f"{name} {hours:,.1f}" for name, hours in cost.node_hours.items())
        lines.append(f"nodes     {nodes} hours")
        lines.append(f"money     {_money(cost)}")
    return lines


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2f} ({hours * 60:.1f} minutes)"


def _money(cost: Cost) -> str:
    told = []
    if cost.on_demand is not None:
        told.append(f"{cost.on_demand:,.2f} USD all on demand")
    if cost.as_planned is not None:
        told.append(f"{cost.as_planned:,.2f} USD with spot where the file says so")
    if cost.missing:
        told.append(f"no price for {', '.join(cost.missing)} (--prices FILE)")
    return "; ".join(told)


def _verdict(plan: Plan, say: Say) -> None:
    split = plan.split
    if split is not None:
        better = f", {split.better_by:.0%} faster than the job's" if split.better_by else ""
        say(
            f"split     best for this hardware: {split.replicas} replicas and {split.ranks} ranks, "
            f"{split.tokens_per_s:,.0f} tokens/s{better}; "
            + " ".join(f"--set {setting}" for setting in split.settings)
        )
    for note in plan.notes:
        say(f"note      {note}")
    for problem in plan.problems:
        say(f"fix this  {problem}")
    for remedy in plan.remedies:
        settings = " ".join(f"--set {setting}" for setting in remedy.settings)
        say(f"try       {settings}   ({remedy.problem} then fits)")
    if plan.problems and not plan.remedies:
        say("try       larger GPUs or more nodes: no setting of the job was found that fits")
    say("fits" if plan.fits else "does not fit")
