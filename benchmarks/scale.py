"""A SIMULATION: how far does raykd's stream scale, where does it bend, and why?

No cluster runs here. `scale_model.py` plays a run event by event, from 8 to 1,000 teacher replicas
and up to 512 ranks; what each process spends on a block was measured on two cores
(`scale_costs.py`, `results/scale_costs.json`). First it plays the cases that `pipeline.py` has
measured for real, and sets the two beside each other. Teacher and student are equally fast
together, which is the hard case: neither can wait for the other without a loss.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.table import Table
from scale_model import Case, Costs, Outcome, simulate
from scipy.optimize import nnls

from raykd.data.pace import SHORTEST_TURN_S
from raykd.evaluation.plots import Line, line_plot

SIZES = ((8, 4), (32, 16), (128, 64), (512, 256), (1000, 512))
"""Replicas and ranks."""
TOKENS_S = 10_000
"""Of a replica; assumed, to turn seconds of teacher time into bytes."""
TOKEN_BYTES = 279
"""Of a token on its way: `top_k` 64 int8 of a vocabulary above 65,536, with the row's own."""
STORE_BYTES = 64e9
"""Object store of the smallest node; assumed."""
NAMING_S = 0.08
"""So that the model names as many blocks a second as `deal-10x4-200ms` did."""
IN_FLIGHT_S = 2e-5
"""Of Ray Data's loop, each turn, for every block with a loader; assumed."""
CV = 0.2
AGREES = 0.05
FEWEST_BLOCKS = 600
PICTURE = Path(__file__).parent.parent / "docs" / "scale.svg"
COLOURS = ("#d1242f", "#bc4c00", "#9a6700", "#1a7f37", "#0969da")

COORDINATOR = ("ray::SplitCoordinator",)
LOADER = ("ray::MapWorker",)
READER = ("ray::ReadBlockIds", "ray::IDLE")
RANK = ("ray::RayTrainWorker",)
REPLICA = ("ray::ServeReplica",)
SHARD = ("ray::Shard",)
READERS = 5
"""Processes that name blocks where ten requests are in flight."""
DAEMONS = ("raylet", "gcs_server")
A_BLOCK = (*COORDINATOR, *LOADER, *READER, *RANK, *REPLICA, *SHARD, *DAEMONS)


# --- costs ----------------------------------------------------------------------------------------


def measured(name: str) -> Any:
    """The results of another benchmark."""
    return json.loads((record.RESULTS / f"{name}.json").read_text())["results"]


def a_block(one: dict[str, Any], roles: tuple[str, ...], processes: int) -> float:
    """CPU seconds of some roles on a block, less what their processes take at rest."""
    used = sum(one["cpu_s"].get(role, 0.0) for role in roles)
    rest = processes * at_rest() * one["wall_s"]
    return float(max(0.0, used - rest) / one["blocks_counted"])


def at_rest() -> float:
    """Of a core: a process of Ray that has nothing to do, such as the tally (`overhead.py`)."""
    run = measured("overhead")["raykd"]
    return float(run["by_process_cpu_s"]["ray::Tally"] / run["wall_s"])


def costs_of(results: dict[str, Any]) -> Costs:
    """What `scale_costs.py` measured, as the model takes it."""
    (serve,) = results["serve"]
    poll_s = poll_cost(results["polls"])
    # The whole way too: four replicas and one rank, with raykd's default of requests in flight.
    turn_s, block_s = coordinator_costs(
        [*results["deal"], {**serve, "in_flight": 10, "ranks": 1}], poll_s
    )
    return Costs(
        pause_s=SHORTEST_TURN_S,
        turn_s=turn_s,
        in_flight_s=IN_FLIGHT_S,
        block_s=block_s,
        poll_s=poll_s,
        reader_s=a_block(serve, READER, READERS),
        naming_s=NAMING_S,
        loader_s=a_block(serve, LOADER, 1),
        loader_byte_s=max(one["byte_cpu_s"] for one in results["copy"]),
        replica_s=a_block(serve, REPLICA, serve["replicas"]),
        shard_s=a_block(serve, SHARD, serve["replicas"]),
        rank_s=a_block(serve, RANK, 1),
        daemons_s=a_block(serve, DAEMONS, 0),
    )


