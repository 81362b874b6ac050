"""Does the codec matter to what is learned?

The quickstart's student learns from the same rows in the same order, once from each codec, with
several seeds; all by the losses, codecs and models of raykd, in one process without Ray. What is
compared at the end is the divergence over the whole vocabulary on held-out rows, whatever the codec
learned from. `hidden` in bf16 is `full` here: the teacher runs in bf16, so its logits come again
as they were.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import record
import torch
from rich.table import Table

from raykd.config.load import load_job
from raykd.data.order import RowOrder
from raykd.data.prepare import open_rows
from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import HiddenTargets, LogitShape, TeacherHead
from raykd.models.batch import collate, flat
from raykd.models.head import AfterHead, head_logits, hidden_states, read_head, save_head
from raykd.models.init import write_student
from raykd.models.load import load_model, locate
from raykd.pipeline import stages
from raykd.pipeline.models import find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.soft_targets.codec import Encoded, encode, to_columns, token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.student.module import DistillationModule
from raykd.student.targets import to_targets
from raykd.student.zero import learning_rate

JOB = Path(__file__).parent.parent / "jobs" / "quickstart.yaml"
CPU = torch.device("cpu")
ROWS_AT_ONCE = 4
HEAD_TOKENS = 256


def codecs(vocab_size: int, hidden_size: int) -> dict[str, CodecSpec]:
    """What is compared; the first is the reference."""
    return {
        "full": CodecSpec("hidden", vocab_size, hidden_size=hidden_size),
        "sampled 50": CodecSpec("sampled", vocab_size, draws=50),
        "top_k 12": CodecSpec("top_k", vocab_size, top_k=12),
        "top_k 12 no tail": CodecSpec("top_k", vocab_size, top_k=12, tail=False),
        "top_k 64": CodecSpec("top_k", vocab_size, top_k=64),
    }


class Bench:
    """Models, rows and the teacher's hidden states, made once."""

    def __init__(self, arguments: argparse.Namespace, root: Path) -> None:
        self.job = load_job(
            arguments.job,
            [f"storage_path={root}", f"train.max_steps={arguments.steps}", *arguments.set],
        )
        self.steps = arguments.steps
        self.run = RunDirectory.of(self.job)
        for directory in (self.run.root, self.run.logs, self.run.model_cache):
            directory.mkdir(parents=True, exist_ok=True)
        self.models = find_models(self.job, self.run)
        self.source = write_student(
            self.job.student.init, self.models.teacher, self.job.seed, self.run.initial_student
        )
        stages.prepare_rows(self.job, self.run, self.models)
        source = locate(self.job.teacher, "teacher", self.run.model_cache)
        self.teacher: Any = load_model(source, "bf16", "teacher").eval().requires_grad_(False)
        save_head(self.teacher, self.run.teacher_head, write=True)
        head = read_head(self.run.teacher_head, self.models.vocab_size, CPU)
        shape = LogitShape(head.after.scale, head.after.softcap)
        self.head = TeacherHead(head.weight_VD, head.bias_V, shape)
        self.heldout = self._rows("heldout", self.job.evaluation.max_rows)
        self.train = self._rows("train", arguments.steps * self.job.train.global_batch)

    def _rows(self, name: str, most: int) -> list[tuple[pa.Table, torch.Tensor]]:
        """Rows with the teacher's hidden states [M, D] at their learned positions; made once."""
        rows = open_rows(self.run.data / name)
        file = self.run.root / f"{name}.hidden.pt"
        if not file.is_file():
            torch.save([hidden for _, hidden in self._asked(rows, min(most, rows.num_rows))], file)
        kept = torch.load(file, weights_only=True)
        return [(rows.take(np.array([i])), hidden) for i, hidden in enumerate(kept)]

    def _asked(self, rows: Any, num_rows: int) -> list[tuple[pa.Table, torch.Tensor]]:
        found = []
        for at in range(0, num_rows, ROWS_AT_ONCE):
            table = rows.take(np.arange(at, min(at + ROWS_AT_ONCE, num_rows)))
            batch = collate(table)
            with torch.inference_mode():
                hidden = hidden_states(self.teacher, batch.input_ids_BT, batch.position_ids_BT)
                kept_MD = hidden.flatten(0, 1).index_select(0, batch.keep_M)
            row_M = batch.keep_M // batch.input_ids_BT.shape[1]
            counts = row_M.bincount(minlength=table.num_rows).tolist()
            found += [
                (table.slice(i, 1), part.clone()) for i, part in enumerate(kept_MD.split(counts))
            ]
        return found

    @torch.inference_mode()
    def sent(self, at: int, spec: CodecSpec, seed: int) -> pa.Table:
        """Training row `at` as it would arrive."""
        row, hidden_MD = self.train[at]
        batch = collate(row)
        keys = token_keys([flat(row, "input_ids")[0]], [len(batch.keep_M)], seed)
        parts = []
        for start in range(0, max(1, len(hidden_MD)), HEAD_TOKENS):
            piece = slice(start, start + HEAD_TOKENS)
            source = hidden_MD[piece]
            if spec.source == "logits":
                source = head_logits(self.teacher, source, spec.vocab_size)
            parts.append(encode(source, batch.label_ids_M[piece], keys[piece], spec))
        columns = to_columns([Encoded.concatenate(parts)], spec)
        names = [*row.column_names, *columns]
        return pa.table([*row.columns, *columns.values()], names=names)


