"""What lies beside a sentence encoder: how its tokens' vectors become one.

The files are those of the `sentence-transformers` library, which opens what is written here.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raykd.config.classifier import Pooling
from raykd.config.model import Dtype
from raykd.errors import ModelError
from raykd.models.encoder import EncoderSpec, Projection
from raykd.models.load import ModelSource, torch_dtype

if TYPE_CHECKING:
    import torch

MODULES_FILE: Final = "modules.json"
POOLING_DIRECTORY: Final = "1_Pooling"
DENSE_DIRECTORY: Final = "2_Dense"
NORMALIZE: Final = "sentence_transformers.models.Normalize"
_POOLINGS: Final[dict[str, Pooling]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}


def pooling_of(source: ModelSource) -> Pooling | None:
    """How a sentence encoder pools; None where nothing beside its weights says so.

    Raises:
        ModelError: It pools in another way.
    """
    file = Path(source.path) / POOLING_DIRECTORY / "config.json"
    if not file.is_file():
        return None
    said = _json(file)
    chosen = [name for name, on in said.items() if name.startswith("pooling_mode_") and on is True]
    if len(chosen) == 1 and chosen[0] in _POOLINGS:
        return _POOLINGS[chosen[0]]
    raise ModelError(
        f"teacher.model: {file} pools by {', '.join(chosen) or 'nothing'}; known are "
        f"{', '.join(_POOLINGS)}: name one as `classifier.pooling`"
    )


def read_projection(source: ModelSource) -> torch.Tensor | None:
    """The matrix [out, in] that a sentence encoder's pooled vectors go through; None without one.

    Raises:
        ModelError: It is more than a matrix, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(source.path)
    found = [one for one in _modules(source) if str(one.get("type", "")).endswith(".Dense")]
    if not found:
        return None
    folder = directory / str(found[0]["path"])
    said = _json(folder / "config.json")
    plain = str(said.get("activation_function", "")).endswith("Identity")
    if len(found) > 1 or said.get("bias") or not plain:
        raise ModelError(
            f"teacher.model: {folder} is a dense layer with a bias or an activation; known is one "
            "plain matrix"
        )
    try:
        return load_file(folder / "model.safetensors")["linear.weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"teacher.model: {folder} cannot be read ({error})") from error


def projection_of(
    source: ModelSource, spec: EncoderSpec, dtype: Dtype, device: torch.device
) -> Projection | None:
    """What a model's embeddings go through; None where there is nothing, or no embedding."""
    from torch.nn.functional import linear

    weight = read_projection(source) if spec.task == "embedding" else None
    if weight is None:
        return None
    return partial(linear, weight=weight.to(device, torch_dtype(dtype)))


def write_pooling(
    directory: Path,
    teacher: ModelSource,
    pooling: Pooling,
    width: int,
    length_tokens: int,
    projection: torch.Tensor | None = None,
) -> None:
    """Write how texts become vectors; normalised where the teacher's are.

    Args:
        directory: Of the student's weights.
        teacher: Of whom it learned.
        pooling: Of the tokens' vectors.
        width: Of a token's vector.
        length_tokens: The longest text it learned from.
        projection: The matrix [out, in] behind the pooling, if there is one.
    """
    parts = [("", "Transformer"), (POOLING_DIRECTORY, "Pooling")]
    if projection is not None:
        parts.append((DENSE_DIRECTORY, "Dense"))
        _write_dense(directory / DENSE_DIRECTORY, projection)
    if any(one.get("type") == NORMALIZE for one in _modules(teacher)):
        parts.append((f"{len(parts)}_Normalize", "Normalize"))
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (path, kind) in enumerate(parts)
    ]
    modes = {name: pooling == one for name, one in _POOLINGS.items()}
    pool = {"word_embedding_dimension": width, **modes}
    (directory / POOLING_DIRECTORY).mkdir()
    _write(directory / POOLING_DIRECTORY / "config.json", pool)
    _write(directory / MODULES_FILE, modules)
    _write(
        directory / "sentence_bert_config.json",
        {"max_seq_length": length_tokens, "do_lower_case": False},
    )


def _write_dense(directory: Path, weight: torch.Tensor) -> None:
    from safetensors.torch import save_file

    directory.mkdir()
    said = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write(directory / "config.json", said)
    save_file({"linear.weight": weight.contiguous()}, directory / "model.safetensors")


def _modules(source: ModelSource) -> list[dict[str, Any]]:
    file = Path(source.path) / MODULES_FILE
    return list(_json(file)) if file.is_file() else []


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"teacher.model: {file} cannot be read ({error})") from error


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
