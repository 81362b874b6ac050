"""Where a model's configuration is found, its weights left alone: no torch, no download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raykd.config.job import Job
from raykd.config.model import ModelConfig
from raykd.config.of_slices import shared_models
from raykd.config.student import FromConfig, FromTeacher
from raykd.errors import JobError, ModelError
from raykd.package_paths import is_package_reference, resolve_package_path
from raykd.pipeline.at_hand import weights_at_hand
from raykd.planning.encoder_families import size_names
from raykd.planning.encoder_models import encoder_models, renamed_widths
from raykd.planning.families import KNOWN, shape_of
from raykd.planning.gguf_header import read_header
from raykd.planning.shape import ModelShape

_FROM_GGUF: Final = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "vocab_size": "vocab_size",
}
"""GGUF's names and those of `config.json`."""


@dataclass(frozen=True)
class Models:
    """Both models of a job, as shapes, and where each was read."""

    teacher: ModelShape
    student: ModelShape
    teacher_source: str
    student_source: str
    mixed_in: tuple[ModelShape, ...] = ()
    """What is averaged with the teacher."""
    of_slices: tuple[ModelShape, ...] = ()
    """What teaches slices of the data instead of the teacher."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits that both sides have."""
        return min(self.teacher.vocab_size, self.student.vocab_size)


def read_models(
    job: Job, teacher_config: Path | None = None, student_config: Path | None = None
) -> Models:
    """The shapes of a job's models.

    Args:
        job: The job.
        teacher_config: A `config.json` for the teacher, instead of the one that lies with it.
        student_config: The same for the student.

    Raises:
        ModelError: A configuration is not on this machine, or of a family that is not known.
    """
    # A teacher behind an endpoint has no shape here; nothing of it is planned.
    at_hand, field = weights_at_hand(job)
    teacher, teacher_source = _config(at_hand, field.partition(".")[0], teacher_config)
    init = job.student.init
    if student_config is not None or not isinstance(init, FromConfig | FromTeacher):
        model = None if isinstance(init, FromConfig | FromTeacher) else init
        student, student_source = _config(model, "student", student_config)
    elif isinstance(init, FromConfig):
        student, student_source = init.config, "student.init.config"
    else:
        student, student_source = _cut(teacher, init), f"cut from {teacher_source}"
    if job.classifier is not None:
        found = None if teacher_config else _directory(at_hand, "teacher.model", _hint("teacher"))
        shapes = encoder_models(job, teacher, student, found)
        return Models(*shapes, teacher_source, student_source)
    return Models(
        shape_of(teacher, "teacher.model"),
        shape_of(student, "student.init"),
        teacher_source,
        student_source,
        tuple(
            _shape_beside(one, f"teacher.mixed_in.{i}.model")
            for i, one in enumerate(job.teacher.mixed_in)
        ),
        tuple(
            _shape_beside(one.config, f"{one.field}.model")
            for one in shared_models(job.teacher.of_slices)
        ),
    )


def _shape_beside(model: ModelConfig, field: str) -> ModelShape:
    """The shape of a model that is there beside the teacher."""
    return shape_of(_config(model, "teacher", None, field)[0], field)


def _config(
    model: ModelConfig | None, side: str, given: Path | None, beside: str | None = None
) -> tuple[Mapping[str, Any], str]:
    """A configuration and where it was read; `beside` names a model that no option gives."""
    if given is not None:
        return _read_json(given, f"--{side}-config"), str(given)
    assert model is not None
    field = beside or ("teacher.model" if side == "teacher" else "student.init.model")
    hint = _hint(side) if beside is None else "have it on this machine"
    directory = _directory(model, field, hint)
    if directory is None:
        file = _cached(model, field, hint)
        return _read_json(file, field), f"{model.model} ({file})"
    if model.gguf_file is not None:
        return _from_gguf(directory / model.gguf_file, field), str(directory / model.gguf_file)
    if not (directory / "config.json").is_file():
        raise ModelError(f"{field}: {directory} has no config.json; {hint}")
    return _read_json(directory / "config.json", field), str(directory)


