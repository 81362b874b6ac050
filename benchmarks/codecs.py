"""What does each codec cost on the wire and at rest, what does it lose, and how fast is it?

On what a real teacher says: the quickstart's SmolLM2-135M over rows of the quickstart's corpus.
Bytes a token are those of the Arrow buffers (wire) and of a Parquet file with the options of
`parquet_options` (at rest), every column of the codec counted. Divergences are in nats, means over
tokens, in float64:

- added KL: from the same k ids with fp32 values, over k ids and tail, to what was decoded;
- KL from full: from the teacher's whole distribution to what was decoded, its tail spread evenly
  over the ids left out (an upper bound of what a student can lose by it);
- tail cut: -log of the kept mass, the KL of plain top-k, renormalised, from the teacher.

Times are CPU seconds of one thread, the best of several runs. `pack` is from reduced tensors to
Arrow, `decode` from Arrow to tensors with every check: 4,080 tokens a call, and in `small calls`,
the quickstart's.
"""

from __future__ import annotations

import argparse
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import record
import torch
from rich.table import Table

from raykd.config.load import load_job
from raykd.data.prepare import open_rows, prepare_set
from raykd.models.batch import collate
from raykd.models.head import head_logits, hidden_states
from raykd.models.load import load_model, load_tokenizer, locate
from raykd.soft_targets import top_k
from raykd.soft_targets.codec import (
    CodecSpec,
    Encoded,
    SampledTokens,
    TopKTargets,
    decode,
    encode,
    to_columns,
    token_keys,
)
from raykd.soft_targets.parquet import parquet_options
from raykd.soft_targets.reduction import encode_top_k

JOB = Path(__file__).parent.parent / "jobs" / "quickstart.yaml"
KS = (8, 16, 32, 64, 128, 256, 512)
WIDTHS = ("fp32", "bf16", "int8", "int6")
DRAWS = (12, 25, 50, 100)
CHUNK = 256
"""Tokens of a call, as `teacher.head_chunk_tokens` has it."""
GREAT_CALLS = (16, 16, 16)
SMALL_CALLS = (1, 4, 2)
"""Rows of 255 tokens that are packed, laid into columns and decoded at once. The small ones are the
quickstart's: the head's chunk of 256 tokens, the block of 4 rows, the micro-batch of 2."""
FULL_TOKENS = 512
"""Codec `full` is measured on this many: it is 200 kB a token here."""


@dataclass(frozen=True)
class Outputs:
    """What the teacher put out for T tokens of S rows."""

    model: Any
    vocab_size: int
    hidden_TD: torch.Tensor
    labels_T: torch.Tensor
    keys_T: torch.Tensor
    lengths_S: list[int]
    exact_head: bool = False
    """Logits in float32 from the same hidden states, instead of the teacher's bf16."""

    def pieces(self, limit: int | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Logits of `CHUNK` tokens at a time."""
        for at in range(0, limit or len(self.hidden_TD), CHUNK):
            piece = slice(at, at + CHUNK)
            if self.exact_head:
                weight_VD = self.model.get_output_embeddings().weight[: self.vocab_size]
                yield piece, self.hidden_TD[piece].float() @ weight_VD.float().T
            else:
                yield piece, head_logits(self.model, self.hidden_TD[piece], self.vocab_size)


def teacher_outputs(num_rows: int, cache: Path) -> Outputs:
    """Run the quickstart's teacher over the first rows of its corpus."""
    job = load_job(JOB, [f"storage_path={cache}"])
    source = locate(job.teacher, "teacher", cache)
    tokenizer = load_tokenizer(source, "teacher")
    prepare_set(job.data.corpus, job.data, tokenizer, cache / "rows", max_rows=num_rows)
    rows = open_rows(cache / "rows").take(np.arange(num_rows))
    model = load_model(source, job.teacher.dtype, "teacher").eval()
    hidden, labels, lengths = [], [], []
    for at in range(0, num_rows, 4):
        batch = collate(rows.slice(at, 4))
        states_BTD = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)
        hidden.append(states_BTD.flatten(0, 1).index_select(0, batch.keep_M))
        labels.append(batch.label_ids_M)
        row_M = batch.keep_M // batch.input_ids_BT.shape[1]
        lengths += row_M.bincount(minlength=len(batch.input_ids_BT)).tolist()
    ids = [np.asarray(row) for row in rows.column("input_ids").to_pylist()]
    return Outputs(
        model,
        int(model.config.get_text_config().vocab_size),
        torch.cat(hidden),
        torch.cat(labels),
        token_keys(ids, lengths, seed=0),
        lengths,
    )


