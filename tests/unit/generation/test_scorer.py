"""Reward models: what they read, what they say, and who is kept for it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from raykd.config.generation import GenerationConfig
from raykd.config.scorer import ScorerConfig
from raykd.errors import ModelError
from raykd.generation.provenance import generated_table
from raykd.generation.samples import Sample
from raykd.generation.scorer import RewardModel, longest_text, require_chats, require_scorer
from raykd.generation.selection import select
from raykd.models.load import ModelSource

MakeSample = Callable[..., Sample]
CPU = ScorerConfig(model="x", dtype="fp32", device="cpu")
BEST = GenerationConfig.model_validate(
    {
        "num_samples": 2,
        "sampling": {"temperature": 0.7},
        "keep_best": 1,
        "scorer": {"model": "x"},
    }
)


@pytest.fixture(scope="session")
def reward_directory(
    tiny_tokenizer: Any, llama_config: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from transformers import LlamaForSequenceClassification

    directory = tmp_path_factory.mktemp("reward")
    torch.manual_seed(5)
    model = LlamaForSequenceClassification(llama_config(num_labels=1, max_position_embeddings=64))
    model.save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    return directory


@torch.no_grad()
def alone(directory: Path, ids: list[int]) -> float:
    """The score by the model itself, one unpadded text at a time."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    return float(model.eval()(torch.tensor([ids])).logits[0, 0])


def test_scores_are_those_of_each_text_alone(
    reward_directory: Path, tiny_tokenizer: Any, sample: MakeSample
) -> None:
    texts = ["yes", "no, it is not so", "a", "<think>well</think> perhaps not"]
    given = [sample(text, prompt=i, chat=True) for i, text in enumerate(texts)]
    found = RewardModel(ModelSource(str(reward_directory)), CPU)(given)
    for i, (answer, score) in enumerate(
        zip(["yes", "no, it is not so", "a", "perhaps not"], found, strict=True)
    ):
        ids = tiny_tokenizer.apply_chat_template(
            [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": answer},
            ],
            tokenize=True,
            return_dict=True,
        )["input_ids"]
        assert score == pytest.approx(alone(reward_directory, ids), abs=1e-5)
    assert len(set(found)) == 4


def test_a_model_without_a_pad_reads_each_text_to_its_end(
    reward_directory: Path, tiny_tokenizer: Any, sample: MakeSample, tmp_path: Path
) -> None:
    """A chat that ends with the end-of-text token, by which others pad, is not read short of it."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(reward_directory)
    config.pad_token_id = None
    model = AutoModelForSequenceClassification.from_pretrained(reward_directory, config=config)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = None
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    given = [sample(text, prompt=i, chat=True) for i, text in enumerate(["yes", "no, not so"])]
    found = RewardModel(ModelSource(str(tmp_path)), CPU)(given)
    for i, (answer, score) in enumerate(zip(["yes", "no, not so"], found, strict=True)):
        ids = [
            id_
            for text in (f"question {i}", answer)
            for id_ in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        ]
        assert score == pytest.approx(alone(tmp_path, ids), abs=1e-5)


def test_a_template_that_refuses_is_found_before_anything_is_written(
    reward_directory: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    shutil.copytree(reward_directory, tmp_path / "strict")
    tokenizer = copy.deepcopy(tiny_tokenizer)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    tokenizer.chat_template = refusal
    tokenizer.save_pretrained(tmp_path / "strict")
    source = ModelSource(str(tmp_path / "strict"))
    require_chats(source, with_system=False)
    with pytest.raises(ModelError, match=r"its chat template refuses .* no system"):
        require_chats(source, with_system=True)


def test_roberta_reads_two_tokens_less_than_it_has_positions() -> None:
    roberta = SimpleNamespace(model_type="roberta", max_position_embeddings=514)
    bert = SimpleNamespace(model_type="bert", max_position_embeddings=512)
    endless = SimpleNamespace(model_max_length=10**30)
    assert longest_text(roberta, endless) == longest_text(bert, endless) == 512
    assert longest_text(bert, SimpleNamespace(model_max_length=128)) == 128


def test_plain_prompts_are_pairs(
    reward_directory: Path, tiny_tokenizer: Any, sample: MakeSample
) -> None:
    (found,) = RewardModel(ModelSource(str(reward_directory)), CPU)([sample("blue", prompt=7)])
    ids = tiny_tokenizer("question 7", "blue")["input_ids"]
    assert found == pytest.approx(alone(reward_directory, ids), abs=1e-5)


def test_what_is_too_long_has_no_score_and_is_dropped(
    reward_directory: Path, sample: MakeSample
) -> None:
    given = [sample("short", number=0), sample("word " * 100, number=1)]
    select(given, BEST, RewardModel(ModelSource(str(reward_directory)), CPU))
    assert given[0].score is not None
    assert [one.verdicts["keep_best"] for one in given] == [None, "longer than the scorer reads"]


def test_the_scorer_decides_not_the_teacher(sample: MakeSample) -> None:
    given = [
        sample("a", number=0, mean_logprob=-0.1),
        sample("b", number=1, mean_logprob=-9.0),
        sample("c", prompt=1, number=0, mean_logprob=-0.1),
        sample("d", prompt=1, number=1, mean_logprob=-0.2),
    ]
    select(given, BEST, lambda samples: [0.2, 0.7, 0.5, 0.4])
    assert [one.dropped for one in given] == [True, False, False, True]
    assert given[0].verdicts["keep_best"] == "number 2 by score"
    table = generated_table(given, "teacher", "{}")
    assert table.column("score").to_pylist() == pytest.approx([0.2, 0.7, 0.5, 0.4])


def test_a_classifier_is_no_reward_model(llama_config: Callable[..., Any], tmp_path: Path) -> None:
    llama_config(num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"generation.scorer.model: .* has 3 outputs; a reward"):
        require_scorer(ModelSource(str(tmp_path)))


def test_a_scorer_needs_something_to_choose() -> None:
    with pytest.raises(ValidationError, match="judges for `keep_best`, which is not given"):
        GenerationConfig.model_validate({"scorer": {"model": "x"}})
    with pytest.raises(ValidationError, match="opened from safetensors"):
        ScorerConfig.model_validate({"model": "x", "gguf_file": "y.gguf"})
