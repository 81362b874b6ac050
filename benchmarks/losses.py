"""What does the fused loss cost beside naive cross-entropy, in CPU time and in memory?

Forward and backward of a head, hidden states and weight given: CPU seconds (user and system) of the
process, and its highest resident memory above what it holds before. Each measurement is the first
call in a process of its own, so that every page is fresh; rows take turns, so that what else the
machine does falls on all of them. Ratios are of medians, to `F.cross_entropy(h @ W.T, labels)`.

Peers are measured where they can be imported: `pip install --no-deps --target DIR trl
liger-kernel`, then `--peers DIR`.

T tokens, V vocabulary, D hidden size, K ids kept, U ids drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch
from rich.table import Table
from torch.nn import functional as F  # noqa: N812 - its own name everywhere

from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import (
    BucketTargets,
    HiddenTargets,
    LogitShape,
    SampledTargets,
    Targets,
    TeacherHead,
)

MIB = 2**20
NAIVE = "naive cross-entropy"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TARGETS = {
    ("fp32", 512): (None, 0.40),
    ("bf16", 512): (None, 0.40),
    ("fp32", 2048): (1.0, 0.15),
    ("bf16", 2048): (1.1, 0.20),
}
"""(CPU seconds, memory) over naive cross-entropy, by dtype and tokens."""
FLAT = 1.10
TOP_K, DRAWS = 64, 50
FORWARD_KL = LossSpec((("forward_kl", 1.0),))

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One measurement."""

    row: str
    dtype: str
    tokens: int


