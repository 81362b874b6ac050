"""Refusals: tensors that do not fit together, targets that cannot serve a loss."""

from __future__ import annotations

import torch

from raykd.losses.spec import LossSpec
from raykd.losses.targets import (
    BucketTargets,
    DenseTargets,
    HiddenTargets,
    SampledTargets,
    Targets,
)


def check_inputs(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_T: torch.Tensor,
    targets: Targets | None,
    spec: LossSpec,
    vocab_size: int,
    token_weights_T: torch.Tensor | None,
) -> None:
    """Compare shapes and dtypes, never values: reading those would stall a GPU.

    Raises:
        ValueError: What does not fit, and with what.
    """
    _check_head("weight_VD", weight_VD, bias_V, hidden_TD, vocab_size)
    num_tokens = len(hidden_TD)
    if hidden_TD.dtype != weight_VD.dtype:
        raise ValueError(f"hidden_TD is {hidden_TD.dtype}, weight_VD {weight_VD.dtype}")
    _check_count("labels_T", len(labels_T), num_tokens)
    if token_weights_T is not None:
        _check_count("token_weights_T", len(token_weights_T), num_tokens)
    if targets is None:
        if spec.alpha < 1.0:
            raise ValueError(f"alpha is {spec.alpha}: below 1 the loss needs the teacher's targets")
        return
    _check_count("targets", targets.num_tokens, num_tokens)
    match targets:
        case BucketTargets(ids_TK=ids_TK):
            if ids_TK.shape[1] > vocab_size:
                raise ValueError(
                    f"targets: {ids_TK.shape[1]} ids a token are kept of a vocabulary of "
                    f"{vocab_size}"
                )
        case SampledTargets():
            others = [name for name in spec.names if name != "forward_kl"]
            if others:
                raise ValueError(
                    f"divergences: sampled targets can serve forward_kl only; found "
                    f"{', '.join(others)}, for which top-k, hidden or full targets are needed"
                )
        case DenseTargets(logprobs_TV=logprobs_TV):
            if logprobs_TV.shape[1] != vocab_size:
                raise ValueError(
                    f"targets hold {logprobs_TV.shape[1]} ids a token, the vocabulary {vocab_size}"
                )
        case HiddenTargets(hidden_TD=teacher_TD, head=head):
            _check_head("the teacher's head", head.weight_VD, head.bias_V, teacher_TD, vocab_size)


def _check_head(
    name: str,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    hidden_TD: torch.Tensor,
    vocab_size: int,
) -> None:
    if weight_VD.dim() != 2 or hidden_TD.dim() != 2:
        raise ValueError(
            f"{name} and its hidden states must be matrices; found {tuple(weight_VD.shape)} and "
            f"{tuple(hidden_TD.shape)} (a weight that is partitioned must be gathered first)"
        )
    num_rows, width = weight_VD.shape
    if num_rows < vocab_size:
        raise ValueError(f"{name} has {num_rows} rows, the vocabulary {vocab_size} ids")
    if hidden_TD.shape[1] != width:
        raise ValueError(f"{name} takes {width} wide hidden states; found {hidden_TD.shape[1]}")
    if bias_V is not None and (len(bias_V) != num_rows or bias_V.dtype != weight_VD.dtype):
        raise ValueError(
            f"{name} has {num_rows} rows of {weight_VD.dtype}, its bias {len(bias_V)} of "
            f"{bias_V.dtype}"
        )


def _check_count(name: str, found: int, num_tokens: int) -> None:
    if found != num_tokens:
        raise ValueError(f"{name} holds {found} tokens, hidden_TD {num_tokens}")
