"""The engine's text against `transformers`' own, a numpy reference of the draws, a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from shard_processes import run_two
from transformers import AutoModelForCausalLM

from raykd import schema
from raykd.config.sampling import SamplingConfig
from raykd.errors import GenerationError
from raykd.models.load import ModelSource
from raykd.teacher.draw import draws, sample
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.generate import Writing
from raykd.teacher.transformers_tp import TransformersEngine

TEXTS = ["The river moves.", "A", "Old stone under the small green wind and", "no light", "the"]
DRAWN = SamplingConfig(max_new_tokens=12, temperature=0.9, top_p=0.95, top_k=40)


def prompts_of(texts: list[str], chat: bool = False, seed: int = 7) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "prompt": i,
                "sample": 0,
                "seed": seed * 1000 + i,
                "messages": [{"role": "user", "content": text}] if chat else None,
                "text": None if chat else text,
            }
            for i, text in enumerate(texts)
        ],
        schema=schema.PROMPTS,
    )


def engine_of(directory: Path, micro_batch_tokens: int = 1000) -> TransformersEngine:
    spec = EngineSpec(ModelSource(str(directory)), "fp32", False, 1, micro_batch_tokens, 64)
    return TransformersEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


@pytest.fixture(scope="module")
def engine(teacher_dir: Path) -> TransformersEngine:
    return engine_of(teacher_dir)


@pytest.fixture(scope="module")
def teacher(teacher_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32).eval()


def of_transformers(teacher: Any, ids: list[int], tokenizer: Any, new: int) -> list[int]:
    out = teacher.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 1000])
def test_greedy_text_is_that_of_transformers(
    chat: bool, micro_batch_tokens: int, teacher_dir: Path, teacher: Any, tiny_tokenizer: Any
) -> None:
    got = engine_of(teacher_dir, micro_batch_tokens).generate(
        prompts_of(TEXTS, chat), SamplingConfig(max_new_tokens=10)
    )
    assert got is not None
    assert got.schema.equals(schema.COMPLETIONS)
    for text, row in zip(TEXTS, got.to_pylist(), strict=True):
        asked = f"<|user|>{text}<|end|><|assistant|>" if chat else text
        ids = tiny_tokenizer(asked, add_special_tokens=False)["input_ids"]
        expected = of_transformers(teacher, ids, tiny_tokenizer, 10)
        ended = tiny_tokenizer.eos_token_id in expected
        expected = [i for i in expected if i != tiny_tokenizer.eos_token_id]
        assert row["completion"] == tiny_tokenizer.decode(expected, skip_special_tokens=True)
        assert row["finish_reason"] == ("stop" if ended else "length")
        assert row["prompt_tokens"] == len(ids)
        assert row["completion_tokens"] == len(expected)


def test_draws_do_not_depend_on_the_company(teacher_dir: Path) -> None:
    together = engine_of(teacher_dir).generate(prompts_of(TEXTS), DRAWN)
    pairs = engine_of(teacher_dir, 60).generate(prompts_of(TEXTS), DRAWN)
    engine = engine_of(teacher_dir)
    alone = [engine.generate(prompts_of(TEXTS).slice(i, 1), DRAWN) for i in range(len(TEXTS))]
    assert together is not None
    assert pairs is not None
    wanted = together.column("completion").to_pylist()
    assert len(set(wanted)) == len(TEXTS)
    assert pairs.column("completion").to_pylist() == wanted
    assert [one.column("completion")[0].as_py() for one in alone if one is not None] == wanted
    other = engine.generate(prompts_of(TEXTS, seed=8), DRAWN)
    assert other is not None
    assert other.column("completion").to_pylist() != wanted


def allowed(logits: np.ndarray, sampling: SamplingConfig) -> np.ndarray:
    """The distribution that is drawn from, one row, by the book."""
    scaled = logits.astype(np.float64) / sampling.temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    order = np.argsort(-probs, kind="stable")
    keep = np.ones(len(probs), bool)
    if sampling.top_k is not None:
        keep[order[sampling.top_k :]] = False
        probs = np.where(keep, probs, 0)
        probs /= probs.sum()
    mass, nucleus = 0.0, set()
    for i in order:
        if mass >= sampling.top_p:
            break
        nucleus.add(int(i))
        mass += probs[i]
    probs = np.array([p if i in nucleus else 0.0 for i, p in enumerate(probs)])
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.5, None, 1.0), (1.0, 3, 1.0), (1.0, None, 0.6), (1.7, 6, 0.8)],
)
def test_tokens_come_as_often_as_they_should(
    temperature: float, top_k: int | None, top_p: float
) -> None:
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = np.random.default_rng(0).normal(size=12).astype(np.float32) * 2
    expected = allowed(logits, sampling)
    number = 20000
    # Evenly spread numbers: each token's share is then its probability, within one part of them.
    spread = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    drawn = sample(torch.from_numpy(logits).repeat(number, 1), spread, sampling)
    shares = np.bincount(drawn.numpy(), minlength=12) / number
    np.testing.assert_allclose(shares, expected, atol=1.5 / number)


def test_the_ends_of_the_unit_interval_meet_tokens_with_mass() -> None:
    logits = torch.tensor([[-1e9, 0.0, -1e9, 0.0, -1e9]])
    sampling = SamplingConfig(temperature=1.0)
    assert sample(logits, torch.tensor([0.0], dtype=torch.float64), sampling).item() == 1
    last = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert sample(logits, last, sampling).item() == 3


def test_numbers_are_uniform_and_of_the_seed_and_the_place() -> None:
    found = draws(list(range(4000)), [0] * 4000)
    assert abs(found.mean().item() - 0.5) < 0.02
    assert abs(found.var().item() - 1 / 12) < 0.01
    of_one = draws([5] * 3, [0, 1, 2])
    assert len(set(of_one.tolist())) == 3
    assert draws([2**63 - 1, 5], [9, 1])[1] == of_one[1]


@pytest.mark.parametrize("sampling", [SamplingConfig(max_new_tokens=9), DRAWN])
def test_the_mean_log_probability_is_that_of_a_forward_pass(
    sampling: SamplingConfig,
    engine: TransformersEngine,
    teacher: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Writing] = []
    tell = Writing.as_completion

    def seen(self: Writing, *arguments: Any) -> dict[str, Any]:
        written.append(self)
        return tell(self, *arguments)

    monkeypatch.setattr(Writing, "as_completion", seen)
    got = engine.generate(prompts_of(TEXTS), sampling)
    assert got is not None
    for one, mean in zip(written, got.column("mean_logprob").to_pylist(), strict=True):
        ids, new = one.ids, one.new_ids
        with torch.no_grad():
            logits = teacher(input_ids=torch.tensor([ids + new])).logits[0].double()
        places = range(len(ids) - 1, len(ids + new) - 1)
        logprobs = torch.log_softmax(logits, -1)[places, new]
        assert mean == pytest.approx(logprobs.mean().item(), abs=1e-5)


def test_a_completion_ends_before_a_stop_string(
    engine: TransformersEngine, teacher: Any, tiny_tokenizer: Any
) -> None:
    free = engine.generate(prompts_of(TEXTS[:1]), SamplingConfig(max_new_tokens=12))
    assert free is not None
    text = free.column("completion")[0].as_py()
    stop = text[4:6]
    at = text.index(stop)
    cut = engine.generate(
        prompts_of(TEXTS[:1]), SamplingConfig(max_new_tokens=12, stop=["no such", stop])
    )
    assert cut is not None
    [row] = cut.to_pylist()
    assert row["completion"] == text[:at]
    assert row["finish_reason"] == "stop"
    assert row["completion_tokens"] < free.column("completion_tokens")[0].as_py()


def test_rows_that_end_early_leave_the_others_as_they_are(teacher_dir: Path) -> None:
    engine = engine_of(teacher_dir)
    sampling = SamplingConfig(max_new_tokens=20, temperature=1.0)
    engine.generate(prompts_of(TEXTS[:1]), sampling)
    assert engine._generator is not None
    # Every eighth token is an end: rows leave one after the other.
    engine._generator._ends = frozenset(range(0, 320, 8))
    texts = [*TEXTS, "river and stone", "a light wind moves", "and"]
    together = engine.generate(prompts_of(texts), sampling)
    alone = [engine.generate(prompts_of(texts).slice(i, 1), sampling) for i in range(len(texts))]
    assert together is not None
    lengths = together.column("completion_tokens").to_pylist()
    assert len(set(lengths)) > 4
    for i, one in enumerate(alone):
        assert one is not None
        for name in ("completion", "finish_reason", "completion_tokens"):
            assert one.column(name)[0] == together.column(name)[i]


def test_positions_are_counted_from_each_prompts_own_begin(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    """A model with learned positions tells padding from text by them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=320,
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    got = engine_of(tmp_path).generate(prompts_of(TEXTS), SamplingConfig(max_new_tokens=8))
    assert got is not None
    for text, row in zip(TEXTS, got.to_pylist(), strict=True):
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = of_transformers(model, ids, tiny_tokenizer, 8)
        assert row["completion"] == tiny_tokenizer.decode(expected, skip_special_tokens=True)


