"""From a model reference in a job to a directory, a tokenizer, a model."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config.model import Dtype, ModelConfig
from raykd.errors import ModelError
from raykd.package_paths import resolve_package_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


@dataclass(frozen=True)
class ModelSource:
    """A model that `from_pretrained` can open on any node: a directory, or a hub name."""

    path: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether the weights lie in a directory (else the hub has them)."""
        return Path(self.path).is_dir()

    @property
    def hub_arguments(self) -> dict[str, Any]:
        """What `from_pretrained` needs beside the path."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def locate(config: ModelConfig, field: str, cache: Path) -> ModelSource:
    """Find a model, converting a GGUF file to safetensors the first time.

    Args:
        config: The reference.
        field: Its name in the job, for messages.
        cache: Directory, seen by every node, for converted weights.

    Raises:
        ModelError: There is no such directory or package, or it holds no model.
    """
    path = config.model
    if path.startswith("package:"):
        path = str(resolve_package_path(path))
    directory = Path(path).expanduser()
    if config.gguf_file is not None:
        return ModelSource(str(_from_gguf(directory, config.gguf_file, field, cache)))
    if directory.is_dir():
        _check_directory(directory, field)
        return ModelSource(str(directory.resolve()), None, config.trust_remote_code)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ModelError(
            f"{field}.model: no directory {path!r}; give a directory with config.json and "
            "safetensors, a hub name (owner/name), or package:NAME"
        )
    return ModelSource(path, config.revision, config.trust_remote_code)


def _check_directory(directory: Path, field: str) -> None:
    if not (directory / "config.json").is_file():
        ggufs = sorted(p.name for p in directory.glob("*.gguf"))
        hint = f"; it has {ggufs[0]}: set {field}.gguf_file" if ggufs else ""
        raise ModelError(f"{field}.model: {directory} has no config.json{hint}")
    if not any(next(directory.glob(pattern), None) for pattern in WEIGHTS):
        raise ModelError(
            f"{field}.model: {directory} has a config.json but no weights; expected "
            "*.safetensors beside it"
        )


def _from_gguf(directory: Path, name: str, field: str, cache: Path) -> Path:
    file = directory / name
    if not file.is_file():
        raise ModelError(f"{field}.gguf_file: no file {file}")
    stat = file.stat()
    mark = hashlib.sha256(f"{name}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    converted = cache / f"{file.stem}-{mark}"
    if not converted.is_dir():
        aside = converted.with_name(converted.name + ".aside")
        shutil.rmtree(aside, ignore_errors=True)
        _convert_gguf(directory, name, aside)
        aside.rename(converted)
    return converted


def _convert_gguf(directory: Path, name: str, target: Path) -> None:
    """Dequantise into a bf16 safetensors directory (`save_pretrained` refuses a GGUF model)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32)
    tree = model.config.to_dict()
    tree.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(
        type(model.config).from_dict(tree), dtype=torch.bfloat16
    )
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(directory, gguf_file=name).save_pretrained(target)


def load_tokenizer(source: ModelSource, field: str) -> PreTrainedTokenizerBase:
    """Open the tokenizer that lies with a model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.path, **source.hub_arguments)
    except Exception as error:
        raise ModelError(f"{field}: no tokenizer at {source.path}: {_first_line(error)}") from error


def load_config(source: ModelSource, field: str) -> Any:
    """Open the model's configuration without its weights."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.path, **source.hub_arguments)
    except Exception as error:
        raise ModelError(
            f"{field}: no model configuration at {source.path}: {_first_line(error)}"
        ) from error


def load_model(source: ModelSource, dtype: Dtype, field: str, **arguments: Any) -> PreTrainedModel:
    """Open the weights.

    Args:
        source: Where they are.
        dtype: What they become.
        field: Name in the job, for messages.
        **arguments: Passed to `from_pretrained` as they are.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            source.path, dtype=torch_dtype(dtype), **source.hub_arguments, **arguments
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{field}: cannot load {source.path}: {_first_line(error)}") from error


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch dtype of a job's name for it."""
    import torch

    return {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