# --- bytes and seconds ----------------------------------------------------------------------------


def at_rest(table: pa.Table, options: dict[str, Any]) -> int:
    """Bytes of the Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.tell()


def table_of(encoded: Encoded, spec: CodecSpec, lengths: list[int]) -> pa.Table:
    """Columns of rows."""
    return pa.table(to_columns(encoded.split(lengths), spec))


def rate(work: Callable[[], object], num_tokens: int, runs: int = 5) -> float:
    """Tokens in a CPU second, the best of several runs."""
    work()
    best = math.inf
    for _ in range(runs):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return num_tokens / best


def sizes(table: pa.Table, spec: CodecSpec, num_tokens: int) -> dict[str, float]:
    """Bytes a token on the wire and at rest."""
    rest = at_rest(table, parquet_options(spec))
    return {"wire_bytes": table.nbytes / num_tokens, "rest_bytes": rest / num_tokens}


def together(*rates: float) -> float:
    """Tokens/s of one thing after the other."""
    return 1.0 / sum(1.0 / each for each in rates)


# --- top_k ----------------------------------------------------------------------------------------


def added_kl(exact: TopKTargets, found: TopKTargets) -> torch.Tensor:
    """KL a token [T] over k ids and tail, float64; ids in any order."""
    order, other = exact.ids_TK.argsort(1), found.ids_TK.argsort(1)
    if not torch.equal(exact.ids_TK.gather(1, order), found.ids_TK.gather(1, other)):
        raise ValueError("other ids were decoded than encoded")
    p_TK = exact.logprobs_TK.double().gather(1, order)
    q_TK = found.logprobs_TK.double().gather(1, other)
    # An id that is ruled out on both sides adds nothing.
    kept_T = torch.where(p_TK > -math.inf, p_TK.exp() * (p_TK - q_TK), 0.0).sum(1)
    p_T, q_T = exact.log_tail_TN[:, 0].double(), found.log_tail_TN[:, 0].double()
    return kept_T + torch.where(p_T > -math.inf, p_T.exp() * (p_T - q_T), 0.0)


def kl_from_full(
    log_p_sum_T: torch.Tensor, exact: TopKTargets, found: TopKTargets, vocab_size: int
) -> torch.Tensor:
    """KL a token [T] of the whole distribution from what was decoded, its tail spread evenly."""
    num_left = vocab_size - exact.ids_TK.shape[1]
    log_p_TK, log_tail_T = exact.logprobs_TK.double(), exact.log_tail_TN[:, 0].double()
    kept_T = torch.where(log_p_TK > -math.inf, log_p_TK.exp() * log_p_TK, 0.0).sum(1)
    # No tail, or none with mass: nothing to spread.
    each_T = log_tail_T - math.log(max(1, num_left))
    spread_T = torch.where(log_tail_T > -math.inf, log_tail_T.exp() * each_T, 0.0)
    return log_p_sum_T - kept_T - spread_T + added_kl(exact, found)


def reduce_all(
    outputs: Outputs, ks: tuple[int, ...]
) -> tuple[dict[int, TopKTargets], torch.Tensor]:
    """Unrounded targets for every k, and the sum of p log p of every token."""
    parts: dict[int, list[TopKTargets]] = {k: [] for k in ks}
    log_p_sums = []
    for piece, logits_TV in outputs.pieces():
        for k in ks:
            parts[k].append(encode_top_k(logits_TV, outputs.labels_T[piece], k, (1.0,)))
        logprobs_TV = logits_TV.double().log_softmax(1)
        log_p_sums.append((logprobs_TV.exp() * logprobs_TV).sum(1))
    return {k: TopKTargets.concatenate(parts[k]) for k in ks}, torch.cat(log_p_sums)


def measure_top_k(outputs: Outputs, ks: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every k at every width."""
    reduced, log_p_sum_T = reduce_all(outputs, ks)
    found = []
    for k in ks:
        exact = reduced[k]
        cut = -exact.logprobs_TK.double().logsumexp(1)
        reduce_rate = reduction_rate(outputs, k)
        for values in WIDTHS:
            spec = CodecSpec("top_k", outputs.vocab_size, top_k=k, values=values)
            table = table_of(top_k.pack(exact, spec), spec, outputs.lengths_S)
            targets = decode(table, spec)
            assert isinstance(targets, TopKTargets)
            kl_T = added_kl(exact, targets)
            whole_T = kl_from_full(log_p_sum_T, exact, targets, outputs.vocab_size)
            found.append(
                {
                    "codec": "top_k",
                    "k": k,
                    "values": values,
                    **sizes(table, spec, exact.num_tokens),
                    "added_kl": float(kl_T.mean()),
                    "added_kl_greatest": float(kl_T.max()),
                    "tokens_without_loss": float((kl_T.abs() < 1e-9).double().mean()),
                    "kl_from_full": float(whole_T.mean()),
                    "tail_cut_kl": float(cut.mean()),
                    "reduce_tokens_per_s": reduce_rate,
                    **top_k_rates(exact, spec, table, outputs.lengths_S),
                }
            )
    return found


