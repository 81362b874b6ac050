"""What the teacher's output must satisfy before anything is made of it.

Shapes: T tokens, V vocabulary ids.
"""

from __future__ import annotations

from typing import Final

import torch

from raykd.errors import SoftTargetError

# Elements of one float32 block. On a CPU the passes over it then stay in the cache, which halves
# their time; a GPU wants few launches, and the caller's chunk is what bounds its memory.
BLOCK_ELEMENTS: Final = {"cpu": 2**19}
_BLOCK_ELEMENTS_GPU: Final = 2**27


class TokenError(SoftTargetError):
    """A token's logits, hidden state or label cannot become soft targets.

    Attributes:
        token: Index of the first such token among those that were given.
        complaint: What is wrong with it.
    """

    def __init__(self, token: int, complaint: str) -> None:
        super().__init__(f"token {token}: {complaint}")
        self.token = token
        self.complaint = complaint


def block_tokens(vocab_size: int, device: torch.device) -> int:
    """Tokens whose float32 logits make one block."""
    return max(1, BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_GPU) // vocab_size)


def check_labels(logits_TV: torch.Tensor, label_ids_T: torch.Tensor) -> None:
    """Raise unless there is one label a token, each an id of the vocabulary.

    Raises:
        ValueError: The numbers of tokens differ.
        TokenError: A label lies outside the vocabulary.
    """
    if label_ids_T.shape != logits_TV.shape[:1]:
        raise ValueError(
            f"one label a token: logits are {tuple(logits_TV.shape)}, labels "
            f"{tuple(label_ids_T.shape)}"
        )
    vocab_size = logits_TV.shape[1]
    outside_T = (label_ids_T < 0) | (label_ids_T >= vocab_size)
    if outside_T.any():
        token = first_true(outside_T)
        raise TokenError(
            token,
            f"its label is id {int(label_ids_T[token])}, outside the teacher's vocabulary of "
            f"{vocab_size} ids; is the text tokenized with the teacher's tokenizer?",
        )


def check_finite(measure_T: torch.Tensor, what: str = "logits") -> None:
    """Raise if a token's output is not a distribution, or not numbers.

    Args:
        measure_T: Finite if and only if all is well; for logits, the log normaliser of the logits
            less their maximum.
        what: Of which the message speaks.

    Raises:
        TokenError: Names the first such token.
    """
    bad_T = ~measure_T.isfinite()
    if bad_T.any():
        raise TokenError(
            first_true(bad_T),
            f"the teacher's {what} hold NaN, +inf or nothing finite, as do those of "
            f"{int(bad_T.sum())} of these {len(bad_T)} tokens; try `teacher.dtype: fp32`, or check "
            "the teacher's weights",
        )


def first_true(flags_T: torch.Tensor) -> int:
    """Index of the first true one."""
    return int(flags_T.int().argmax())
