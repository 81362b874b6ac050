"""What many tests share: a tokenizer, models and text small enough to make anew in a moment.

Models: vocabulary of `tiny_tokenizer`, hidden 32, 4 heads over 2 key-value heads of 8, random
weights wide enough that the logits are not flat. Nothing here needs a network or a GPU.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports transformers, tokenizers or DeepSpeed.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<eos>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = (  # noqa: SIM905 - easier to read
    "the a one river stone light wind teacher student learns sees keeps gives moves over under "
    "slow quick old small green every no and then while because"
).split()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Product code may set torch's threads; the next test has one again."""
    yield
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torchs_own_linear() -> Iterator[None]:
    """DeepSpeed puts its own in the place of torch's under ZeRO 3, and leaves it there."""
    own = torch.nn.functional.linear
    yield
    torch.nn.functional.linear = own


def sentences(num_documents: int, seed: int = 0) -> list[str]:
    """Documents of 3 to 8 made-up sentences."""
    draw = random.Random(seed)
    return [
        " ".join(
            " ".join(draw.choices(WORDS, k=draw.randint(4, 10))).capitalize() + "."
            for _ in range(draw.randint(3, 8))
        )
        for _ in range(num_documents)
    ]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Byte-level BPE of about 320 ids, with pad, eos and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    machine = Tokenizer(models.BPE())
    machine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    machine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    machine.train_from_iterator(sentences(200), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=machine,
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=SPECIAL_TOKENS[2:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def llama_config(tiny_tokenizer: Any) -> Callable[..., Any]:
    """A tiny llama configuration; any field can be given another value."""

    def make(**fields: Any) -> Any:
        from transformers import LlamaConfig

        settings: dict[str, Any] = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            **fields,
        }
        return LlamaConfig(**settings)

    return make


@pytest.fixture(scope="session")
def make_llama(llama_config: Callable[..., Any]) -> Callable[..., Any]:
    """A tiny llama in fp32, its weights drawn from `seed`."""

    def make(seed: int = 0, **fields: Any) -> Any:
        from transformers import LlamaForCausalLM

        torch.manual_seed(seed)
        return LlamaForCausalLM(llama_config(**fields)).eval()

    return make


@pytest.fixture(scope="session")
def save_llama(make_llama: Callable[..., Any], tiny_tokenizer: Any) -> Callable[..., Path]:
    """Write a tiny llama and the tokenizer into a directory and return it."""

    def save(directory: Path, seed: int = 0, **fields: Any) -> Path:
        make_llama(seed, **fields).save_pretrained(directory)
        tiny_tokenizer.save_pretrained(directory)
        return directory

    return save


@pytest.fixture(scope="session")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """A teacher of four layers. Shared: do not write into it."""
    return save_llama(tmp_path_factory.mktemp("models") / "teacher", 1, num_hidden_layers=4)


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory, save_llama: Callable[..., Path]) -> Path:
    """A student of two layers with the teacher's tokenizer. Shared: do not write into it."""
    return save_llama(tmp_path_factory.mktemp("models") / "student", 2, num_hidden_layers=2)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short documents as JSONL with a `text` column. Shared: do not write into it."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(120, seed=1)))
    return path