def poll_cost(polls: list[dict[str, Any]]) -> float:
    """Of one look of one rank that waits; each looks a hundred times a second."""
    return float(np.mean([one["poll_cpu_s"] / one["wall_s"] / one["ranks"] / 100 for one in polls]))


def coordinator_costs(runs: list[dict[str, Any]], poll_s: float) -> tuple[float, float]:
    """Least squares, none below zero: its CPU seconds a turn, and a block.

    A turn waits, then works: at a share u of a core there are (1 - u) / pause of them a second.
    All ranks wait nearly all the time.
    """
    rows, shares = [], []
    for one in runs:
        share = one["cpu_s"][COORDINATOR[0]] / one["wall_s"] - at_rest()
        turns = (1 - share) / SHORTEST_TURN_S
        rows.append([turns, one["blocks_s"]])
        known = 100 * one["ranks"] * poll_s + turns * one["in_flight"] * IN_FLIGHT_S
        shares.append(share - known)
    weights = 1 / np.array(shares)
    turn_s, block_s = nnls(np.array(rows) * weights[:, None], shares * weights)[0]
    return float(turn_s), float(block_s)


def background(one: dict[str, Any]) -> float:
    """Cores' worth of work of processes that cost the same whatever the blocks."""
    others = sum(s for role, s in one["cpu_s"].items() if role not in A_BLOCK) / one["wall_s"]
    processes = READERS + 3 + 2 * one["replicas"]
    return float(others + processes * at_rest())


# --- real beside simulated ------------------------------------------------------------------------


def validation(costs: Costs, others: float, runs: int = 8) -> Iterator[dict[str, Any]]:
    """Each case of `pipeline.py`: what was measured, and what the model says."""
    for real in measured("pipeline"):
        case = Case(
            real["replicas"],
            1,
            real["block_s"],
            cv=real["cv"],
            student_cv=real["cv"],
            cores=2,
            others=others,
        )
        found = [simulate(case, costs, rounds=200, fill=20, seed=seed) for seed in range(runs)]
        shares = [one.share_of_drawn if case.cv else one.share for one in found]
        yield {
            "case": real["case"],
            "measured": real["share"],
            "simulated": float(np.mean(shares)),
            "lowest": min(shares),
            "highest": max(shares),
            "agrees": abs(float(np.mean(shares)) - real["share"]) <= AGREES,
        }