def reduction_rate(outputs: Outputs, k: int) -> float:
    """Tokens/s from logits to unrounded targets."""
    piece, logits_TV = next(outputs.pieces())
    labels_T = outputs.labels_T[piece]
    return rate(lambda: encode_top_k(logits_TV, labels_T, k, (1.0,)), len(logits_TV), runs=3)


def top_k_rates(
    exact: TopKTargets, spec: CodecSpec, table: pa.Table, lengths: list[int]
) -> dict[str, float]:
    """Tokens/s of packing and decoding, in great pieces and in small ones."""
    num_tokens = exact.num_tokens
    rows = exact.split(lengths)

    def pack(rows_a_chunk: int, rows_a_block: int) -> float:
        chunks = [
            (TopKTargets.concatenate(rows[at : at + rows_a_chunk]), lengths[at : at + rows_a_chunk])
            for at in range(0, len(rows), rows_a_chunk)
        ]

        def work() -> None:
            packed = [part for chunk, cut in chunks for part in top_k.pack(chunk, spec).split(cut)]
            for at in range(0, len(rows), rows_a_block):
                to_columns(packed[at : at + rows_a_block], spec)

        return rate(work, num_tokens)

    def read(rows_a_batch: int) -> float:
        def work() -> None:
            for at in range(0, len(rows), rows_a_batch):
                decode(table.slice(at, rows_a_batch), spec)

        return rate(work, num_tokens)

    packed, decoded = pack(*GREAT_CALLS[:2]), read(GREAT_CALLS[2])
    return {
        "pack_tokens_per_s": packed,
        "decode_tokens_per_s": decoded,
        "pack_and_decode_tokens_per_s": together(packed, decoded),
        "pack_and_decode_tokens_per_s_small_calls": together(
            pack(*SMALL_CALLS[:2]), read(SMALL_CALLS[2])
        ),
    }


# --- sampled, hidden, full ------------------------------------------------------------------------


def encode_all(outputs: Outputs, spec: CodecSpec, limit: int | None = None) -> Encoded:
    """What the teacher sends, piece after piece."""
    if spec.codec == "hidden":
        return encode(outputs.hidden_TD, None, None, spec)
    return Encoded.concatenate(
        [
            encode(logits_TV, outputs.labels_T[piece], outputs.keys_T[piece], spec)
            for piece, logits_TV in outputs.pieces(limit)
        ]
    )