@pytest.fixture
def job_tree(
    tmp_path: Path, corpus_file: Path, teacher_dir: Path, student_dir: Path
) -> dict[str, Any]:
    """A whole valid job on the CPU, as the tree of plain values that a job file holds."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "storage_path": str(tmp_path / "runs"),
        "seed": 3,
        "data": {
            "corpus": {"source": str(corpus_file), "columns": {"text": "text"}},
            "sequence_length_tokens": 64,
        },
        "teacher": {
            "model": str(teacher_dir),
            "device": "cpu",
            "dtype": "fp32",
            "cpus_per_shard": 0.2,
            "micro_batch_tokens": 256,
            "head_chunk_tokens": 64,
            "start_timeout_s": 120.0,
            "request_timeout_s": 60.0,
        },
        "soft_targets": {"top_k": 8},
        "student": {
            "init": {"start": "pretrained", "model": str(student_dir)},
            "device": "cpu",
            "dtype": "fp32",
            "num_workers": 1,
            "cpus_per_worker": 0.2,
            "zero_stage": 1,
        },
        "loss": {"alpha": 0.0},
        "train": {
            "max_steps": 4,
            "global_batch": 4,
            "micro_batch": 2,
            "optimizer": {"lr": 1e-3, "warmup_steps": 1},
        },
        "stream": {"cpus_per_loader": 0.1},
        "checkpoint": {"every_steps": 2},
        "evaluation": {"heldout_fraction": 0.1, "max_rows": 4, "top_k": 16},
    }
    return copy.deepcopy(tree)


@pytest.fixture
def make_job(job_tree: dict[str, Any]) -> Callable[..., Any]:
    """The tiny job with some fields changed: `make_job({"loss.alpha": 0.5})`."""

    def make(changes: dict[str, Any] | None = None) -> Any:
        from raykd.config.job import Job

        tree = copy.deepcopy(job_tree)
        for path, value in (changes or {}).items():
            *sections, field = path.split(".")
            spot = tree
            for section in sections:
                spot = spot.setdefault(section, {})
            spot[field] = value
        return Job.model_validate(tree)

    return make


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a job's tree as a YAML file and return its path."""

    def write(tree: dict[str, Any], name: str = "job.yaml") -> Path:
        import yaml

        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def packed_rows(tiny_tokenizer: Any) -> Callable[..., Any]:
    """Rows of `schema.PREPARED`: `packed_rows([[5, 7], [3]])` is a row of two documents and one of
    one, tokens drawn from `seed`, each token but a document's first learned with chance `learned`.
    """

    def make(documents: list[list[int]], seed: int = 0, learned: float = 0.7) -> Any:
        import pyarrow as pa

        from raykd import schema

        draw = random.Random(seed)
        rows: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
        for lengths in documents:
            size = sum(lengths)
            rows["input_ids"].append([draw.randrange(5, len(tiny_tokenizer)) for _ in range(size)])
            rows["position_ids"].append([i for length in lengths for i in range(length)])
            rows["loss_mask"].append(
                [
                    int(i + 1 < length and draw.random() < learned)
                    for length in lengths
                    for i in range(length)
                ]
            )
        return pa.table(rows, schema=schema.PREPARED)

    return make


@pytest.fixture(scope="session")
def encoder_tokenizer() -> Any:
    """Whole words between [CLS] and [SEP], in pieces of at most four letters; 2 is [SEP]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = sorted({word[:4] for word in WORDS} | {f"##{word[4:]}" for word in WORDS if word[4:]})
    vocabulary = {piece: i for i, piece in enumerate([*special, *pieces, "[MASK]"])}
    machine = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    machine.pre_tokenizer = pre_tokenizers.Whitespace()
    machine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=machine,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def save_bert(encoder_tokenizer: Any) -> Callable[..., Path]:
    """Write a tiny BERT of two layers, without a head, and its tokenizer; return the directory."""

    def save(directory: Path, seed: int = 0, **fields: Any) -> Path:
        from transformers import BertConfig, BertModel

        torch.manual_seed(seed)
        settings: dict[str, Any] = {
            "vocab_size": len(encoder_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            **fields,
        }
        BertModel(BertConfig(**settings)).save_pretrained(directory)
        encoder_tokenizer.save_pretrained(directory)
        return directory

    return save


@pytest.fixture(scope="session")
def _first_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """DeepSpeed remembers the first process group that it met: a process has one for all tests."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def group_of_one(_first_group: None) -> Iterator[None]:
    """A process group of this process alone, as a student's rank finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # DeepSpeed wants it from a launcher
        yield
