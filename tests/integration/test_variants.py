"""What a job may choose of text, loss and student, each through the whole way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .runs import RAY_WARNINGS, Distil, Ran, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]

STEPS = 6
SHORT = {"train.max_steps": STEPS, "checkpoint": {"every_steps": None}}


def write_corpus(path: Path, corpus_file: Path, record: Callable[[list[str]], Any]) -> str:
    """The shared corpus in another layout; each document comes as its list of words."""
    texts = [json.loads(line)["text"] for line in corpus_file.read_text().splitlines()]
    path.write_text("".join(json.dumps(record(text.split())) + "\n" for text in texts))
    return str(path)


def assert_whole(ran: Ran) -> None:
    """Every step once, finite numbers, and an export that a person can load and use."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert_each_step_once(ran.root, STEPS, global_batch=4)
    assert all(math.isfinite(loss) for loss in ran.losses)
    model = AutoModelForCausalLM.from_pretrained(ran.root / "student")
    tokenizer = AutoTokenizer.from_pretrained(ran.root / "student")
    prompt = tokenizer("the river", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]


def test_prompts_padded_with_reverse_kl_at_temperature(
    one_teacher: None,
    make_job: Callable[..., Any],
    distil: Distil,
    corpus_file: Path,
    tmp_path: Path,
) -> None:
    source = write_corpus(
        tmp_path / "pairs.jsonl",
        corpus_file,
        lambda words: {"ask": " ".join(words[:6]), "answer": " ".join(words[6:12])},
    )
    ran = distil(
        make_job(
            {
                **SHORT,
                "data.corpus": {
                    "source": source,
                    "columns": {"prompt": "ask", "completion": "answer"},
                },
                "data.packing": "pad",
                "data.pad_buckets_tokens": [16, 32, 64],
                "student.init": {"start": "teacher", "layers": 2},
                "soft_targets": {"top_k": 8, "values": "int6", "temperatures": [4.0]},
                "loss": {"divergence": "reverse_kl", "temperature": 2.0, "alpha": 0.5},
            }
        )
    )
    assert_whole(ran)
    for step in ran.steps:
        # Neither prompts nor padding are learned from.
        assert 0 < step["tokens"] < 0.7 * step["tokens_seen"]
        # The divergence already carries the square of the temperature.
        mixed = 0.5 * step["divergence"] + 0.5 * step["cross_entropy"]
        assert step["loss"] == pytest.approx(mixed, rel=1e-4)


def test_chats_with_jsd_from_hidden_states_teach_adapters_alone(
    one_teacher: None,
    make_job: Callable[..., Any],
    distil: Distil,
    corpus_file: Path,
    student_dir: Path,
    tmp_path: Path,
) -> None:
    source = write_corpus(
        tmp_path / "chats.jsonl",
        corpus_file,
        lambda words: {
            "messages": [
                {"role": "user", "content": " ".join(words[:6])},
                {"role": "assistant", "content": " ".join(words[6:14])},
            ]
        },
    )
    ran = distil(
        make_job(
            {
                **SHORT,
                "data.corpus": {"source": source, "columns": {"messages": "messages"}},
                "soft_targets": {"codec": "hidden", "hidden_values": "fp32"},
                "loss": {"divergence": "jsd", "beta": 0.3, "temperature": 2.0},
                "evaluation.every_steps": 3,
                "student.lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
                "student.zero_stage": 2,
                "student.dtype": "bf16",
                "train.optimizer": {"lr": 3e-2},
            }
        )
    )
    assert_whole(ran)
    assert all(0 < step["tokens"] < step["tokens_seen"] for step in ran.steps)
    measured = [step["step"] for step in ran.steps if step.get("heldout")]
    assert measured == [3, 6]
    assert (ran.root / "teacher_head.safetensors").is_file()
    assert changed_weights(student_dir, ran.root / "student") == {"q_proj", "v_proj"}


def changed_weights(first: Path, exported: Path) -> set[str]:
    """Kinds of matrices that an export has otherwise than the first weights, in every layer."""
    from transformers import AutoModelForCausalLM

    before, after = (
        AutoModelForCausalLM.from_pretrained(one).float().state_dict() for one in (first, exported)
    )
    assert after.keys() == before.keys()
    changed = {
        name
        for name in before
        if not torch.allclose(before[name], after[name], rtol=1e-2, atol=1e-3)
    }
    kinds = {name.split(".")[-2] for name in changed}
    assert changed == {name for name in before if name.split(".")[-2] in kinds}
    return kinds


def test_hard_labels_alone_need_no_teacher_while_training(
    one_teacher: None,
    make_job: Callable[..., Any],
    distil: Distil,
    llama_config: Callable[..., Any],
) -> None:
    fields = llama_config().to_diff_dict()
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    config = {name: fields[name] for name in wanted if name in fields}
    ran = distil(
        make_job(
            {
                **SHORT,
                "loss": {"alpha": 1.0},
                "student.init": {
                    "start": "config",
                    "config": {
                        "model_type": "llama",
                        "num_hidden_layers": 1,
                        "num_key_value_heads": 2,
                        "max_position_embeddings": 64,
                        **config,
                    },
                },
                "tracking": {"tensorboard": True},
            }
        )
    )
    assert_whole(ran)
    assert all(s["divergence"] is None and s["teacher_s"] == 0 for s in ran.steps)
    assert [s["loss"] for s in ran.steps] == [s["cross_entropy"] for s in ran.steps]
    # The teacher still says how far from it the student is.
    assert ran.report.evaluation["heldout"].models["student"].kl_to_teacher > 0
    assert list((ran.root / "logs" / "tensorboard").rglob("events.out.tfevents.*"))
