"""Measure a model on held-out rows whose soft targets are at hand."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from raykd.config.model import Device, Dtype
from raykd.evaluation.report_data import ModelFacts, ModelScores, SetScores
from raykd.losses.heldout import HeldoutSums, heldout_sums
from raykd.losses.targets import BucketTargets
from raykd.models.batch import collate
from raykd.models.head import head_logits, hidden_states
from raykd.models.load import ModelSource, load_model
from raykd.soft_targets.codec import TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec

MICRO_BATCH_TOKENS = 2048


def read_scored(file: Path) -> pa.Table:
    """Held-out rows with their soft targets."""
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def teacher_scores(rows: pa.Table) -> tuple[int, ModelScores]:
    """What the soft targets say about the teacher itself.

    Returns:
        Tokens measured, and the scores; tokens/s by the service's own busy time.
    """
    labels = pc.list_flatten(rows.column("label_logprobs").combine_chunks())
    tokens = len(labels)
    mean_nll = -pc.mean(pc.cast(labels, pa.float64())).as_py()
    # What was read from a store took the teacher no time.
    asked = rows.filter(pc.greater(rows.column("teacher_s"), 0))
    seen = pc.sum(pc.list_value_length(asked.column("input_ids"))).as_py()
    seconds = pc.sum(pc.cast(asked.column("teacher_s"), pa.float64())).as_py()
    return tokens, ModelScores(
        perplexity=perplexity(mean_nll), tokens_per_s=seen / seconds if seconds else None
    )


def measure_model(
    name: str,
    source: ModelSource,
    sets: dict[str, pa.Table],
    spec: CodecSpec,
    dtype: Dtype,
    device: Device,
) -> tuple[ModelFacts, dict[str, ModelScores]]:
    """Load a model, run it over every set, let it go again.

    Args:
        name: For the report.
        source: A Hugging Face directory.
        sets: Rows with soft targets at temperature 1.
        spec: Their codec, `top_k`.
        dtype: To run it in.
        device: To run it on.
    """
    place = torch.device("cuda" if device == "gpu" else "cpu")
    model = load_model(source, dtype, name).to(place).eval()  # type: ignore[arg-type]
    parameters = sum(p.numel() for p in model.parameters())
    facts = ModelFacts(
        name=source.path,
        parameters=parameters,
        bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        dtype=dtype,
    )
    scores = {key: _measure_set(model, rows, spec, place) for key, rows in sets.items()}
    del model
    gc.collect()
    return facts, scores


@torch.inference_mode()
def _measure_set(
    model: torch.nn.Module, rows: pa.Table, spec: CodecSpec, device: torch.device
) -> ModelScores:
    sums, seen, seconds = HeldoutSums(), 0, 0.0
    parts = _parts(rows)
    for number, part in enumerate(parts):
        batch = collate(part).to(device)
        buckets = _buckets(part, spec, device)
        started = time.perf_counter()
        hidden_BTD = hidden_states(model, batch.input_ids_BT, batch.position_ids_BT)  # type: ignore[arg-type]
        hidden_MD = hidden_BTD.flatten(0, 1).index_select(0, batch.keep_M)
        logits_MV = head_logits(model, hidden_MD, spec.vocab_size)  # type: ignore[arg-type]
        if device.type == "cuda":
            torch.cuda.synchronize()
        # The first pass warms up and is not timed, unless it is the only one.
        if number > 0 or len(parts) == 1:
            seconds += time.perf_counter() - started
            seen += batch.input_ids_BT.numel()
        sums += heldout_sums(logits_MV, batch.label_ids_M, buckets)
    scores = scores_of(sums, seen / seconds if seconds > 0 else None)
    if is_scored(rows):
        return scores
    return scores.model_copy(update={"kl_to_teacher": None, "top1_agreement": None})


def is_scored(rows: pa.Table) -> bool:
    """Whether a teacher said anything of these rows, or there is the text alone."""
    return "label_logprobs" in rows.column_names


def _buckets(rows: pa.Table, spec: CodecSpec, device: torch.device) -> BucketTargets | None:
    if not is_scored(rows):
        return None
    targets = decode(rows, spec, device)
    assert isinstance(targets, TopKTargets), "held-out rows are scored with codec top_k"
    return BucketTargets(targets.ids_TK, targets.logprobs_TK, targets.log_tail_TN[:, 0])


def scores_of(sums: HeldoutSums, tokens_per_s: float | None) -> ModelScores:
    """Means from sums."""
    tokens = max(1.0, sums.tokens)
    return ModelScores(
        perplexity=perplexity(sums.cross_entropy / tokens),
        kl_to_teacher=sums.kl / tokens,
        top1_agreement=sums.agreed / tokens,
        tokens_per_s=tokens_per_s,
    )


def perplexity(mean_nll: float) -> float:
    """exp of the mean negative log-likelihood, in nats; infinity beyond a float's range."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return math.inf


def set_scores(rows: pa.Table, top_k: int, models: dict[str, ModelScores]) -> SetScores:
    """All models on one set; the teacher only where it has scored it."""
    if not is_scored(rows):
        tokens = pc.sum(pc.list_flatten(rows.column("loss_mask"))).as_py() or 0
        return SetScores(rows=rows.num_rows, tokens=tokens, top_k=top_k, models=models)
    tokens, teacher = teacher_scores(rows)
    return SetScores(
        rows=rows.num_rows, tokens=tokens, top_k=top_k, models={"teacher": teacher, **models}
    )


def _parts(rows: pa.Table) -> Sequence[pa.Table]:
    """Rows in groups of at most MICRO_BATCH_TOKENS, padding included."""
    lengths = pc.list_value_length(rows.column("input_ids")).to_numpy()
    longest = max(1, int(lengths.max(initial=1)))
    size = max(1, MICRO_BATCH_TOKENS // longest)
    return [rows.slice(at, size) for at in range(0, rows.num_rows, size)]