# --- scale ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to set a job up."""

    name: str
    block_s: float
    replicas_a_loader: int | None = None
    """None is one loader."""
    window: float | None = None
    """Requests in flight for each replica; None is raykd's default."""

    def case(self, replicas: int, ranks: int) -> Case:
        """At a size."""
        return Case(
            replicas,
            ranks,
            self.block_s,
            cv=CV,
            num_loaders=max(1, replicas // self.replicas_a_loader) if self.replicas_a_loader else 1,
            in_flight=int(self.window * replicas) if self.window else None,
            block_bytes=self.block_s * TOKENS_S * TOKEN_BYTES,
            base_bytes=0.2e6,
            store_bytes=STORE_BYTES,
        )


WAYS = (
    Way("0.4 s, 1 loader", 0.4),
    Way("0.4 s, loaders", 0.4, replicas_a_loader=16),
    Way("2 s, loaders", 2.0, replicas_a_loader=16),
    Way("8 s, loaders", 8.0, replicas_a_loader=16),
    Way("8 s, loaders, window 4", 8.0, replicas_a_loader=16, window=4),
)


def run(case: Case, costs: Costs, seed: int = 0) -> Outcome:
    """At least six blocks of each replica, after four that fill the stream."""
    rounds = -(-max(6 * case.replicas, FEWEST_BLOCKS) // case.ranks)
    return simulate(case, costs, rounds=rounds, fill=-(-2 * rounds // 3), seed=seed)


def bend(case: Case, one: Outcome) -> str:
    """What holds the rate back."""
    if one.share >= 0.95:
        return ""
    if one.coordinator_share >= 0.85:
        return "coordinator"
    if one.loader_share >= 0.85:
        return "loaders"
    if one.most_between >= case.cap_blocks:
        return "bytes"
    if one.turn_s > 0.25 * case.block_s:
        return "turns"
    return "router, order"


def scale(costs: Costs, sizes: tuple[tuple[int, int], ...]) -> Iterator[dict[str, Any]]:
    """Every way at every size."""
    for way in WAYS:
        for replicas, ranks in sizes:
            case = way.case(replicas, ranks)
            yield line(way.name, case, run(case, costs))


def line(name: str, case: Case, one: Outcome) -> dict[str, Any]:
    """A case and its outcome."""
    return {
        "way": name,
        "replicas": case.replicas,
        "ranks": case.ranks,
        "block_s": case.block_s,
        "num_loaders": case.num_loaders,
        "in_flight": case.window,
        "ideal_blocks_s": case.ideal_blocks_s,
        **asdict(one),
        "bends": bend(case, one),
    }


HALVED = ("in_flight_s", "block_s", "poll_s", "loader_s", "loader_byte_s", "shard_s")


def sensitivity(costs: Costs, case: Case) -> Iterator[dict[str, Any]]:
    """One case with a cost halved and doubled, and with other conditions."""
    yield line("as measured", case, run(case, costs))
    groups = [*((name,) for name in HALVED), ("block_s", "poll_s", "in_flight_s")]
    for names in groups:
        label = names[0] if len(names) == 1 else "whole coordinator"
        for factor in (0.5, 2.0):
            changed = replace(costs, **{name: factor * getattr(costs, name) for name in names})
            yield line(f"{label} x {factor:g}", case, run(case, changed))
    for label, other in (
        ("all queues known", replace(case, router="best")),
        ("CV 0.1", replace(case, cv=0.1)),
        ("CV 0.5", replace(case, cv=0.5)),
        ("a replica lives 10 h", replace(case, lifetime_s=36_000.0, restart_s=120.0)),
        ("a replica lives 1 h", replace(case, lifetime_s=3_600.0, restart_s=120.0)),
        ("2 loaders", replace(case, num_loaders=2)),
        ("window 4", replace(case, in_flight=4 * case.replicas)),
    ):
        yield line(label, other, run(other, costs))


def beyond(costs: Costs) -> Iterator[dict[str, Any]]:
    """The largest size with what holds it back taken away."""
    case = WAYS[-1].case(*SIZES[-1])
    ahead = replace(case, round_s=1.25 * case.seconds_a_round)
    roomy = replace(case, store_bytes=8 * STORE_BYTES)
    quiet = replace(costs, poll_s=0.0)
    yield line("as it is", case, run(case, costs))
    yield line("student 1.25 x slower", ahead, run(ahead, costs))
    yield line("8 x the store", roomy, run(roomy, costs))
    yield line("ranks do not look", case, run(case, quiet))
    yield line("no looks, 8 x the store", roomy, run(roomy, quiet))


# --- picture and tables ---------------------------------------------------------------------------


def picture(lines: list[dict[str, Any]]) -> str:
    """Share of the ideal rate over replicas, one line a way; it stands alone."""
    drawn = [
        Line(
            way.name,
            f"way{number}",
            [(math.log2(o["replicas"]), o["share"]) for o in lines if o["way"] == way.name],
        )
        for number, way in enumerate(WAYS)
    ]
    plot = str(
        line_plot(
            drawn,
            title="Simulated share of the ideal rate over the number of teacher replicas",
            x_label="teacher replicas, half as many ranks (simulation)",
            y_label="share of the ideal rate",
            format_x=lambda x: f"{2**x:.0f}",
            format_y=lambda y: f"{y:.2f}",
            y_top=1.0,
        )
    )
    style = (
        "text{font:12px ui-sans-serif,sans-serif;fill:#57606a}.name{font-size:13px}"
        ".grid{stroke:#8c959f;stroke-opacity:.3}.axis{stroke:#8c959f}polyline{fill:none;"
        "stroke-width:2}.hit{fill:none}"
    )
    style += "".join(
        f".way{n} polyline{{stroke:{c}}}.way{n} .dot,.key{n}{{fill:{c}}}"
        for n, c in enumerate(COLOURS)
    )
    keys = "".join(
        f'<text class="key{n}" x="70" y="{170 + 16 * n}">{way.name}</text>'
        for n, way in enumerate(WAYS)
    )
    head, rest = plot.split(">", 1)
    body = rest.removesuffix("</svg>")
    space = ' xmlns="http://www.w3.org/2000/svg"'
    return f"{head}{space}><style>{style}</style>{body}{keys}</svg>\n"


def table_of_costs(costs: Costs) -> Table:
    """In milliseconds."""
    table = Table(title="Costs, ms of a CPU")
    table.add_column("cost")
    table.add_column("ms", justify="right")
    for name, value in asdict(costs).items():
        shown = f"{1e9 * value:.2f} a MB" if name == "loader_byte_s" else f"{1000 * value:.3f}"
        table.add_row(name, shown)
    return table


def table_of_validation(lines: list[dict[str, Any]]) -> Table:
    """Model beside measurement."""
    table = Table(title="Share of the ideal rate: real, and simulated on two cores")
    for name in ("case", "measured", "simulated", "runs", "apart"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for one in lines:
        colour = "green" if one["agrees"] else "red"
        table.add_row(
            one["case"],
            f"{one['measured']:.3f}",
            f"[{colour}]{one['simulated']:.3f}[/]",
            f"{one['lowest']:.3f} to {one['highest']:.3f}",
            f"{one['simulated'] - one['measured']:+.3f}",
        )
    return table


def table_of_scale(lines: list[dict[str, Any]], title: str) -> Table:
    """One line a case."""
    table = Table(title=title)
    names = ("way", "replicas", "ranks", "loaders", "ideal/s", "blocks/s", "share", "coordinator")
    for name in (*names, "turn", "loader", "GB/s", "bends at"):
        table.add_column(name, justify="left" if name in ("way", "bends at") else "right")
    for one in lines:
        table.add_row(
            one["way"],
            str(one["replicas"]),
            str(one["ranks"]),
            str(one["num_loaders"]),
            f"{one['ideal_blocks_s']:.1f}",
            f"{one['blocks_s']:.1f}",
            f"[{'green' if one['share'] >= 0.95 else 'yellow'}]{one['share']:.3f}[/]",
            f"{one['coordinator_share']:.0%}",
            f"{one['turn_s']:.2f}s",
            f"{one['loader_share']:.0%}",
            f"{one['bytes_s'] / 1e9:.2f}",
            one["bends"],
        )
    return table


def main() -> None:
    """Validate, simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="The two smallest sizes only.")
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    arguments = parser.parse_args()
    console, on = record.console(), record.machine()
    taken = measured("scale_costs")
    costs = costs_of(taken)
    console.print(table_of_costs(costs))
    validated = list(validation(costs, background(taken["serve"][0])))
    console.print(table_of_validation(validated))
    scaled = list(scale(costs, SIZES[:2] if arguments.quick else SIZES))
    console.print(table_of_scale(scaled, "SIMULATION, teacher and student equally fast"))
    base = WAYS[2].case(128, 64) if not arguments.quick else WAYS[2].case(32, 16)
    varied = list(sensitivity(costs, base))
    console.print(table_of_scale(varied, "SIMULATION, one thing changed"))
    largest = [] if arguments.quick else list(beyond(costs))
    if largest:
        console.print(table_of_scale(largest, "SIMULATION, the largest size"))
    if not arguments.no_write:
        conditions = {
            "simulation": True,
            "costs_from": "scale_costs.json",
            "cv": CV,
            "tokens_s_a_replica": TOKENS_S,
            "token_bytes": TOKEN_BYTES,
            "store_bytes": STORE_BYTES,
        }
        results = {
            "costs_s": asdict(costs),
            "validation": validated,
            "scale": scaled,
            "sensitivity": varied,
            "largest": largest,
        }
        PICTURE.write_text(picture(scaled))
        console.print(f"written to {record.write('scale', on, conditions, results)}")


if __name__ == "__main__":
    main()
