"""Several models in one engine, each asked alone: each says what it says without the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raykd.errors import ModelError
from raykd.models.load import ModelSource
from raykd.models.of_slices import OfSlices
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.client import Scorer
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.replica import Shard
from raykd.teacher.transformers_tp import TransformersEngine

VOCAB = 320
PLACE = ShardPlace(0, 1, "127.0.0.1", 0)


@pytest.fixture(scope="module")
def dirs(
    teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]
) -> list[Path]:
    place = tmp_path_factory.mktemp("models")
    return [
        teacher_dir,
        save_llama(place / "code", 5, num_hidden_layers=1, hidden_size=64),
        save_llama(place / "law", 6),
    ]


def engine_of(first: Path, *others: Path) -> TransformersEngine:
    of_slices = tuple(
        OfSlices((f"s{i}",), ModelSource(str(one)), "") for i, one in enumerate(others)
    )
    spec = EngineSpec(ModelSource(str(first)), "fp32", False, 1, 64, 3, of_slices=of_slices)
    return TransformersEngine(spec, PLACE)


@pytest.fixture(scope="module")
def engine(dirs: list[Path]) -> TransformersEngine:
    return engine_of(*dirs)


@pytest.mark.parametrize("codec", ["full", "top_k", "sampled"])
def test_bit_for_bit_what_it_says_alone(
    codec: str, engine: TransformersEngine, dirs: list[Path], packed_rows: Callable[..., pa.Table]
) -> None:
    rows = packed_rows([[7, 5], [12], [3, 20], [4]])
    spec = CodecSpec(codec, VOCAB, top_k=6, values="fp32", fingerprint="t")
    shard = Shard()
    shard._engine = engine
    answers = [shard.score(rows, spec), *(shard.score_slices(rows, spec, n) for n in (1, 2))]
    for directory, answer in zip(dirs, answers, strict=True):
        alone = engine_of(directory).score(rows, spec)
        assert answer is not None
        assert alone is not None
        assert answer.drop_columns("teacher_s").equals(alone.drop_columns("teacher_s"))
    first, code, law = (one.drop_columns("teacher_s") for one in answers if one is not None)
    assert not first.equals(code)
    assert not first.equals(law)
    assert not code.equals(law)


def test_it_says_how_large_all_of_it_is(engine: TransformersEngine, dirs: list[Path]) -> None:
    parameters = [engine_of(one).describe()["parameters"] for one in dirs]
    assert engine.describe()["parameters"] == sum(parameters)  # type: ignore[arg-type]


def test_one_without_weights_is_named(teacher_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^teacher\.of_slices\.s0\.model: cannot load"):
        engine_of(teacher_dir, tmp_path)


@pytest.mark.parametrize(("which", "expected"), [(0, ("rows", "spec")), (2, ("rows", "spec", 2))])
def test_a_scorer_asks_for_its_own(which: int, expected: tuple[Any, ...]) -> None:
    asked: list[tuple[Any, ...]] = []

    class Client:
        async def score(self, *arguments: Any) -> None:
            asked.append(arguments)

    client: Any = Client()
    rows: Any = "rows"
    spec: Any = "spec"
    asyncio.run(Scorer(client, spec, which)(rows))
    assert asked == [expected]
