"""The student's first weights: existing ones, fresh ones, or ones cut from the teacher."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raykd.config.student import FromConfig, FromTeacher
from raykd.errors import ModelError
from raykd.models.load import ModelSource, load_config, load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FUSED = re.compile(r"qkv|c_attn|query_key_value|gate_up|Wqkv")


def write_student(
    init: FromConfig | FromTeacher, teacher: ModelSource, seed: int, directory: Path
) -> ModelSource:
    """Write a new student beside the teacher's tokenizer; leave it if it is there already."""
    if not directory.is_dir():
        aside = directory.with_name(directory.name + ".aside")
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(init, FromTeacher):
            model = cut_from_teacher(init, load_model(teacher, "fp32", "teacher"))
            original = load_config(teacher, "teacher").dtype
            model = model.to(original or torch.float32)  # type: ignore[arg-type]
        else:
            model = fresh(init, seed)
        model.save_pretrained(aside)
        load_tokenizer(teacher, "teacher").save_pretrained(aside)
        aside.rename(directory)
    return ModelSource(str(directory.resolve()))


def fresh(init: FromConfig, seed: int) -> PreTrainedModel:
    """A model with random weights that depend on `seed` alone."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        student_config(init, None), dtype=torch.float32
    )
    return model


def student_config(init: FromConfig | FromTeacher, teacher_config: Any) -> Any:
    """The student's configuration, checked.

    Raises:
        ModelError: A field that the architecture does not have, or a cut that cannot be made.
    """
    if isinstance(init, FromTeacher):
        return cut_config(init, teacher_config)
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = config_from_fields(init.config)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"student.init.config: {config.model_type} is not a causal language model")
    return config


def config_from_fields(fields: dict[str, Any]) -> Any:
    """The configuration that a job's mapping means.

    Raises:
        ModelError: `model_type` is missing or unknown, or it has no such field.
    """
    from transformers import AutoConfig

    fields = dict(fields)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise ModelError("student.init.config: `model_type` is missing, for instance `llama`")
    try:
        config = AutoConfig.for_model(model_type)
    except ValueError:
        raise ModelError(
            f"student.init.config: transformers knows no model_type {model_type!r}"
        ) from None
    unknown = [name for name in fields if not hasattr(config, name)]
    if unknown:
        raise ModelError(
            f"student.init.config: a {model_type} configuration has no {', '.join(unknown)}"
        )
    return _validated(lambda: AutoConfig.for_model(model_type, **fields), "student.init.config")


def _validated(make: Callable[[], Any], field: str) -> Any:
    """What transformers says of a configuration, as an error of the field that it came from."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return make()
    except StrictDataclassError as error:
        told = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"{field}: {told[-1]}") from None


def chosen_layers(layers: int | list[int], num_teacher_layers: int) -> list[int]:
    """Indices of the teacher's layers to keep; a number spreads them, first and last included."""
    if isinstance(layers, int):
        if not 1 <= layers <= num_teacher_layers:
            raise ModelError(
                f"student.init.layers: {layers} of the teacher's {num_teacher_layers} layers; "
                f"choose 1 to {num_teacher_layers}"
            )
        if layers == 1:
            return [0]
        last = num_teacher_layers - 1
        return [round(i * last / (layers - 1)) for i in range(layers)]
    wrong = [i for i in layers if not 0 <= i < num_teacher_layers]
    if wrong or not layers or sorted(set(layers)) != layers:
        raise ModelError(
            f"student.init.layers: {layers}: give ascending indices from 0 to "
            f"{num_teacher_layers - 1}, each once"
        )
    return layers


