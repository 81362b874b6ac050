"""What does keeping soft targets cost, and how fast do they come again?

The quickstart's models and rows, one process, one thread, CPU seconds: what a row costs to be
scored and learned from, to be kept (keys, pieces, Parquet, publishing), and to be read again in
another order by a store that is opened anew. Beside it, how fast `verify` reads.

Then what reading costs where the store is larger than what stays decoded, by the length of a piece:
a piece is read with its row group, so that short ones, wanted in another order, bring the most with
them that is not wanted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import record
import torch
from codec_training import CPU, JOB, Bench
from rich.table import Table
from second_epoch import PoolEngine
from standins import VOCAB_SIZE, write_rows

from raykd import schema
from raykd.data.prepare import open_rows
from raykd.models.batch import collate
from raykd.models.head import hidden_states
from raykd.models.load import load_model
from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.store.section import Section
from raykd.store.store import SoftTargetStore
from raykd.store.verify import verify
from raykd.student.module import DistillationModule
from raykd.student.targets import to_targets

TARGET_SHARE = 0.03
TARGET_VERIFY_MB_S = 200.0


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process in `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def specs(vocab_size: int, hidden_size: int) -> dict[str, CodecSpec]:
    """What is kept."""
    return {
        "top_k 64": CodecSpec("top_k", vocab_size, top_k=64),
        "sampled 50": CodecSpec("sampled", vocab_size, draws=50),
        "hidden bf16": CodecSpec("hidden", vocab_size, hidden_size=hidden_size),
    }


def scored_and_learned(bench: Bench, spec: CodecSpec, num_rows: int) -> tuple[float, pa.Table]:
    """CPU seconds of teacher, codec and one forward and backward pass; and the rows as they came.

    The optimizer is left out, so that the share that keeping takes is rather too large.
    """
    model: Any = load_model(bench.source, "bf16", "student")
    module = DistillationModule(model, bench.job, spec.vocab_size).train()
    tables: list[pa.Table] = []

    def work() -> None:
        for at in range(num_rows):
            row, _ = bench.train[at]
            batch = collate(row)
            with torch.inference_mode():
                hidden_states(bench.teacher, batch.input_ids_BT, batch.position_ids_BT)
            tables.append(bench.sent(at, spec, 17))
            arrived = to_targets(tables[-1], spec, bench.job.loss.temperature, bench.head, CPU)
            module(batch, arrived.targets, None).total.backward()

    return cpu_seconds(work), pa.concat_tables(tables).combine_chunks()


def measure(bench: Bench, spec: CodecSpec, num_rows: int, copies: int) -> dict[str, float]:
    """Keep rows and read them again; each row `copies` times over, under other token ids."""
    work_s, rows = scored_and_learned(bench, spec, num_rows)
    targets = rows.select(target_schema(spec).names)
    section = Section("teacher", "tokenizer", spec)
    many = [relabelled(rows.select(schema.PREPARED.names), copy) for copy in range(copies)]
    tokens = copies * len(rows.column("loss_mask").combine_chunks().flatten())
    with tempfile.TemporaryDirectory() as place:
        store = SoftTargetStore.open(place, section, write=True)
        keep_s = cpu_seconds(lambda: [store.add(one, targets) for one in many] and store.close())
        again = SoftTargetStore.open(place, section, write=False)
        order = np.random.default_rng(0).permutation(rows.num_rows)
        read_s = cpu_seconds(
            lambda: [
                again.read(one.take(order[at : at + 8]))
                for one in many
                for at in range(0, rows.num_rows, 8)
            ]
        )
        began = time.perf_counter()
        verify(place)
        verify_s = time.perf_counter() - began
        num_bytes = sum(file.stat().st_size for file in Path(place).rglob("*.parquet"))
    return {
        "work_us_a_token": 1e6 * work_s * copies / tokens,
        "keep_us_a_token": 1e6 * keep_s / tokens,
        "read_us_a_token": 1e6 * read_s / tokens,
        "keep_share": keep_s / (work_s * copies),
        "read_share": read_s / (work_s * copies),
        "bytes_a_token": num_bytes / tokens,
        "verify_mb_s": num_bytes / 1e6 / verify_s,
        "tokens": tokens,
    }


def relabelled(rows: pa.Table, copy: int) -> pa.Table:
    """The same rows under other token ids, so that their pieces are others."""
    lists = rows.column("input_ids").combine_chunks()
    ids = pa.array(lists.values.to_numpy() + np.int32(copy))
    changed = pa.ListArray.from_arrays(lists.offsets, ids)
    return rows.set_column(rows.schema.get_field_index("input_ids"), "input_ids", changed)


def read_by_length(piece_tokens: int, many: int, block_tokens: int = 4096) -> dict[str, float]:
    """CPU seconds of reading shuffled blocks of pieces of one length; `many` tokens are there."""
    spec = CodecSpec("top_k", VOCAB_SIZE, (1.0,), top_k=64, values="int8")
    section, size = Section("teacher", "tokenizer", spec), block_tokens // piece_tokens
    with tempfile.TemporaryDirectory() as place:
        directory, kept = Path(place) / "rows", str(Path(place) / "kept")
        write_rows(directory, many // block_tokens * size, piece_tokens)
        rows, engine = open_rows(directory), PoolEngine(log=Path(place) / "asked.txt")
        store = SoftTargetStore.open(kept, section, write=True)
        for at in range(0, rows.num_rows, size):
            block = rows.take(np.arange(at, at + size))
            store.add(block, engine.score(block, spec))
        store.close()
        again = SoftTargetStore.open(kept, section, write=False)
        order = np.random.default_rng(0).permutation(rows.num_rows)[: 60 * size]
        blocks = [rows.take(order[at : at + size]) for at in range(0, len(order), size)]
        read_s = cpu_seconds(lambda: [again.read(block) for block in blocks])
    return {
        "piece_tokens": piece_tokens,
        "read_us_a_token": 1e6 * read_s / len(order) / piece_tokens,
        "tokens_in_the_store": rows.num_rows * piece_tokens,
    }


def table_of_lengths(results: list[dict[str, float]]) -> Table:
    """One line a length."""
    table = Table(title="Read again, shuffled, `top_k` 64: CPU microseconds a token")
    for name in ("tokens a piece", "read again", "tokens in the store"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(
            f"{one['piece_tokens']:,}",
            f"{one['read_us_a_token']:.1f}",
            f"{one['tokens_in_the_store']:,}",
        )
    return table


def table_of(results: dict[str, dict[str, float]]) -> Table:
    """One line a codec."""
    table = Table(title="CPU microseconds a token")
    for name in (
        "codec",
        "score and learn",
        "keep",
        "share",
        "read again",
        "share",
        "B a token",
        "verify, MB/s",
    ):
        table.add_column(name, justify="left" if name == "codec" else "right")
    for name, found in results.items():
        good = found["keep_share"] <= TARGET_SHARE, found["verify_mb_s"] >= TARGET_VERIFY_MB_S
        colour = ["green" if one else "yellow" for one in good]
        table.add_row(
            name,
            f"{found['work_us_a_token']:.0f}",
            f"{found['keep_us_a_token']:.1f}",
            f"[{colour[0]}]{found['keep_share']:.2%}[/]",
            f"{found['read_us_a_token']:.1f}",
            f"{found['read_share']:.2%}",
            f"{found['bytes_a_token']:.0f}",
            f"[{colour[1]}]{found['verify_mb_s']:.0f}[/]",
        )
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--rows", type=int, default=24, help="Rows of the quickstart.")
    parser.add_argument("--copies", type=int, default=40, help="Each row so often in the store.")
    parser.add_argument("--many", type=int, default=2**20, help="Tokens read in another order.")
    parser.add_argument("--root", type=Path, help="Where models and rows are kept.")
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    arguments.steps, arguments.set = arguments.rows, ["train.global_batch=2"]
    torch.set_num_threads(1)
    console, on = record.console(), record.machine()
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(arguments, arguments.root or Path(root))
        chosen = specs(bench.models.vocab_size, bench.models.teacher_hidden_size)
        results = {
            name: measure(bench, spec, arguments.rows, arguments.copies)
            for name, spec in chosen.items()
        }
    console.print(table_of(results))
    lengths = [read_by_length(tokens, arguments.many) for tokens in (2048, 512, 128)]
    console.print(table_of_lengths(lengths))
    if not arguments.no_write:
        conditions = {"rows": arguments.rows, "copies": arguments.copies, "many": arguments.many}
        found = {**results, "read_by_length": lengths}
        console.print(f"written to {record.write('store', on, conditions, found)}")


if __name__ == "__main__":
    main()
