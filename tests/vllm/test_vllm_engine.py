"""vLLM itself, on CPUs, against the `transformers` engine on the same rows and prompts.

Runs in an environment of its own: `make vllm`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import GenerationError, SoftTargetError
from raykd.models.load import ModelSource
from raykd.soft_targets.codec import decode, target_schema
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine
from raykd.teacher.vllm_arguments import VllmOptions
from raykd.teacher.vllm_engine import VllmEngine

# What vLLM and its many dependencies warn of is not raykd's.
pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

ALONE = ShardPlace(0, 1, "127.0.0.1", 0)
VOCAB = 320
PADDED_VOCAB = 326
"""Width of the model's head: six rows more than both sides share."""
TOP_K = CodecSpec("top_k", VOCAB, top_k=8, values="fp32")
DOCUMENTS = [[5, 7], [3], [12, 2, 9], [1, 1, 1], [20], [40, 15]]
PROMPTS = ["The river moves.", "A", "Old stone under the small green wind and", "no light", "the"]

PackedRows = Callable[..., pa.Table]


def spec_of(directory: Path, micro_batch_tokens: int = 64) -> EngineSpec:
    return EngineSpec(ModelSource(str(directory)), "fp32", False, 1, micro_batch_tokens, 1000)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """Heads of 32: the narrowest that vLLM's attention takes on a CPU."""
    directory = tmp_path_factory.mktemp("vllm") / "teacher"
    return save_llama(
        directory, 1, hidden_size=128, head_dim=32, vocab_size=PADDED_VOCAB, initializer_range=0.1
    )


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> TransformersEngine:
    return TransformersEngine(spec_of(model_dir), ALONE)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> VllmEngine:
    """Steps of 64 tokens, so that documents are taken in pieces."""
    return VllmEngine(spec_of(model_dir), ALONE, VllmOptions(kv_cache_gib=0.1))


@pytest.fixture(scope="module")
def whole(model_dir: Path, engine: VllmEngine) -> VllmEngine:
    """The same vLLM, of which every log probability is read."""
    made = VllmEngine.__new__(VllmEngine)
    made.__dict__ = {**engine.__dict__, "_options": VllmOptions(full_vocabulary=True)}
    return made


def top_k_of(scored: pa.Table | None, spec: CodecSpec) -> TopKTargets:
    assert scored is not None
    assert scored.schema.equals(pa.schema([*target_schema(spec), schema.TEACHER_S]))
    decoded = decode(scored, spec)
    assert isinstance(decoded, TopKTargets)
    return decoded


def assert_agree(ours: TopKTargets, theirs: TopKTargets) -> None:
    """What the issue of engines asks: ids 99.9 %, log probabilities within 1e-3."""
    assert ours.num_tokens == theirs.num_tokens
    same = (ours.ids_TK == theirs.ids_TK).float().mean().item()
    assert same >= 0.999
    for name in ("logprobs_TK", "log_tail_TN", "label_logprobs_T"):
        worst = (getattr(ours, name) - getattr(theirs, name)).abs().max().item()
        assert worst < 1e-3, f"{name}: {worst}"


def test_the_likeliest_ids_are_those_of_the_transformers_engine(
    engine: VllmEngine, reference: TransformersEngine, packed_rows: PackedRows
) -> None:
    """Rows of several documents; a document longer than a step of 64 tokens."""
    rows = packed_rows([*DOCUMENTS, [150], [90, 8]], seed=3)
    ours, theirs = (top_k_of(one.score(rows, TOP_K), TOP_K) for one in (engine, reference))
    assert ours.num_tokens > 200
    # The six rows more take about 2 % of the mass: of those that are not named, at most.
    assert (ours.ids_TK == theirs.ids_TK).float().mean() > 0.99


def test_where_the_heads_are_alike_the_engines_agree(
    tmp_path: Path, engine: VllmEngine, reference: TransformersEngine, packed_rows: PackedRows
) -> None:
    wide = CodecSpec("top_k", PADDED_VOCAB, top_k=8, values="fp32")
    rows = packed_rows([*DOCUMENTS, [150], [90, 8]], seed=4)
    ours, theirs = (top_k_of(one.score(rows, wide), wide) for one in (engine, reference))
    assert_agree(ours, theirs)


def test_rows_without_anything_to_learn_have_their_columns(
    engine: VllmEngine, packed_rows: PackedRows
) -> None:
    assert (
        top_k_of(engine.score(packed_rows([[4], [1, 1]], learned=0), TOP_K), TOP_K).num_tokens == 0
    )
    assert top_k_of(engine.score(packed_rows([]), TOP_K), TOP_K).num_tokens == 0


def test_all_of_the_vocabulary_gives_every_temperature(
    whole: VllmEngine, reference: TransformersEngine, packed_rows: PackedRows
) -> None:
    spec = CodecSpec("top_k", VOCAB, (1.0, 0.5, 2.0), top_k=8, values="fp32")
    rows = packed_rows(DOCUMENTS, seed=5)
    ours, theirs = (top_k_of(one.score(rows, spec), spec) for one in (whole, reference))
    assert ours.log_tail_TN.shape[1] == 3
    assert_agree(ours, theirs)