@dataclass(frozen=True)
class Sizes:
    """What the rows are made of."""

    tokens: int
    width: int
    vocab_size: int
    dtype: torch.dtype

    def labels(self) -> torch.Tensor:
        """One a token."""
        return torch.randint(self.vocab_size, (self.tokens,))

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """In the dtype of everything."""
        return torch.empty(shape, dtype=self.dtype).normal_(std=scale)

    def head(self) -> torch.Tensor:
        """A weight that gives logits of about unit spread."""
        return self.normal(self.vocab_size, self.width, scale=0.04)

    def top_k(self) -> BucketTargets:
        """Distinct ids; a tenth of the mass is in the tail."""
        k = min(TOP_K, self.vocab_size)
        first_T1 = torch.randint(self.vocab_size, (self.tokens, 1))
        ids_TK = (first_T1 + torch.arange(k) * (self.vocab_size // k)) % self.vocab_size
        kept = torch.tensor(0.9).log()
        logprobs_TK = torch.randn(self.tokens, k).log_softmax(1) + kept
        return BucketTargets(
            ids_TK.int(), logprobs_TK, (-torch.expm1(kept)).log().expand(self.tokens)
        )


# --- rows: each makes its own inputs, then is called with hidden states and weight ----------------


def naive(sizes: Sizes) -> Loss:
    labels_T = sizes.labels()
    return lambda h_TD, w_VD: F.cross_entropy(h_TD @ w_VD.T, labels_T, reduction="sum")


def dense_kl(sizes: Sizes) -> Loss:
    """The teacher's log probabilities are at hand."""
    log_p_TV = sizes.normal(sizes.tokens, sizes.vocab_size).log_softmax(1)

    def loss(h_TD: torch.Tensor, w_VD: torch.Tensor) -> torch.Tensor:
        log_q_TV = (h_TD @ w_VD.T).log_softmax(1)
        return F.kl_div(log_q_TV, log_p_TV, reduction="sum", log_target=True)

    return loss


def gathered_kl(sizes: Sizes) -> Loss:
    """As written by hand: the whole log_softmax, then the kept ids; no tail."""
    told = sizes.top_k()
    ids_TK, log_p_TK = told.ids_TK.long(), told.logprobs_TK.log_softmax(1)

    def loss(h_TD: torch.Tensor, w_VD: torch.Tensor) -> torch.Tensor:
        log_q_TK = (h_TD @ w_VD.T).log_softmax(1).gather(1, ids_TK)
        return (log_p_TK.exp() * (log_p_TK - log_q_TK)).sum()

    return loss


def raykd(sizes: Sizes, *, told: Callable[[Sizes], Targets | None], spec: LossSpec) -> Loss:
    labels_T, targets = sizes.labels(), told(sizes)

    def loss(h_TD: torch.Tensor, w_VD: torch.Tensor) -> torch.Tensor:
        return linear_distillation_loss(
            h_TD,
            w_VD,
            None,
            labels_T,
            targets,
            spec,
            shape=LogitShape(),
            vocab_size=sizes.vocab_size,
        ).total

    return loss


def nothing(_: Sizes) -> None:
    """No targets."""


def sampled(sizes: Sizes) -> SampledTargets:
    ids_TU = torch.randint(sizes.vocab_size, (sizes.tokens, DRAWS))
    weights_TU = torch.full((sizes.tokens, DRAWS), 1 / DRAWS)
    return SampledTargets(ids_TU.int(), weights_TU, torch.ones(sizes.tokens))


def hidden(sizes: Sizes) -> HiddenTargets:
    """A teacher as wide as the student."""
    head = TeacherHead(sizes.head(), None, LogitShape())
    return HiddenTargets(sizes.normal(sizes.tokens, sizes.width), head)


def trl_dense(sizes: Sizes) -> Loss:
    from trl.experimental.gkd import GKDTrainer

    teacher_1TV, labels_1T = sizes.normal(1, sizes.tokens, sizes.vocab_size), sizes.labels()[None]

    def loss(h_TD: torch.Tensor, w_VD: torch.Tensor) -> torch.Tensor:
        logits_1TV = (h_TD @ w_VD.T)[None]
        return GKDTrainer.generalized_jsd_loss(logits_1TV, teacher_1TV, labels_1T, beta=0.0)

    return loss


def trl_top_k(sizes: Sizes) -> Loss:
    from trl.experimental.async_distillation import async_distillation_trainer as trl

    told = sizes.top_k()
    ids_TK, log_p_TK = told.ids_TK.long(), told.logprobs_TK
    valid_TK, size = torch.ones_like(ids_TK, dtype=torch.bool), trl._CHUNKED_LM_HEAD_CHUNK_SIZE

    def loss(h_TD: torch.Tensor, w_VD: torch.Tensor) -> torch.Tensor:
        head = (h_TD, w_VD, None, 1.0, None)
        settings = (0.0, 1.0, True, None, 1, size)  # forward KL, temperature 1, with a tail
        total: torch.Tensor = trl._chunked_jsd_loss(*head, ids_TK, log_p_TK, valid_TK, *settings)[0]
        return total

    return loss


def liger_hidden(sizes: Sizes) -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    module = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False
    )
    told, labels_T = hidden(sizes), sizes.labels()
    teacher = (told.hidden_TD, told.head.weight_VD, labels_T)
    return lambda h_TD, w_VD: module(h_TD, w_VD, *teacher)


ROWS: dict[str, Callable[[Sizes], Loss]] = {
    NAIVE: naive,
    "dense KL, teacher's log probabilities given": dense_kl,
    f"log_softmax + gather, KL over {TOP_K} ids": gathered_kl,
    "TRL GKD loss, teacher's logits given": trl_dense,
    f"TRL chunked loss, {TOP_K} ids and tail": trl_top_k,
    "Liger chunked JSD at beta 0, eager, hidden states": liger_hidden,
    "raykd cross-entropy alone": partial(raykd, told=nothing, spec=LossSpec((), alpha=1.0)),
    f"raykd top_k, {TOP_K} ids and tail": partial(raykd, told=Sizes.top_k, spec=FORWARD_KL),
    f"raykd sampled, {DRAWS} ids": partial(raykd, told=sampled, spec=FORWARD_KL),
    "raykd hidden": partial(raykd, told=hidden, spec=FORWARD_KL),
    "raykd top_k, temperature 2, half cross-entropy": partial(
        raykd,
        told=Sizes.top_k,
        spec=LossSpec((("forward_kl", 1.0),), temperature=2.0, alpha=0.5),
    ),
}


# --- one measurement ------------------------------------------------------------------------------


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """This process makes one call and says what it took."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    dtype = DTYPES[case.dtype]
    try:
        once(Sizes(8, 64, 1000, dtype), case.row)  # libraries load and set up
    except ImportError as error:
        return {"missing": f"{type(error).__name__}: {error}".splitlines()[0]}
    return once(Sizes(case.tokens, arguments.width, arguments.vocab, dtype), case.row)


def once(sizes: Sizes, row: str) -> dict[str, Any]:
    """Forward and backward."""
    h_TD = sizes.normal(sizes.tokens, sizes.width).requires_grad_()
    w_VD = sizes.head().requires_grad_()
    loss = ROWS[row](sizes)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before, began = resident_bytes("VmRSS"), time.process_time()
    loss(h_TD, w_VD).backward()
    cpu_s = time.process_time() - began
    assert h_TD.grad is not None
    assert w_VD.grad is not None
    return {"cpu_s": cpu_s, "peak_mib": (resident_bytes("VmHWM") - before) / MIB}


def resident_bytes(name: str) -> int:
    """Linux's count of this process's memory: now, or at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: memory is measured on Linux only")


def run_child(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """This script again, for one measurement."""
    command = [sys.executable, __file__, "--one", case.row, case.dtype, str(case.tokens)]
    command += [f"--width={arguments.width}", f"--vocab={arguments.vocab}"]
    command += [f"--threads={arguments.threads}"]
    if arguments.peers:
        command.append(f"--peers={arguments.peers}")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(arguments.threads),
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# --- all of them ----------------------------------------------------------------------------------


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """Peers only where memory allows; at the most tokens only what says whether memory is flat."""
    chosen = []
    for dtype in arguments.dtypes:
        for tokens in arguments.tokens:
            rows = [row for row in ROWS if arguments.only in row or row == NAIVE]
            if tokens > arguments.peers_up_to:
                rows = [row for row in rows if row.startswith("raykd")]
            chosen += [Case(row, dtype, tokens) for row in rows]
    return chosen


def collect(arguments: argparse.Namespace, console: Any) -> list[dict[str, Any]]:
    """Measure every case as often as asked, in turns."""
    cases = cases_of(arguments)
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for turn in range(arguments.repeats):
        for case in cases:
            if turn and "missing" in found[case][0]:
                continue
            found[case].append(run_child(case, arguments))
        console.print(f"turn {turn + 1} of {arguments.repeats} done", style="dim")
    return [summary(case, each) for case, each in found.items()]


def summary(case: Case, each: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one case."""
    about: dict[str, Any] = {"row": case.row, "dtype": case.dtype, "tokens": case.tokens}
    if "missing" in each[0]:
        return {**about, "missing": each[0]["missing"]}
    cpu_s = [one["cpu_s"] for one in each]
    return {
        **about,
        "cpu_s": median(cpu_s),
        "cpu_s_range": [min(cpu_s), max(cpu_s)],
        "peak_mib": median(one["peak_mib"] for one in each),
    }


def add_ratios(results: list[dict[str, Any]]) -> None:
    """To naive cross-entropy of the same dtype and tokens; to half the tokens, for flatness."""
    by_case = {(one["row"], one["dtype"], one["tokens"]): one for one in results}
    for one in results:
        base = by_case.get((NAIVE, one["dtype"], one["tokens"]))
        if "missing" in one:
            continue
        if base is not None:
            one["cpu_ratio"] = one["cpu_s"] / base["cpu_s"]
            one["memory_ratio"] = one["peak_mib"] / base["peak_mib"]
        half = by_case.get((one["row"], one["dtype"], one["tokens"] // 2))
        if half is not None and "missing" not in half:
            one["peak_over_half_the_tokens"] = one["peak_mib"] / half["peak_mib"]


def table_of(results: list[dict[str, Any]], dtype: str, tokens: int) -> Table:
    """One line a row; green where raykd's target is met."""
    most_cpu, most_memory = TARGETS.get((dtype, tokens), (None, None))
    table = Table(title=f"{dtype}, T = {tokens:,}")
    table.add_column("", no_wrap=True)
    for name in ("CPU s", "least to most", "to naive", "peak MiB", "to naive", "to T / 2"):
        table.add_column(name, justify="right")
    for one in results:
        if (one["dtype"], one["tokens"]) != (dtype, tokens):
            continue
        if "missing" in one:
            table.add_row(one["row"], "not importable", *[""] * 5, style="dim")
            continue
        ours = one["row"].startswith("raykd")
        table.add_row(
            one["row"],
            f"{one['cpu_s']:.2f}",
            "{:.2f} to {:.2f}".format(*one["cpu_s_range"]),
            marked(one.get("cpu_ratio"), most_cpu if ours else None),
            f"{one['peak_mib']:,.0f}",
            marked(one.get("memory_ratio"), most_memory if ours else None),
            marked(one.get("peak_over_half_the_tokens"), FLAT if ours and not most_cpu else None),
        )
    return table


def marked(ratio: float | None, most: float | None) -> str:
    """The ratio, coloured if there is a target."""
    if ratio is None:
        return ""
    if most is None:
        return f"{ratio:.3f}"
    return f"[{'green' if ratio <= most else 'yellow'}]{ratio:.3f}[/] of {most:g}"


def peer_versions(peers: Path | None) -> dict[str, str | None]:
    """What `--peers` holds."""
    if peers:
        sys.path.append(str(peers))
    versions: dict[str, str | None] = {}
    for name in ("trl", "liger-kernel"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--width", type=int, default=512, help="Hidden size.")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="Rows whose name holds this, and the naive one.")
    parser.add_argument("--peers", type=Path, help="Directory with trl and liger-kernel.")
    parser.add_argument(
        "--peers-up-to", type=int, default=2048, help="Most tokens for rows other than raykd's."
    )
    parser.add_argument("--no-write", action="store_true", help="Leave the results file alone.")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        row, dtype, tokens = arguments.one
        print(json.dumps(measure(Case(row, dtype, int(tokens)), arguments)))
        return
    console, on = record.console(), record.machine()
    results = collect(arguments, console)
    add_ratios(results)
    for dtype in arguments.dtypes:
        for tokens in arguments.tokens:
            console.print(table_of(results, dtype, tokens))
    if not arguments.no_write:
        conditions = {
            "hidden_size": arguments.width,
            "vocabulary": arguments.vocab,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
            "peers": peer_versions(arguments.peers),
        }
        console.print(f"written to {record.write('losses', on, conditions, results)}")


if __name__ == "__main__":
    main()