def measure_sampled(outputs: Outputs) -> list[dict[str, Any]]:
    """Every number of draws: size, and the variance of the estimate beside independent draws."""
    found = []
    for draws in DRAWS:
        spec = CodecSpec("sampled", outputs.vocab_size, draws=draws)
        encoded = encode_all(outputs, spec)
        table = table_of(encoded, spec, outputs.lengths_S)
        num_tokens = encoded.num_tokens
        targets = decode(table, spec)
        assert isinstance(targets, SampledTokens)
        systematic, independent = variances(outputs, targets, draws)
        piece, logits_TV = next(outputs.pieces())
        labels_T, keys_T = outputs.labels_T[piece], outputs.keys_T[piece]
        chunk = len(logits_TV)
        found.append(
            {
                "codec": "sampled",
                "draws": draws,
                "ids_a_token": float((targets.weights_TU > 0).sum(1).double().mean()),
                **sizes(table, spec, num_tokens),
                "variance": systematic,
                "variance_of_independent_draws": independent,
                "encode_tokens_per_s": rate(
                    lambda s=spec, x=logits_TV, y=labels_T, z=keys_T: encode(x, y, z, s), chunk, 3
                ),
                "decode_tokens_per_s": rate(lambda s=spec, t=table: decode(t, s), num_tokens),
            }
        )
    return found


def variances(outputs: Outputs, targets: SampledTokens, draws: int) -> tuple[float, float]:
    """Mean over tokens of the squared error sum_v (weight_v - p_v)^2: found, and as expected of
    independent draws from p."""
    found, independent = [], []
    for piece, logits_TV in outputs.pieces(8 * CHUNK):
        p_TV = logits_TV.double().softmax(1)
        independent.append((p_TV * (1 - p_TV)).sum(1) / draws)
        p_TV.scatter_add_(1, targets.ids_TU[piece].long(), -targets.weights_TU[piece].double())
        found.append(p_TV.square().sum(1))
    return float(torch.cat(found).mean()), float(torch.cat(independent).mean())


def measure_hidden(outputs: Outputs) -> list[dict[str, Any]]:
    """Every width: size, and the KL of the logits made from what was decoded."""
    found = []
    for values in ("fp32", "bf16", "int8"):
        spec = CodecSpec(
            "hidden",
            outputs.vocab_size,
            hidden_size=outputs.hidden_TD.shape[1],
            hidden_values=values,
        )
        encoded = encode_all(outputs, spec)
        table = table_of(encoded, spec, outputs.lengths_S)
        hidden_TD = decode(table, spec).tensors[0]
        num_tokens = len(hidden_TD)
        found.append(
            {
                "codec": "hidden",
                "values": values,
                **sizes(table, spec, num_tokens),
                "kl_from_full": hidden_kl(outputs, hidden_TD),
                "encode_tokens_per_s": rate(
                    lambda s=spec: encode(outputs.hidden_TD, None, None, s), num_tokens
                ),
                "decode_tokens_per_s": rate(lambda s=spec, t=table: decode(t, s), num_tokens),
            }
        )
    return found


def hidden_kl(outputs: Outputs, hidden_TD: torch.Tensor) -> float:
    """Mean KL of the logits of the decoded states, both sides' head in float32."""
    teacher = replace(outputs, exact_head=True)
    other = replace(teacher, hidden_TD=hidden_TD)
    pieces = zip(teacher.pieces(8 * CHUNK), other.pieces(8 * CHUNK), strict=True)
    sums = [
        dense_kl(logits_TV.double().log_softmax(1), other_TV.double().log_softmax(1))
        for (_, logits_TV), (_, other_TV) in pieces
    ]
    return float(torch.cat(sums).mean())


def dense_kl(log_p_TV: torch.Tensor, log_q_TV: torch.Tensor) -> torch.Tensor:
    """KL a token [T] over the vocabulary."""
    return (log_p_TV.exp() * (log_p_TV - log_q_TV)).sum(1)