def test_a_prompt_longer_than_the_context_is_named(engine: TransformersEngine) -> None:
    long = "river " * 250
    with pytest.raises(GenerationError, match=r"prompt 1 \('river river .* context of 256"):
        engine.generate(prompts_of(["the", long]), SamplingConfig(max_new_tokens=20))


def test_a_chat_without_a_template_says_what_to_do(
    tmp_path: Path, save_llama: Callable[..., Path]
) -> None:
    directory = save_llama(tmp_path / "m", 1)
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(GenerationError, match="no chat template; use an instruction-tuned"):
        engine_of(directory).generate(prompts_of(["the"], chat=True), SamplingConfig())


def test_broken_weights_are_named(tmp_path: Path, save_llama: Callable[..., Path]) -> None:
    directory = save_llama(tmp_path / "m", 1)
    engine = engine_of(directory)
    with torch.no_grad():
        engine._model.model.norm.weight[0] = float("nan")
    with pytest.raises(GenerationError, match=r"prompt 0 \('the'\).*no numbers"):
        engine.generate(prompts_of(["the"]), SamplingConfig(max_new_tokens=4))


def test_two_shards_write_what_one_writes(teacher_dir: Path, tmp_path: Path) -> None:
    run_two("generating_shard.py", teacher_dir, tmp_path)
    alone = engine_of(teacher_dir)
    for name, sampling in (("greedy", SamplingConfig(max_new_tokens=8)), ("drawn", DRAWN)):
        expected = alone.generate(prompts_of(TEXTS), sampling)
        assert expected is not None
        got = pa.ipc.open_file(tmp_path / f"{name}.arrow").read_all()
        assert got.drop_columns("mean_logprob").equals(expected.drop_columns("mean_logprob"))
