"""The student's head in chunks of tokens: raw logits out, gradients in.

Shapes: T tokens, C tokens of one chunk, D hidden size, V vocabulary ids, P rows of the head's
weight (V and padding).
"""

from __future__ import annotations

from typing import Final

import torch

_FEWEST_TOKENS: Final = 64  # of a chunk; below it matrix products run at half their speed
_PARTS: Final = 8
_CHUNK_BYTES: Final = {"cpu": 128 * 2**20}
_CHUNK_BYTES_GPU: Final = 512 * 2**20


def chunk_size_tokens(
    num_tokens: int, weight_PD: torch.Tensor, vocab_size: int, num_buffers: int
) -> int:
    """Return how many tokens' logits are held at once.

    Enough for fast products, yet no more than an eighth of the tokens, half the bytes of the
    weight, and a fixed number of bytes: the gradient of the weight, which must be there anyway,
    stays the greater part of the memory.

    Args:
        num_tokens: T.
        weight_PD: Its dtype, device and width count.
        vocab_size: V.
        num_buffers: [C, V] buffers in use: 2 where the teacher's logits are made too.
    """
    limit_bytes = _CHUNK_BYTES.get(weight_PD.device.type, _CHUNK_BYTES_GPU)
    by_bytes = limit_bytes // (vocab_size * weight_PD.element_size())
    by_weight = weight_PD.shape[1] // 2
    most = min(by_bytes, by_weight) // num_buffers
    return max(1, min(max(most, _FEWEST_TOKENS), max(num_tokens // _PARTS, _FEWEST_TOKENS)))


def project(
    hidden_CD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    out_CV: torch.Tensor,
) -> None:
    """Write hidden weight^T + bias into `out_CV`."""
    if bias_V is None:
        torch.mm(hidden_CD, weight_VD.T, out=out_CV)
    else:
        torch.addmm(bias_V, hidden_CD, weight_VD.T, out=out_CV)


class HeadGradients:
    """Gradients of hidden states, weight and bias, each in one buffer from the first chunk on."""

    def __init__(
        self,
        hidden_TD: torch.Tensor,
        weight_PD: torch.Tensor,
        bias_P: torch.Tensor | None,
        wanted: tuple[bool, bool, bool],
        vocab_size: int,
    ) -> None:
        """Make the buffers of those `wanted`: hidden states, weight, bias."""
        self._hidden_TD, self._weight_VD = hidden_TD, weight_PD[:vocab_size]
        self._vocab_size = vocab_size
        self._empty = True
        self.hidden_TD = hidden_TD.new_empty(hidden_TD.shape) if wanted[0] else None
        self.weight_PD = weight_PD.new_empty(weight_PD.shape) if wanted[1] else None
        self.bias_P: torch.Tensor | None = None
        if bias_P is not None and wanted[2]:
            # Small, so its many sums are kept in float32 however narrow the bias is.
            self.bias_P = torch.zeros_like(
                bias_P, dtype=torch.promote_types(bias_P.dtype, torch.float32)
            )
        if self.weight_PD is not None:
            self.weight_PD[0 if len(hidden_TD) == 0 else vocab_size :].zero_()

    def add(self, rows: slice, d_CV: torch.Tensor) -> None:
        """Take in the gradient by the raw logits of some tokens.

        A narrow weight's buffer is rounded once a chunk: in bf16 that adds a relative error of
        about 0.1 % times the square root of their number (0.4 % seen with 8, 1.2 % with 128).
        """
        if self.hidden_TD is not None:
            torch.mm(d_CV, self._weight_VD, out=self.hidden_TD[rows])
        if self.weight_PD is not None:
            # Straight into the buffer: no temporary, no cast, no copy. beta 0 does not read it.
            beta = 0.0 if self._empty else 1.0
            self.weight_PD[: self._vocab_size].addmm_(d_CV.T, self._hidden_TD[rows], beta=beta)
        if self.bias_P is not None:
            self.bias_P[: self._vocab_size] += d_CV.sum(0, dtype=self.bias_P.dtype)
        self._empty = False

    def hand_out(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients of hidden states, weight and bias, None for those not wanted."""
        bias_P = None if self.bias_P is None else self.bias_P.to(self._weight_VD.dtype)
        return self.hidden_TD, self.weight_PD, bias_P