def measure_full(outputs: Outputs) -> list[dict[str, Any]]:
    """Every width, on a part of the tokens."""
    found = []
    for values in ("fp32", "bf16"):
        spec = CodecSpec("full", outputs.vocab_size, values=values)
        encoded = encode_all(outputs, spec, FULL_TOKENS)
        num_tokens = encoded.num_tokens
        table = table_of(encoded, spec, [num_tokens])
        logprobs_TV = decode(table, spec).tensors[0]
        kls = [
            dense_kl(logits_TV.double().log_softmax(1), logprobs_TV[piece].double().log_softmax(1))
            for piece, logits_TV in outputs.pieces(FULL_TOKENS)
        ]
        found.append(
            {
                "codec": "full",
                "values": values,
                **sizes(table, spec, num_tokens),
                "kl_from_full": float(torch.cat(kls).mean()),
                "decode_tokens_per_s": rate(
                    lambda s=spec, t=table: decode(t, s), num_tokens, runs=2
                ),
            }
        )
    return found


# --- why the columns lie as they do ---------------------------------------------------------------


def list_bytes(
    values_TK: torch.Tensor, value_type: pa.DataType, lengths: list[int], encoding: str
) -> float:
    """Bytes a token at rest of one list column."""
    flat = pa.array(values_TK.flatten().numpy(), value_type)
    offsets = np.cumsum([0, *lengths]) * values_TK.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)
    return at_rest(pa.table({"x": lists}), encoding_options("x", encoding)) / len(values_TK)


def encoding_options(name: str, encoding: str) -> dict[str, Any]:
    """Of one list column."""
    options: dict[str, Any] = {"compression": "zstd", "write_statistics": False}
    if encoding == "DICTIONARY":
        return {**options, "use_dictionary": True}
    return {
        **options,
        "use_dictionary": False,
        "column_encoding": {f"{name}.list.element": encoding},
    }


ENCODINGS = ("PLAIN", "DICTIONARY", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")


def measure_orders(outputs: Outputs) -> dict[str, float]:
    """Bytes a token of ids and 8-bit codes at k = 128, each order with its best encoding."""
    spec = CodecSpec("top_k", outputs.vocab_size, top_k=128)
    encoded = encode_all(outputs, spec)
    gaps_TK, codes_TK = (encoded.columns[n] for n in (top_k.GAPS, top_k.CODES))
    ids_TK = gaps_TK.int().cumsum(1)
    order_TK = ((codes_TK.long() << 32) | ids_TK).argsort(1)
    ranked_TK, falling_TK = ids_TK.gather(1, order_TK), codes_TK.gather(1, order_TK)
    steps_TK = falling_TK.int().diff(dim=1, prepend=torch.zeros(len(falling_TK), 1).int())

    def least(values_TK: torch.Tensor, value_type: pa.DataType) -> float:
        dtype = torch.uint8 if value_type == pa.uint8() else torch.uint16
        numbers_TK = values_TK.int().to(dtype)
        return min(
            list_bytes(numbers_TK, value_type, outputs.lengths_S, encoding)
            for encoding in ENCODINGS
        )

    u16, u8 = pa.uint16(), pa.uint8()
    return {
        "likeliest first": least(ranked_TK, u16) + least(falling_TK, u8),
        "likeliest first, codes as steps": least(ranked_TK, u16) + least(steps_TK, u8),
        "by id": least(ids_TK, u16) + least(codes_TK, u8),
        "by id, as gaps (chosen)": least(gaps_TK, u16) + least(codes_TK, u8),
    }


def measure_encodings(outputs: Outputs) -> dict[str, dict[str, float]]:
    """Bytes a token of every column under every encoding that can hold it."""
    found: dict[str, dict[str, float]] = {}
    specs = [
        CodecSpec("top_k", outputs.vocab_size, top_k=128),
        CodecSpec("sampled", outputs.vocab_size),
        CodecSpec("hidden", outputs.vocab_size, hidden_size=outputs.hidden_TD.shape[1]),
    ]
    for spec in specs:
        table = table_of(encode_all(outputs, spec), spec, outputs.lengths_S)
        for name in table.column_names[1:]:
            bytes_by = found.setdefault(f"{spec.codec}: {name}", {})
            for encoding in ENCODINGS:
                try:
                    size = at_rest(table.select([name]), encoding_options(name, encoding))
                except OSError:
                    continue  # Parquet has no such encoding for this type.
                bytes_by[encoding] = size / sum(outputs.lengths_S)
    return found


# --- the page -------------------------------------------------------------------------------------


HEADS = {
    "wire_bytes": "wire B",
    "rest_bytes": "at rest B",
    "added_kl": "added KL",
    "tokens_without_loss": "lossless",
    "kl_from_full": "KL from full",
    "tail_cut_kl": "tail cut",
    "reduce_tokens_per_s": "reduce/s",
    "pack_and_decode_tokens_per_s": "pack+decode/s",
    "pack_and_decode_tokens_per_s_small_calls": "small calls",
    "variance_of_independent_draws": "of independent draws",
    "encode_tokens_per_s": "encode/s",
    "decode_tokens_per_s": "decode/s",
}
LEFT_OUT = ("codec", "added_kl_greatest", "pack_tokens_per_s")


def show(console: Any, found: dict[str, Any]) -> None:
    """Print the tables."""
    for name in ("top_k", "top_k_of_fp32_logits", "sampled", "hidden", "full"):
        console.print(table_for(name.replace("_", " "), found[name]))
    encodings = [{"column": name, **bytes_by} for name, bytes_by in found["encodings"].items()]
    console.print(table_for("bytes a token at rest by encoding", encodings))
    console.print(table_for("ids and codes at k = 128, bytes at rest by order", [found["orders"]]))
    for target, met in found["targets_met"].items():
        console.print(f"{target}: {'met' if met else 'NOT met'}")


def table_for(title: str, rows: list[dict[str, Any]]) -> Table:
    """One line a row, but for what only the JSON keeps."""
    table = Table(title=title)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in LEFT_OUT))
    if "small calls" in [HEADS.get(key) for key in keys]:
        keys.remove("decode_tokens_per_s")
    for key in keys:
        table.add_column(HEADS.get(key, key.replace("_", " ")), justify="right")
    for row in rows:
        table.add_row(*(shown(row.get(key, "")) for key in keys))
    return table