def train(bench: Bench, spec: CodecSpec, seed: int) -> tuple[Any, float]:
    """Train one student; returns it and the mean loss of its last ten steps."""
    job = bench.job
    model: Any = load_model(bench.source, "bf16", "student")
    model.config.use_cache = False
    module = DistillationModule(model, job, spec.vocab_size).train()
    weights = list(model.parameters())
    masters = [p.detach().float().requires_grad_(True) for p in weights]
    config = job.train.optimizer
    optimizer = torch.optim.AdamW(
        masters, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    size, losses = job.train.global_batch, []
    num_rows = len(bench.train)
    order = RowOrder(num_rows, 1 + bench.steps * size // num_rows, seed, True, None, size)
    for step in range(bench.steps):
        chosen = order.source_rows(step * size, (step + 1) * size)
        rows = pa.concat_tables([bench.sent(i, spec, seed) for i in chosen]).combine_chunks()
        batch = collate(rows)
        arrived = to_targets(rows, spec, job.loss.temperature, bench.head, CPU)
        parts = module(batch, arrived.targets, None)
        (parts.total / len(batch.keep_M)).backward()
        losses.append(parts.total.item() / len(batch.keep_M))
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, job.train.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, bench.steps, config)
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)
    return model, float(np.mean(losses[-10:]))


@torch.no_grad()
def heldout(bench: Bench, model: Any) -> dict[str, float]:
    """Divergence over the whole vocabulary, cross-entropy and their tokens, on held-out rows."""
    kl = nll = tokens = agreed = 0.0
    for row, hidden_MD in bench.heldout:
        batch = collate(row)
        own_BTD = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
        own_MD = own_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        after = AfterHead.of(model)
        parts = linear_distillation_loss(
            own_MD,
            model.get_output_embeddings().weight,
            None,
            batch.label_ids_M,
            HiddenTargets(hidden_MD, bench.head),
            LossSpec((("forward_kl", 1.0),)),
            shape=LogitShape(after.scale, after.softcap),
            vocab_size=bench.models.vocab_size,
        )
        mine = head_logits(model, own_MD, bench.models.vocab_size).argmax(1)
        theirs = head_logits(bench.teacher, hidden_MD, bench.models.vocab_size).argmax(1)
        assert parts.divergence is not None
        kl += parts.divergence.item()
        nll += parts.cross_entropy.item()
        agreed += float((mine == theirs).sum())
        tokens += len(batch.keep_M)
    return {"kl": kl / tokens, "cross_entropy": nll / tokens, "top1": agreed / tokens}


def measure(bench: Bench, names: list[str], seed: int) -> Iterator[dict[str, Any]]:
    """One result for each codec."""
    specs = codecs(bench.models.vocab_size, bench.models.teacher_hidden_size)
    for name in names:
        spec = specs[name]
        started = time.perf_counter()
        model, loss = train(bench, spec, seed)
        seconds = time.perf_counter() - started
        yield {
            "codec": name,
            "seed": seed,
            "last_losses": loss,
            "seconds": seconds,
            **heldout(bench, model),
        }


def measure_all(arguments: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Every seed in a process of its own, `jobs` at once."""
    Bench(arguments, root)  # what all of them read

    def child(seed: int) -> list[dict[str, Any]]:
        given = [f"--steps={arguments.steps}", f"--job={arguments.job}"]
        given += [f"--threads={arguments.threads}", f"--root={root}", f"--child={seed}"]
        given += [f"--set={one}" for one in arguments.set] + ["--codecs", *arguments.codecs]
        answer = subprocess.run(
            [sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        return [json.loads(line) for line in answer.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return [one for found in pool.map(child, arguments.seeds) for one in found]


def table_of(results: list[dict[str, Any]]) -> Table:
    """One line a codec: mean over seeds, and each seed against `full` of the same seed."""
    table = Table(title="Held-out KL(teacher || student) over the whole vocabulary, nats a token")
    for name in ("codec", "mean", "by seed", "over full", "by seed", "top-1", "perplexity"):
        table.add_column(name, justify="left" if name == "codec" else "right")
    by = {(r["codec"], r["seed"]): r for r in results}
    for codec in dict.fromkeys(r["codec"] for r in results):
        mine = [r for r in results if r["codec"] == codec]
        over = [r["kl"] / by["full", r["seed"]]["kl"] - 1 for r in mine]
        table.add_row(
            codec,
            f"{np.mean([r['kl'] for r in mine]):.4f}",
            " ".join(f"{r['kl']:.4f}" for r in mine),
            f"{np.mean(over):+.2%}",
            " ".join(f"{one:+.2%}" for one in over),
            f"{np.mean([r['top1'] for r in mine]):.3f}",
            f"{np.exp(np.mean([r['cross_entropy'] for r in mine])):.1f}",
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the job.")
    parser.add_argument("--codecs", nargs="+", choices=list(codecs(2**16, 1)), metavar="CODEC")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="Seeds at once.")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    arguments.codecs = arguments.codecs or list(codecs(2**16, 1))
    torch.set_num_threads(arguments.threads)
    if arguments.child is not None:
        for one in measure(Bench(arguments, arguments.root), arguments.codecs, arguments.child):
            print(json.dumps(one), flush=True)
            print(one, file=sys.stderr)
        return
    console, on = record.console(), record.machine()
    with tempfile.TemporaryDirectory() as root:
        results = measure_all(arguments, arguments.root or Path(root))
    console.print(table_of(results))
    if not arguments.no_write:
        conditions = {"job": arguments.job.name, "steps": arguments.steps, "set": arguments.set}
        console.print(f"written to {record.write('codec_training', on, conditions, results)}")


if __name__ == "__main__":
    main()
