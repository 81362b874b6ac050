"""The `vllm` engine on a stand-in of vLLM; on vLLM itself: tests/vllm."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import GenerationError, ModelError, SoftTargetError
from raykd.models.load import ModelSource, load_tokenizer
from raykd.soft_targets.codec import Encoded, encode, target_schema, to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher import vllm_engine
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.vllm_arguments import VllmOptions
from raykd.teacher.vllm_engine import VllmEngine

PackedRows = Callable[..., pa.Table]

VOCAB = 320
SPEC = CodecSpec("top_k", VOCAB, top_k=5, values="fp32")
CONTEXT = 40


def logits_after(prefix: list[int]) -> torch.Tensor:
    """What the stand-in model thinks follows: it has no memory beyond sum and length."""
    seed = sum(prefix) * 1000 + len(prefix)
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


class StandInLLM:
    """As much of `vllm.LLM` as the engine asks for."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.requests: list[tuple[list[int], Any]] = []
        self.calls = 0
        self.writes: list[Any] = []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=CONTEXT))

    def get_tokenizer(self) -> Any:
        return load_tokenizer(ModelSource(self.arguments["model"]), "teacher.model")

    def generate(self, prompts: list[dict[str, Any]], params: Any, use_tqdm: bool) -> list[Any]:
        assert use_tqdm is False
        self.calls += 1
        each = params if isinstance(params, list) else [params] * len(prompts)
        pairs = [(one["prompt_token_ids"], p) for one, p in zip(prompts, each, strict=True)]
        self.requests += pairs
        if self.writes:
            return [SimpleNamespace(outputs=[self.writes.pop(0)]) for _ in pairs]
        return [SimpleNamespace(prompt_logprobs=self._scores(*pair)) for pair in pairs]

    def _scores(self, ids: list[int], params: Any) -> Any:
        asked = VOCAB if params.prompt_logprobs == -1 else params.prompt_logprobs
        starts, told, logprobs = [0], [], []
        for at in range(1, len(ids)):
            row = logits_after(ids[:at]).log_softmax(0)
            starts.append(len(told))
            values, likeliest = row.topk(asked)
            told += [ids[at], *likeliest.tolist()]
            logprobs += [row[ids[at]].item(), *values.tolist()]
        return SimpleNamespace(start_indices=starts, token_ids=told, logprobs=logprobs)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("vllm")
    module.LLM = StandInLLM
    module.SamplingParams = lambda **fields: SimpleNamespace(**fields)
    monkeypatch.setitem(sys.modules, "vllm", module)
    for name in ("OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "")


@pytest.fixture
def make_engine(stand_in: None, teacher_dir: Path) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        spec = EngineSpec(ModelSource(str(teacher_dir)), "fp32", False, 1, 64, 1024)
        place = ShardPlace(0, 1, "127.0.0.1", 0)
        return VllmEngine(spec, place, VllmOptions(**options))

    return make


def expected(rows: pa.Table, spec: CodecSpec) -> dict[str, pa.Array]:
    """The codec on the stand-in model's own logits, document by document."""
    out: list[Encoded] = []
    for row in rows.to_pylist():
        logits, labels = [torch.empty(0, VOCAB)], []
        ids, start = row["input_ids"], 0
        for at, (position, learned) in enumerate(
            zip(row["position_ids"], row["loss_mask"], strict=True)
        ):
            start = at if position == 0 else start
            if learned:
                logits.append(logits_after(ids[start : at + 1])[None])
                labels.append(ids[at + 1])
        out.append(encode(torch.cat(logits), torch.tensor(labels, dtype=torch.long), None, spec))
    return to_columns(out, spec)


@pytest.mark.parametrize("most_numbers", [2**22, 100])
def test_rows_come_back_in_their_places(
    most_numbers: int,
    make_engine: Callable[..., Any],
    packed_rows: PackedRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However few documents are asked for together."""
    monkeypatch.setattr(vllm_engine, "MOST_NUMBERS", most_numbers)
    rows = packed_rows([[5, 7], [3], [1, 1], [12, 2, 9], [20]], seed=1)
    engine = make_engine()
    scored = engine.score(rows, SPEC)
    assert scored.schema.equals(pa.schema([*target_schema(SPEC), schema.TEACHER_S]))
    for name, column in expected(rows, SPEC).items():
        for row, (ours, theirs) in enumerate(
            zip(scored.column(name).to_pylist(), column.to_pylist(), strict=True)
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=f"{name}, row {row}")
    assert (engine._llm.calls > 3) == (most_numbers == 100)


def test_the_whole_vocabulary_serves_what_the_likeliest_do_not(
    make_engine: Callable[..., Any], packed_rows: PackedRows
) -> None:
    rows = packed_rows([[5, 7], [12]], seed=2)
    spec = CodecSpec("top_k", VOCAB, (1.0, 2.0), top_k=5, values="fp32")
    with pytest.raises(SoftTargetError, match="full_vocabulary"):
        make_engine().score(rows, spec)
    scored = make_engine(full_vocabulary=True).score(rows, spec)
    tail = np.concatenate(scored.column("target_log_tail").to_numpy())
    theirs = np.concatenate(expected(rows, spec)["target_log_tail"].to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(tail, theirs, atol=1e-5)


def test_draws_are_the_tokens_own_however_documents_are_grouped(
    make_engine: Callable[..., Any], packed_rows: PackedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = packed_rows([[5, 7], [12], [4, 9]], seed=3)
    spec = CodecSpec("sampled", VOCAB, draws=8, seed=11)
    engine = make_engine(full_vocabulary=True)
    together = engine.score(rows, spec)
    monkeypatch.setattr(vllm_engine, "MOST_NUMBERS", 1)
    apart = engine.score(rows, spec)
    assert engine._llm.calls == 1 + 5
    for name in target_schema(spec).names:
        assert apart.column(name).equals(together.column(name)), name


def test_scoring_asks_for_what_it_needs_and_no_text(
    make_engine: Callable[..., Any], packed_rows: PackedRows
) -> None:
    engine = make_engine()
    engine.score(packed_rows([[9]], learned=1), SPEC)
    [(ids, params)] = engine._llm.requests
    assert len(ids) == 9
    assert params.prompt_logprobs == 6
    assert params.max_tokens == 1
    assert params.detokenize is False


def test_nothing_to_learn_asks_nobody(
    make_engine: Callable[..., Any], packed_rows: PackedRows
) -> None:
    engine = make_engine()
    scored = engine.score(packed_rows([[4], [1, 1]], learned=0), SPEC)
    assert scored.column("target_ids").to_pylist() == [[], []]
    assert engine._llm.calls == 0


def test_what_cannot_be_scored_is_named(
    make_engine: Callable[..., Any], packed_rows: PackedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    rows = packed_rows([[4], [6, 5]], learned=1)
    with pytest.raises(SoftTargetError, match=r"row 0 .* token 0: its label is id \d+, outside"):
        engine.score(rows, CodecSpec("top_k", 5, top_k=2))
    with pytest.raises(SoftTargetError, match=r"row 1 .* document of 40 tokens"):
        engine.score(packed_rows([[4], [40]], learned=1), SPEC)
    monkeypatch.setattr(vllm_engine, "MOST_NUMBERS_OF_ONE", 20)
    with pytest.raises(SoftTargetError, match="reasonable memory"):
        engine.score(rows, SPEC)


def test_logits_that_are_no_numbers_are_named(
    make_engine: Callable[..., Any], packed_rows: PackedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = packed_rows([[4], [6, 5]], learned=1)
    ids = rows.column("input_ids")[1].as_py()[6:9]

    def broken(prefix: list[int]) -> torch.Tensor:
        return torch.full((VOCAB,), torch.nan) if prefix == ids else torch.zeros(VOCAB)

    monkeypatch.setitem(globals(), "logits_after", broken)
    with pytest.raises(SoftTargetError, match=r"row 1 of the request, token 8: .*NaN") as caught:
        make_engine().score(rows, SPEC)
    assert str(ids) in str(caught.value)


def wrote(ids: list[int], reason: str, stop: Any = None, logprob: float = -0.5) -> Any:
    logprobs = SimpleNamespace(logprobs=[logprob] * (len(ids) - 1) + [-3.0])
    return SimpleNamespace(token_ids=ids, logprobs=logprobs, finish_reason=reason, stop_reason=stop)


def prompts_of(texts: list[str]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"prompt": i, "sample": 0, "seed": 70 + i, "text": t} for i, t in enumerate(texts)],
        schema=schema.PROMPTS,
    )


def test_completions_end_before_what_ended_them(make_engine: Callable[..., Any]) -> None:
    engine = make_engine()
    tokenizer = engine._tokenizer
    written = tokenizer("the stone moves", add_special_tokens=False)["input_ids"]
    engine._llm.writes = [
        wrote([*written, tokenizer.eos_token_id], "stop"),
        wrote(written, "stop", "moves"),
        wrote(written, "length"),
    ]
    sampling = SamplingConfig(max_new_tokens=9, temperature=0.7, top_p=0.9, stop=["moves"])
    told = engine.generate(prompts_of(["a", "b river", "c"]), sampling)
    assert told.schema.equals(schema.COMPLETIONS)
    # An end of text is no token of the completion; a stop string's are, as its text is cut.
    assert told.column("completion_tokens").to_pylist() == [len(written)] * 3
    assert told.column("completion").to_pylist() == ["the stone "] * 3
    assert told.column("finish_reason").to_pylist() == ["stop", "stop", "length"]
    number = len(written)
    means = [-0.5, (-0.5 * (number - 1) - 3) / number, (-0.5 * (number - 1) - 3) / number]
    np.testing.assert_allclose(told.column("mean_logprob"), means, atol=1e-6)
    params = [one for _, one in engine._llm.requests]
    assert [one.seed for one in params] == [70, 71, 72]
    assert {(p.temperature, p.top_p, p.top_k, p.max_tokens) for p in params} == {(0.7, 0.9, -1, 9)}


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (wrote([7, 8], "abort"), "ended it with 'abort'"),
        (wrote([7, 8], "length", logprob=float("nan")), "no numbers"),
    ],
)
def test_a_completion_that_broke_off_names_its_prompt(
    output: Any, complaint: str, make_engine: Callable[..., Any]
) -> None:
    engine = make_engine()
    engine._llm.writes = [output]
    with pytest.raises(GenerationError, match=rf"prompt 0 \('the'\).*{complaint}"):
        engine.generate(prompts_of(["the"]), SamplingConfig(max_new_tokens=5))


def test_prompts_longer_than_the_context_are_refused(make_engine: Callable[..., Any]) -> None:
    with pytest.raises(GenerationError, match=f"context of {CONTEXT}"):
        make_engine().generate(prompts_of(["the"]), SamplingConfig(max_new_tokens=CONTEXT))


def test_without_vllm_the_message_says_so(
    make_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match="engine: transformers"):
        make_engine()


def test_inner_states_are_refused(
    make_engine: Callable[..., Any], packed_rows: PackedRows, tmp_path: Path
) -> None:
    engine = make_engine()
    with pytest.raises(ModelError, match="engine: transformers"):
        engine.write_head(tmp_path / "head")
    with pytest.raises(ModelError, match="engine: transformers"):
        engine.represent(packed_rows([[3]]), SPEC, None)
    with pytest.raises(SoftTargetError, match="found hidden"):
        engine.score(packed_rows([[3]]), CodecSpec("hidden", VOCAB, hidden_size=32))
