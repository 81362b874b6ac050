"""Encoders with a head for a task: loading them, and what they put out at learned positions.

B rows, T tokens of the longest, M learned positions, H hidden size, C outputs (labels, 1 for a
number, H for an embedding, the vocabulary's ids for a masked token).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from raykd.config.classifier import Pooling, Task
from raykd.config.model import Dtype
from raykd.errors import ModelError
from raykd.models.batch import Batch
from raykd.models.load import ModelSource, load_config, torch_dtype
from raykd.models.masking import Masking, masked_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBLEMS: Final = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What `transformers` calls a task in a model's configuration."""

FROM_SECOND_POSITION: Final = (
    *("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm"),
    *("mpnet", "longformer", "xmod", "ibert", "luke"),
)
"""Model types whose first position id is the padding id and one: two positions are no text's."""


Projection = Callable[[torch.Tensor], torch.Tensor]
"""Vectors [M, H] to vectors of another width."""


@dataclass(frozen=True)
class EncoderSpec:
    """What is asked of a model; the same of teacher and student.

    Attributes:
        task: The task.
        labels: Names of its labels, in the order of the outputs.
        sep_token_id: Of the tokenizer: what stands between two texts.
        pooling: `embedding` only: how a text's vector is made of its tokens'.
        with_hidden: Whether the last hidden states at learned positions are wanted too.
        vector_width: Of the teacher's vectors, where such are compared; a student of another
            hidden size learns a matrix that brings its own to it. 0 where none are.
        masking: `masked` only: what stands in the place of masked tokens.
    """

    task: Task
    labels: tuple[str, ...]
    sep_token_id: int | None
    pooling: Pooling | None = None
    with_hidden: bool = False
    vector_width: int = 0
    masking: Masking | None = None

    @property
    def num_outputs(self) -> int:
        """C of a model with a head; an embedding's is its model's hidden size."""
        return len(self.labels) or 1


class EncoderOutputs(NamedTuple):
    """What a model puts out at the M learned positions of a batch; a tuple for ZeRO's hooks."""

    outputs_MC: torch.Tensor
    hidden_MH: torch.Tensor | None