def shown(value: object) -> str:
    """A number in as many digits as matter."""
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def verdicts(found: dict[str, Any]) -> dict[str, bool]:
    """Whether each target is met, by the defaults."""
    default = CodecSpec("top_k", 2**16)
    at = {row["k"]: row for row in found["top_k"] if row["values"] == default.values}
    sampled = {row["draws"]: row for row in found["sampled"]}[default.draws]
    return {
        "top_k, k = 128: at most 330 B at rest": at[128]["rest_bytes"] <= 330,
        "top_k, k = 128: at most 1e-4 nats added": at[128]["added_kl"] <= 1e-4,
        "sampled: at most 45 B at rest": sampled["rest_bytes"] <= 45,
        "top_k, k = 64: 500,000 tokens/s a core packed and decoded": at[64][
            "pack_and_decode_tokens_per_s_small_calls"
        ]
        >= 5e5,
    }


# As the teacher's engine runs.
@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40, help="rows of 256 tokens")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, machine = record.console(), record.machine()
    with tempfile.TemporaryDirectory() as cache:
        outputs = teacher_outputs(arguments.rows, Path(cache))
    found = {
        "top_k": measure_top_k(outputs, KS),
        "top_k_of_fp32_logits": measure_top_k(replace(outputs, exact_head=True), (64, 128, 512)),
        "sampled": measure_sampled(outputs),
        "hidden": measure_hidden(outputs),
        "full": measure_full(outputs),
        "orders": measure_orders(outputs),
        "encodings": measure_encodings(outputs),
    }
    found["targets_met"] = verdicts(found)
    show(console, found)
    conditions = {
        "teacher": "SmolLM2-135M-Instruct, Q4_1 weights in bf16 (jobs/quickstart.yaml)",
        "tokens": sum(outputs.lengths_S),
        "rows": arguments.rows,
        "vocab_size": outputs.vocab_size,
        "threads": 1,
        "parquet": parquet_options(CodecSpec("top_k", outputs.vocab_size)),
    }
    console.print(f"wrote {record.write('codecs', machine, conditions, found)}")


if __name__ == "__main__":
    main()
