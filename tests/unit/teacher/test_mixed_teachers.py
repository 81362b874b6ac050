"""Several models in one engine: their average, made by hand from each model's own logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from raykd.models.load import ModelSource
from raykd.models.mixture import MixedIn
from raykd.soft_targets.codec import FullTargets, TopKTargets, decode
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

VOCAB, SHARE = 320, 0.3


@pytest.fixture(scope="module")
def other_dir(teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same family with other weights."""
    torch.manual_seed(99)
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data += 0.3 * parameter.data.std() * torch.randn_like(parameter)
    directory = tmp_path_factory.mktemp("other")
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def engine(teacher_dir: Path, other_dir: Path) -> TransformersEngine:
    mixed_in = (MixedIn(ModelSource(str(other_dir)), SHARE),)
    spec = EngineSpec(ModelSource(str(teacher_dir)), "fp32", False, 1, 1000, 3, mixed_in=mixed_in)
    return TransformersEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


@torch.no_grad()
def by_hand(ids: list[int], *models: tuple[Path, float]) -> torch.Tensor:
    """Log probabilities after each token but the last, float64."""
    mean = torch.zeros(len(ids) - 1, VOCAB, dtype=torch.float64)
    for directory, weight in models:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
        mean += weight * logits.softmax(-1)
    return mean.log()


@pytest.mark.parametrize("codec", ["full", "top_k"])
def test_the_average_is_what_is_sent(
    codec: str,
    engine: TransformersEngine,
    teacher_dir: Path,
    other_dir: Path,
    packed_rows: Callable[..., pa.Table],
) -> None:
    rows = packed_rows([[7]], learned=1.0)
    (ids,) = rows.column("input_ids").to_pylist()
    spec = CodecSpec(codec, VOCAB, (1.0,), top_k=6, values="fp32")  # type: ignore[arg-type]
    answer = engine.score(rows, spec)
    assert answer is not None
    expected = by_hand(ids, (teacher_dir, 1 - SHARE), (other_dir, SHARE))
    alone = by_hand(ids, (teacher_dir, 1.0))
    assert (expected - alone).abs().max() > 0.01, "the other model says something else"
    found = decode(answer, spec, torch.device("cpu"))
    if isinstance(found, FullTargets):
        torch.testing.assert_close(found.logprobs_TV.double(), expected, rtol=0, atol=2e-2)
    else:
        assert isinstance(found, TopKTargets)
        kept = expected.gather(1, found.ids_TK.long())
        torch.testing.assert_close(found.logprobs_TK.double(), kept, rtol=0, atol=1e-5)
        rest = expected.exp().scatter(1, found.ids_TK.long(), 0.0).sum(-1).log()
        torch.testing.assert_close(found.log_tail_TN[:, 0].double(), rest, rtol=0, atol=1e-5)


def test_it_says_how_large_all_of_it_is(engine: TransformersEngine, teacher_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_dir)
    assert engine.describe()["parameters"] == 2 * sum(p.numel() for p in model.parameters())
