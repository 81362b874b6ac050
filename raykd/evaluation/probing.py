"""Compare codecs on real rows: what each costs, and how true its gradient is.

The teacher's last hidden states and its head are at hand, so every codec is made from the same
logits. M learned tokens, D hidden size of the student, V vocabulary, K ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raykd.evaluation.probe_data import CodecFound, TeacherFound
from raykd.losses.fused import linear_distillation_loss
from raykd.losses.spec import LossSpec
from raykd.losses.targets import HiddenTargets, LogitShape, Targets, TeacherHead
from raykd.models.batch import Batch, collate, flat
from raykd.models.head import AfterHead, Head, hidden_states
from raykd.soft_targets.codec import Encoded, HiddenStates, decode, encode, to_columns, token_keys
from raykd.soft_targets.parquet import parquet_options
from raykd.soft_targets.spec import CodecSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KS: Final = (8, 16, 32, 64, 128, 256, 512)
DRAWS: Final = (25, 50, 100)
WIDTHS_AT: Final = 64
"""The k at which all widths are compared, and the tail is dropped."""
LARGEST_FULL: Final = 4096
"""`full` is listed up to this vocabulary; beyond, a token would take more than 8 KB."""
CHUNK_TOKENS: Final = 256


@dataclass(frozen=True)
class Candidate:
    """A codec to try."""

    label: str
    spec: CodecSpec
    settings: dict[str, str | int | float | bool]


def candidates(base: CodecSpec) -> list[Candidate]:
    """The codecs that a table compares, cheapest first within each kind.

    Args:
        base: Vocabulary, temperatures, hidden size, seed and fingerprint.
    """
    found = [_top_k(base, k, "int8") for k in KS if k < base.vocab_size]
    if base.vocab_size > WIDTHS_AT:
        found += [_top_k(base, WIDTHS_AT, width) for width in ("int6", "bf16", "fp32")]
        found.append(_top_k(base, WIDTHS_AT, "int8", tail=False))
    for draws in DRAWS:
        spec = replace(base, codec="sampled", draws=draws)
        found.append(Candidate(f"sampled {draws}", spec, {"codec": "sampled", "draws": draws}))
    for width in ("int8", "bf16"):
        spec = replace(base, codec="hidden", hidden_values=width)
        settings: dict[str, str | int | float | bool]
        settings = {"codec": "hidden", "hidden_values": width}
        found.append(Candidate(f"hidden {width}", spec, settings))
    if base.vocab_size <= LARGEST_FULL:
        spec = replace(base, codec="full", values="bf16")
        found.append(Candidate("full bf16", spec, {"codec": "full", "values": "bf16"}))
    return found


def _top_k(base: CodecSpec, k: int, width: str, *, tail: bool = True) -> Candidate:
    spec = replace(base, codec="top_k", top_k=k, values=width, tail=tail)
    label = f"top_k {k} {width}{'' if tail else ' no tail'}"
    settings: dict[str, str | int | float | bool] = {
        "codec": "top_k",
        "top_k": k,
        "values": width,
        "tail": tail,
    }
    return Candidate(label, spec, settings)


@dataclass(frozen=True, eq=False)
class ProbedRows:
    """Rows with the teacher's last hidden states, and its head."""

    rows: pa.Table
    spec: CodecSpec
    """Codec `hidden`, as the rows carry it."""
    head: Head


def teacher_found(probed: ProbedRows) -> TeacherFound:
    """Entropy, and the mass that the likeliest ids catch, over all learned tokens."""
    ks = [k for k in KS if k <= probed.spec.vocab_size]
    entropies, masses = [], []
    for _, logits_TV in _teacher_logits(probed, probed.rows):
        logprobs_TV = logits_TV.log_softmax(1)
        probabilities_TV = logprobs_TV.exp()
        entropies.append(-(probabilities_TV * logprobs_TV.clamp(min=-1e4)).sum(1))
        top_TK = probabilities_TV.topk(ks[-1], 1).values.cumsum(1)
        masses.append(top_TK[:, [0, *(k - 1 for k in ks)]])
    entropy_M = torch.cat(entropies).cpu().double().numpy()
    mass_MK = torch.cat(masses).cpu().double().numpy()
    return TeacherFound(
        entropy_mean=float(entropy_M.mean()),
        entropy_median=float(np.median(entropy_M)),
        entropy_p95=float(np.quantile(entropy_M, 0.95)),
        top1_mass=float(mass_MK[:, 0].mean()),
        mass_by_k={
            k: (float(mass_MK[:, i + 1].mean()), float(np.quantile(mass_MK[:, i + 1], 0.05)))
            for i, k in enumerate(ks)
        },
    )


