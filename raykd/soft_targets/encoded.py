"""What the teacher sends: the values of each column, token after token.

Shapes: T tokens, W values a token (of a column), U ids drawn for a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

RAGGED_LENGTHS = "target_unique"
"""The column that says how many values each token has in the ragged columns."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Columns of T tokens, in the dtype of the wire, on the source's device.

    Attributes:
        columns: By name. A fixed column is [T, W]; a ragged one is flat, as many values a token as
            column `RAGGED_LENGTHS` says.
        ragged: Names of the ragged ones.
    """

    columns: dict[str, torch.Tensor]
    ragged: frozenset[str] = frozenset()

    @property
    def num_tokens(self) -> int:
        """T."""
        return next(len(c) for name, c in self.columns.items() if name not in self.ragged)

    def cpu(self) -> Encoded:
        """Return the same in the host's memory."""
        return Encoded({name: c.cpu() for name, c in self.columns.items()}, self.ragged)

    @classmethod
    def concatenate(cls, parts: Sequence[Encoded]) -> Encoded:
        """Join at least one part, token after token; all of one codec and one device."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return cls(
            {name: torch.cat([part.columns[name] for part in parts]) for name in first.columns},
            first.ragged,
        )

    def split(self, lengths_tokens: Sequence[int]) -> list[Encoded]:
        """Cut into consecutive parts, for instance one a row.

        Args:
            lengths_tokens: Tokens of each part; they add up to T.

        Returns:
            Views, one a length.
        """
        lengths = list(lengths_tokens)
        lengths_ragged = self._ragged_lengths(lengths) if self.ragged else []
        cut = {
            name: torch.split(c, lengths_ragged if name in self.ragged else lengths)
            for name, c in self.columns.items()
        }
        return [
            Encoded({name: pieces[at] for name, pieces in cut.items()}, self.ragged)
            for at in range(len(lengths))
        ]

    def _ragged_lengths(self, lengths_tokens: list[int]) -> list[int]:
        unique_T = self.columns[RAGGED_LENGTHS][:, 0].long()
        return [int(part.sum()) for part in torch.split(unique_T, lengths_tokens)]