def cut_config(init: FromTeacher, teacher: Any) -> Any:
    """The configuration of a student cut from the teacher.

    Raises:
        ModelError: The teacher has no such layers or sizes.
    """
    num_layers = teacher.num_hidden_layers
    layers = chosen_layers(init.layers, num_layers)
    config = copy.deepcopy(teacher)
    for name, value in teacher.to_dict().items():
        if "layer" in name and isinstance(value, list) and len(value) == num_layers:
            setattr(config, name, [value[i] for i in layers])
    config.num_hidden_layers = len(layers)
    _keep_head_dim(init, teacher, config)
    for name, width in init.widths.items():
        largest = getattr(teacher, name, None)
        if not isinstance(largest, int) or not 1 <= width <= largest:
            raise ModelError(
                f"student.init.widths.{name}: {width}; the teacher has "
                f"{largest if largest is not None else 'no such size'}; choose 1 to that"
            )
        setattr(config, name, width)
    # What transformers would refuse to open must not be written.
    return _validated(lambda: type(config).from_dict(config.to_dict()), "student.init.widths")


def _keep_head_dim(init: FromTeacher, teacher: Any, config: Any) -> None:
    """Heads keep their size and their grouping; only their number may fall."""
    if not init.widths:
        return
    heads, groups = teacher.num_attention_heads, getattr(teacher, "num_key_value_heads", None)
    config.head_dim = getattr(teacher, "head_dim", None) or teacher.hidden_size // heads
    if groups is not None:
        new_heads = init.widths.get("num_attention_heads", heads)
        new_groups = init.widths.get("num_key_value_heads", groups)
        if new_heads * groups != new_groups * heads:
            raise ModelError(
                f"student.init.widths: {new_heads} heads over {new_groups} key-value heads; the "
                f"teacher's grouping is {heads} over {groups}: keep that ratio"
            )


def cut_from_teacher(
    init: FromTeacher,
    teacher: PreTrainedModel,
    build: Callable[[Any], PreTrainedModel] | None = None,
) -> PreTrainedModel:
    """The smaller model, its weights the teacher's: chosen layers, leading rows and columns.

    Args:
        init: What is kept.
        teacher: In fp32.
        build: From a configuration to a model of the teacher's kind; None makes causal models.

    Source: layer choice as in DistilBERT (arXiv 1910.01108, section 3).
    """
    config = cut_config(init, teacher.config)
    try:
        student = (build or _causal_lm)(config)
    except ValueError as error:
        raise ModelError(f"student.init.widths: {error}") from None
    _check_head_size(student, teacher)
    layers = chosen_layers(init.layers, teacher.config.num_hidden_layers)
    stack = _layer_stack(teacher)
    weights = teacher.state_dict()
    cut = {}
    for name, parameter in student.state_dict().items():
        source = weights.get(_teacher_name(name, stack, layers))
        if source is None:
            raise ModelError(
                f"student.init.widths: with these sizes the student has {name}, which the teacher "
                "does not have; cut other sizes, or layers only"
            )
        if source.shape != parameter.shape and FUSED.search(name):
            raise ModelError(
                f"student.init.widths: {name} holds several projections in one matrix; leading "
                "rows of it are not a smaller layer. Cut layers only"
            )
        cut[name] = source[tuple(slice(0, size) for size in parameter.shape)].clone()
    student.load_state_dict(cut)
    if (generation := getattr(teacher, "generation_config", None)) is not None:
        student.generation_config = copy.deepcopy(generation)
    return student


def _causal_lm(config: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def _check_head_size(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Some architectures have no `head_dim` to set and would make every head narrower."""
    before, after = (
        {
            getattr(m, name, None)
            for name in ("head_dim", "attention_head_size")
            for m in x.modules()
        }
        for x in (teacher, student)
    )
    if before != after:
        raise ModelError(
            f"student.init.widths: a {teacher.config.model_type} model takes the size of its heads "
            "from the hidden size; cut hidden size and number of heads alike, or layers only"
        )


def _layer_stack(model: PreTrainedModel) -> str:
    """Name of the list of layers, such as `model.layers`."""
    want = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == want:
            return str(name)
    raise ModelError(f"teacher: {type(model).__name__} has no list of {want} layers to cut")


def _teacher_name(name: str, stack: str, layers: list[int]) -> str:
    if not name.startswith(stack + "."):
        return name
    index, _, rest = name.removeprefix(stack + ".").partition(".")
    return f"{stack}.{layers[int(index)]}.{rest}"