def auto_class(task: Task) -> Any:
    """The class of `transformers` that builds models of a task."""
    from transformers import (
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    if task == "embedding":
        return AutoModel
    if task == "masked":
        return AutoModelForMaskedLM
    return (
        AutoModelForTokenClassification if task == "tokens" else AutoModelForSequenceClassification
    )


def encoder_config(source: ModelSource, field: str) -> Any:
    """A model's configuration, if it is an encoder's.

    Raises:
        ModelError: It is not.
    """
    config = load_config(source, field)
    require_encoder(config, field)
    return config


def require_encoder(config: Any, field: str) -> None:
    """Refuse a model that reads from left to right, or one of images, or of several stacks.

    Raises:
        ModelError: The model has no form that fills masked tokens in.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    kind = config.model_type
    classifies = kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    decodes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    if classifies and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes:
        return
    raise ModelError(
        f"{field}: {kind} is no encoder; `method: classifier` takes models such as bert, "
        "distilbert, roberta, electra, deberta-v2, mpnet or modernbert"
    )


def with_task(config: Any, spec: EncoderSpec) -> Any:
    """The configuration, told of the task: labels and how they are learned."""
    if spec.task in ("embedding", "masked"):
        return config
    names = spec.labels or ("LABEL_0",)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = PROBLEMS.get(spec.task)
    return config


def options_of(config: Any, task: Task) -> dict[str, Any]:
    """What a model of this architecture is built with: no pooler where nothing reads it."""
    if task != "embedding":
        return {}
    from transformers import AutoModel

    built: Any = AutoModel._model_mapping[type(config)]
    takes = inspect.signature(built).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def load_encoder(
    source: ModelSource, spec: EncoderSpec, dtype: Dtype, field: str
) -> PreTrainedModel:
    """Open a model that has its head.

    Args:
        source: Where it is.
        spec: The task.
        dtype: Of its weights.
        field: Name in the job, for messages.

    Raises:
        ModelError: It cannot be opened, or lacks weights: of its head, for instance.
    """
    model, missing = open_encoder(source, spec, dtype, field)
    if missing:
        raise ModelError(
            f"{field}: {source.path} lacks {', '.join(missing[:3])}: it was not trained for `task: "
            f"{spec.task}`. Fine-tune it first (a job with `teacher.engine: none`, `loss.alpha: 1`)"
        )
    return model


def open_encoder(
    source: ModelSource, spec: EncoderSpec, dtype: Dtype, field: str
) -> tuple[PreTrainedModel, list[str]]:
    """Open a model, with a fresh head where it has none that fits.

    The fresh weights are drawn from torch's own generator.

    Returns:
        The model, and the names of its fresh weights.

    Raises:
        ModelError: It cannot be opened.
    """
    from safetensors import SafetensorError

    config = with_task(encoder_config(source, field), spec)
    try:
        model, found = auto_class(spec.task).from_pretrained(
            source.path,
            config=config,
            dtype=torch_dtype(dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options_of(config, spec.task),
            **source.hub_arguments,
        )
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{field}: cannot load {source.path}: {told}") from error
    fresh = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    return model, sorted(fresh)


def encoder_outputs(
    model: Any, batch: Batch, spec: EncoderSpec, projection: Projection | None = None
) -> EncoderOutputs:
    """What a model puts out at learned positions.

    Padding is told by its position, 0, as `data.pack` writes it, and is not attended to.

    Args:
        model: Of `spec.task`.
        batch: Rows of one text each; of `masking.batch_of` for `masked`.
        spec: What is wanted.
        projection: Brings embeddings, or hidden states, to another width.
    """
    attention_BT = (batch.position_ids_BT > 0).long()
    attention_BT[:, 0] = 1
    given = {"input_ids": batch.input_ids_BT, "attention_mask": attention_BT}
    if (getattr(model.config, "type_vocab_size", 0) or 0) > 1 and spec.sep_token_id is not None:
        given["token_type_ids"] = second_text(batch.input_ids_BT, spec.sep_token_id)
    if spec.task == "embedding":
        states_BTH = model(**given).last_hidden_state
        row_M = batch.keep_M // batch.input_ids_BT.shape[1]
        vectors_MH = pooled(states_BTH, attention_BT, spec)[row_M]
        return EncoderOutputs(projection(vectors_MH) if projection else vectors_MH, None)
    if spec.masking is not None:
        vocab_size = spec.masking.vocab_size
        logits_MV, hidden_MH = masked_outputs(model, given, batch.keep_M, vocab_size)
        if not spec.with_hidden:
            return EncoderOutputs(logits_MV, None)
        return EncoderOutputs(logits_MV, projection(hidden_MH) if projection else hidden_MH)
    output = model(**given, output_hidden_states=spec.with_hidden)
    logits = output.logits
    if spec.task == "tokens":
        outputs_MC = logits.flatten(0, 1).index_select(0, batch.keep_M)
    else:
        outputs_MC = logits[batch.keep_M // batch.input_ids_BT.shape[1]]
    if not spec.with_hidden:
        return EncoderOutputs(outputs_MC, None)
    hidden_MH = output.hidden_states[-1].flatten(0, 1).index_select(0, batch.keep_M)
    return EncoderOutputs(outputs_MC, projection(hidden_MH) if projection else hidden_MH)


def second_text(input_ids_BT: torch.Tensor, sep_token_id: int) -> torch.Tensor:
    """Token types [B, T]: 0 up to the first separator, 1 behind it.

    One text alone ends with its separator: only padding, which nobody reads, comes behind it.
    """
    ends_BT = (input_ids_BT == sep_token_id).long()
    return (ends_BT.cumsum(1) - ends_BT).clamp(max=1)


def pooled(states_BTH: torch.Tensor, attention_BT: torch.Tensor, spec: EncoderSpec) -> torch.Tensor:
    """One vector a row [B, H]: the first token's, or the mean of all true ones."""
    if spec.pooling == "cls":
        return states_BTH[:, 0]
    weights_BT1 = attention_BT[..., None].to(states_BTH.dtype)
    mean_BH: torch.Tensor = (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1)
    return mean_BH