def _teacher_logits(probed: ProbedRows, rows: pa.Table) -> Iterator[tuple[slice, torch.Tensor]]:
    """Places among the learned tokens of `rows`, and the teacher's logits [T, V] there."""
    weight_VD, bias_V = probed.head.weight_VD, probed.head.bias_V
    hidden_MD = _hidden(probed, rows)
    for at in range(0, len(hidden_MD), CHUNK_TOKENS):
        piece = slice(at, min(at + CHUNK_TOKENS, len(hidden_MD)))
        raw_TV = torch.nn.functional.linear(hidden_MD[piece].to(weight_VD.dtype), weight_VD, bias_V)
        yield piece, probed.head.after(raw_TV).float()


def _hidden(probed: ProbedRows, rows: pa.Table) -> torch.Tensor:
    found = decode(rows, probed.spec, probed.head.weight_VD.device)
    assert isinstance(found, HiddenStates)
    return found.hidden_TD


@dataclass(eq=False)
class _Trial:
    """A candidate while it is measured."""

    candidate: Candidate
    encode_s: float = 0.0
    decode_s: float = 0.0
    tables: list[pa.Table] = field(default_factory=list)
    loss: float = 0.0
    dot: float = 0.0
    square: float = 0.0
    refused: str | None = None


@dataclass(eq=False)
class _Full:
    """The reference: every logit."""

    tokens: int = 0
    loss: float = 0.0
    square: float = 0.0
    trials: list[_Trial] = field(default_factory=list)


def compare_codecs(
    probed: ProbedRows,
    student: PreTrainedModel,
    loss: LossSpec,
    tried: Sequence[Candidate],
    most_tokens: int,
    to_targets: Any,
    refused: dict[str, str],
) -> tuple[int, float, list[CodecFound]]:
    """Measure every candidate on the first rows.

    Args:
        probed: Rows with the teacher's word on them.
        student: With its first weights.
        loss: The job's; cross-entropy plays no part.
        tried: What to compare.
        most_tokens: Learned tokens to compare on; at least one row is taken.
        to_targets: (table, spec, head) to what the loss looks at, as the student decodes it.
        refused: Codecs that cannot serve the loss, with the reason; only their cost is measured.

    Returns:
        Tokens compared on, the divergence from `full` in nats a token, and what was found.
    """
    full = _Full(trials=[_Trial(one, refused=refused.get(one.spec.codec)) for one in tried])
    student_head = _StudentHead.of(student, probed.spec.vocab_size)
    for at in range(probed.rows.num_rows):
        if full.tokens >= most_tokens and at > 0:
            break
        row = probed.rows.slice(at, 1)
        _compare_row(full, probed, row, student, student_head, loss, to_targets)
    return full.tokens, full.loss / full.tokens, [_found(one, full) for one in full.trials]


def _compare_row(
    full: _Full,
    probed: ProbedRows,
    row: pa.Table,
    student: PreTrainedModel,
    student_head: _StudentHead,
    loss: LossSpec,
    to_targets: Any,
) -> None:
    device = probed.head.weight_VD.device
    batch = collate(row).to(device)
    if not len(batch.keep_M):
        return
    with torch.no_grad():
        hidden_BTD = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
        own_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M).float()
    head = TeacherHead(probed.head.weight_VD, probed.head.bias_V, _shape(probed.head.after))
    reference = HiddenTargets(_hidden(probed, row), head)
    value, gradient_MD = student_head.gradient(own_MD, batch, reference, loss)
    full.tokens += len(batch.keep_M)
    full.loss += value
    full.square += float((gradient_MD.double() ** 2).sum())
    _travel(full.trials, probed, row, batch)
    for trial in full.trials:
        started = time.process_time()
        targets: Targets = to_targets(trial.tables[-1], trial.candidate.spec, head)
        trial.decode_s += time.process_time() - started
        if trial.refused is not None:
            continue
        value, other_MD = student_head.gradient(own_MD, batch, targets, loss)
        trial.loss += value
        trial.dot += float((gradient_MD.double() * other_MD.double()).sum())
        trial.square += float((other_MD.double() ** 2).sum())