def test_all_of_the_vocabulary_gives_the_other_codecs(
    whole: VllmEngine, reference: TransformersEngine, packed_rows: PackedRows
) -> None:
    rows = packed_rows(DOCUMENTS, seed=6)
    full = CodecSpec("full", VOCAB, values="fp32")
    ours, theirs = (one.score(rows, full) for one in (whole, reference))
    np.testing.assert_allclose(
        np.concatenate(ours.column("target_logprobs").to_numpy()),
        np.concatenate(theirs.column("target_logprobs").to_numpy()),
        atol=1e-3,
    )
    sampled = CodecSpec("sampled", VOCAB, (1.0, 2.0), draws=20, seed=9)
    ours, theirs = (one.score(rows, sampled) for one in (whole, reference))
    assert ours.column("target_id_gaps").to_pylist() == theirs.column("target_id_gaps").to_pylist()


@pytest.mark.parametrize(
    "spec",
    [
        CodecSpec("hidden", VOCAB, hidden_size=128),
        CodecSpec("full", VOCAB, values="fp32"),
        CodecSpec("top_k", VOCAB, (1.0, 2.0), top_k=8),
    ],
    ids=["hidden", "full", "temperature"],
)
def test_what_the_likeliest_ids_do_not_give_is_refused(
    spec: CodecSpec, engine: VllmEngine, packed_rows: PackedRows
) -> None:
    with pytest.raises(SoftTargetError, match="full_vocabulary"):
        engine.score(packed_rows([[5]]), spec)


def test_a_document_longer_than_the_context_is_refused(
    engine: VllmEngine, packed_rows: PackedRows
) -> None:
    with pytest.raises(SoftTargetError, match="document of 256 tokens"):
        engine.score(packed_rows([[256]], learned=1), TOP_K)


def prompts_of(texts: list[str], seeds: list[int] | None = None) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"prompt": i, "sample": 0, "seed": (seeds or [0] * len(texts))[i], "text": text}
            for i, text in enumerate(texts)
        ],
        schema=schema.PROMPTS,
    )


def test_greedy_completions_are_those_of_the_transformers_engine(
    engine: VllmEngine, reference: TransformersEngine
) -> None:
    sampling = SamplingConfig(max_new_tokens=12, stop=["river"])
    ours, theirs = (one.generate(prompts_of(PROMPTS), sampling) for one in (engine, reference))
    assert ours.schema.equals(schema.COMPLETIONS)
    for name in ("completion", "finish_reason", "prompt_tokens", "completion_tokens"):
        assert ours.column(name).to_pylist() == theirs.column(name).to_pylist(), name
    np.testing.assert_allclose(
        ours.column("mean_logprob"), theirs.column("mean_logprob"), atol=1e-4
    )


def test_draws_follow_the_seed_of_each_prompt(engine: VllmEngine) -> None:
    sampling = SamplingConfig(max_new_tokens=10, temperature=1.0, top_p=0.95, top_k=50)
    same = ["the river"] * 3
    first = engine.generate(prompts_of(same, [1, 2, 1]), sampling).column("completion").to_pylist()
    again = engine.generate(prompts_of(same[:1], [1]), sampling).column("completion").to_pylist()
    assert first[0] == first[2] == again[0]
    assert first[0] != first[1]


def test_a_prompt_longer_than_the_context_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(GenerationError, match="prompt 0"):
        engine.generate(prompts_of(["the"]), SamplingConfig(max_new_tokens=256))


def test_two_shards_of_one_engine_agree_with_the_whole_model(
    model_dir: Path, reference: TransformersEngine, packed_rows: PackedRows, tmp_path: Path
) -> None:
    """In a process of its own, which is killed: none of vLLM's own processes may outlive it."""
    wide = CodecSpec("top_k", PADDED_VOCAB, top_k=8, values="fp32")
    rows = packed_rows(DOCUMENTS, seed=7)
    with (
        pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, rows.schema) as writer,
    ):
        writer.write_table(rows)
    script = Path(__file__).with_name("two_shards.py")
    with subprocess.Popen([sys.executable, str(script), str(model_dir), str(tmp_path)]) as process:
        assert process.wait(timeout=240) == -9
    with pa.OSFile(str(tmp_path / "scored.arrow")) as source:
        scored = pa.ipc.open_file(source).read_all()
    assert_agree(top_k_of(scored, wide), top_k_of(reference.score(rows, wide), wide))
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert len(children) >= 2
    assert outlived(children, within_s=20) == []


def outlived(pids: list[int], within_s: float) -> list[int]:
    """Processes that are still there after a while."""
    deadline = time.monotonic() + within_s
    left = pids
    while left and time.monotonic() < deadline:
        time.sleep(0.5)
        left = [pid for pid in left if _runs(pid)]
    return left


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_engine_says_what_it_is(engine: VllmEngine, reference: TransformersEngine) -> None:
    ours: Any = engine.describe()
    assert ours["device"] == "cpu"
    assert ours["parameters"] == reference.describe()["parameters"]