def _directory(model: ModelConfig, field: str, hint: str) -> Path | None:
    """Where the model lies on this machine; None where the hub has it."""
    if is_package_reference(model.model):
        return resolve_package_path(model.model, ModelError)
    directory = Path(model.model).expanduser()
    if directory.is_dir():
        return directory
    if model.model.startswith((".", "/", "~")) or model.model.count("/") > 1:
        raise ModelError(f"{field}: no directory {model.model!r} on this machine; {hint}")
    return None


def _cached(model: ModelConfig, field: str, hint: str) -> Path:
    """The hub's `config.json`, where an earlier download left it; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.model, "config.json", revision=model.revision)
    except HFValidationError as error:
        raise ModelError(f"{field}: {model.model!r} is no hub name: {error}") from None
    if not isinstance(found, str):
        raise ModelError(
            f"{field}: the configuration of {model.model} is not in this machine's hub cache, and "
            f"raykd plan downloads nothing; `hf download {model.model} config.json` fetches it, or "
            f"{hint}"
        )
    return Path(found)


def _hint(side: str) -> str:
    return f"give its config.json with --{side}-config FILE"


def _read_json(file: Path, field: str) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(f"{field}: no file {file}") from None
    except OSError as error:
        raise JobError(f"{field}: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise JobError(f"{field}: {file} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise JobError(f"{field}: {file} is no model configuration; found a {type(tree).__name__}")
    return tree


def _from_gguf(file: Path, field: str) -> dict[str, Any]:
    header = read_header(file, field)
    kind = str(header.metadata.get("general.architecture"))
    if kind not in KNOWN or kind == "gpt2":
        raise ModelError(
            f"{field}: raykd plan does not know the GGUF architecture {kind}; it knows "
            f"{', '.join(name for name in KNOWN if name != 'gpt2')}"
        )
    found: dict[str, Any] = {"model_type": kind}
    for theirs, ours in _FROM_GGUF.items():
        if (value := header.metadata.get(f"{kind}.{theirs}")) is not None:
            found[ours] = value
    found.setdefault("vocab_size", header.metadata.get("tokenizer.ggml.tokens"))
    # Without a head of its own the model uses its embedding.
    found["tie_word_embeddings"] = "output.weight" not in header.tensors
    return found


def _cut(teacher: Mapping[str, Any], init: FromTeacher) -> dict[str, Any]:
    """The student's configuration, as `models/init.py` cuts it; only sizes matter here."""
    cut = dict(teacher)
    names = _Names.of(teacher)
    most = _whole(teacher, names.layers)
    cut[names.layers] = init.layers if isinstance(init.layers, int) else len(init.layers)
    if not 1 <= cut[names.layers] <= most:
        raise ModelError(
            f"student.init.layers: {cut[names.layers]} of the teacher's {most} layers; choose 1 "
            f"to {most}"
        )
    if init.widths:
        heads, hidden = _whole(teacher, names.heads), _whole(teacher, names.hidden)
        cut["head_dim"] = teacher.get("head_dim") or hidden // heads
    for name, width in renamed_widths(teacher.get("model_type"), init.widths).items():
        largest = teacher.get(name)
        if type(largest) is not int or not 1 <= width <= largest:
            raise ModelError(
                f"student.init.widths.{name}: {width}; the teacher has "
                f"{largest if largest is not None else 'no such size'}"
            )
        cut[name] = width
    return cut


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ModelError(
            f"teacher.model: its configuration needs a whole number `{name}` of at least 1, for a "
            f"student is cut from it; found {value!r}"
        )
    return value


@dataclass(frozen=True)
class _Names:
    """Some families have names of their own."""

    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    hidden: str = "hidden_size"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Names:
        if config.get("model_type") == "gpt2":
            return cls("n_layer", "n_head", "n_embd")
        own = size_names(config.get("model_type"))
        return cls(*(own.get(name, name) for name in (cls.layers, cls.heads, cls.hidden)))