def _travel(trials: Sequence[_Trial], probed: ProbedRows, row: pa.Table, batch: Batch) -> None:
    """Encode a row by every codec, as the teacher would, and lay it into columns.

    Each chunk of the teacher's logits is made once, for all codecs.
    """
    ids, _ = flat(row, "input_ids")
    hidden_MD = _hidden(probed, row)
    seed = probed.spec.seed
    keys_M = token_keys([ids], [len(batch.keep_M)], seed).to(batch.keep_M.device)
    parts: list[list[Encoded]] = [[] for _ in trials]
    for piece, logits_TV in _teacher_logits(probed, row):
        for trial, mine in zip(trials, parts, strict=True):
            spec = trial.candidate.spec
            source = hidden_MD[piece] if spec.source == "hidden" else logits_TV
            started = time.process_time()
            mine.append(encode(source, batch.label_ids_M[piece], keys_M[piece], spec).cpu())
            trial.encode_s += time.process_time() - started
    for trial, mine in zip(trials, parts, strict=True):
        started = time.process_time()
        columns = to_columns([Encoded.concatenate(mine)], trial.candidate.spec)
        trial.encode_s += time.process_time() - started
        trial.tables.append(pa.table(columns))


@dataclass(frozen=True, eq=False)
class _StudentHead:
    """The student's head in float32, without a gradient of its own."""

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    shape: LogitShape
    vocab_size: int

    @classmethod
    def of(cls, student: PreTrainedModel, vocab_size: int) -> _StudentHead:
        head: Any = student.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return cls(
            head.weight.detach().float(),
            None if bias is None else bias.detach().float(),
            _shape(AfterHead.of(student)),
            vocab_size,
        )

    def gradient(
        self, own_MD: torch.Tensor, batch: Batch, targets: Targets, loss: LossSpec
    ) -> tuple[float, torch.Tensor]:
        """The divergence's sum, and its gradient [M, D] by the student's hidden states."""
        hidden_MD = own_MD.detach().requires_grad_(True)
        parts = linear_distillation_loss(
            hidden_MD,
            self.weight_VD,
            self.bias_V,
            batch.label_ids_M,
            targets,
            replace(loss, alpha=0.0),
            shape=self.shape,
            vocab_size=self.vocab_size,
        )
        parts.total.backward()
        assert hidden_MD.grad is not None
        return float(parts.total.detach()), hidden_MD.grad


def _shape(after: AfterHead) -> LogitShape:
    return LogitShape(after.scale, after.softcap)


def _found(trial: _Trial, full: _Full) -> CodecFound:
    tokens = full.tokens
    measured = trial.refused is None
    scale = (full.square * trial.square) ** 0.5
    table = pa.concat_tables(trial.tables)
    return CodecFound(
        label=trial.candidate.label,
        settings=trial.candidate.settings,
        wire_bytes=table.nbytes / tokens,
        rest_bytes=_parquet_bytes(table, trial.candidate.spec) / tokens,
        loss_gap=(trial.loss - full.loss) / tokens if measured else float("nan"),
        cosine=trial.dot / scale if measured and scale > 0 else float("nan"),
        bias=trial.dot / full.square - 1.0 if measured and full.square > 0 else float("nan"),
        encode_tokens_per_s=tokens / max(1e-9, trial.encode_s),
        decode_tokens_per_s=tokens / max(1e-9, trial.decode_s),
        refused=trial.refused,
    )


def _parquet_bytes(table: pa.Table, spec: CodecSpec) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_options(spec))
    return int(sink.getvalue().size)


def student_tokens_per_s(
    student: PreTrainedModel, batch: Batch, vocab_size: int, seconds: float = 3.0
) -> float:
    """Forward, loss and backward of one micro-batch, over and over; no optimizer.

    Args:
        student: With its first weights.
        batch: A micro-batch of the job.
        vocab_size: V.
        seconds: Measure for at least this long, after one pass that warms up.

    Returns:
        Tokens, learned from or not, a second.
    """
    head: Any = student.get_output_embeddings()
    hard_labels = LossSpec((), alpha=1.0)
    passes, started = -1, time.perf_counter()
    while passes < 1 or time.perf_counter() - started < seconds:
        hidden_BTD = hidden_states(student, batch.input_ids_BT, batch.position_ids_BT)
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        parts = linear_distillation_loss(
            hidden_MD,
            head.weight,
            getattr(head, "bias", None),
            batch.label_ids_M,
            None,
            hard_labels,
            shape=_shape(AfterHead.of(student)),
            vocab_size=vocab_size,
        )
        parts.total.backward()
        if batch.keep_M.device.type == "cuda":
            torch.cuda.synchronize()
        passes += 1
        if passes == 0:
            started = time.perf_counter()
    student.zero_grad(set_to_none=True)
    return passes * batch.input_ids_BT.numel() / (time.perf_counter() - started)
