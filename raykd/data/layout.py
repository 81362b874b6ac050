"""How places of the run are laid into blocks, so that dealing blocks in turn feeds every rank.

Step s consumes places [s*G, (s+1)*G), rank r of W its r-th equal part. A block holds one rank's
places of a few steps; block j goes to rank j mod W.

Where blocks end does not depend on where a run begins: it is at every `steps_per_block`-th step of
the whole run. A run that goes on inside a block has the teacher score that block whole and passes
on what is left of it, so that rows meet the teacher in the same company as they would have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BlockLayout:
    """Blocks of the steps [first_step, last_step).

    Attributes:
        first_step: The first step to run.
        last_step: The step to stop before.
        global_batch: Rows of a step, G.
        num_ranks: Ranks, W; they share G equally.
        steps_per_block: Steps whose rows a block holds; the first and the last round of blocks may
            hold fewer.
    """

    first_step: int
    last_step: int
    global_batch: int
    num_ranks: int
    steps_per_block: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: They describe no layout.
        """
        if not 0 <= self.first_step <= self.last_step:
            raise ValueError(f"steps [{self.first_step}, {self.last_step}) are no range")
        if self.global_batch < 1 or self.num_ranks < 1 or self.steps_per_block < 1:
            raise ValueError(
                "global_batch, num_ranks and steps_per_block must be positive; found "
                f"{self.global_batch}, {self.num_ranks} and {self.steps_per_block}"
            )
        if self.global_batch % self.num_ranks:
            raise ValueError(
                f"global_batch ({self.global_batch}) is not a multiple of num_ranks "
                f"({self.num_ranks})"
            )

    @property
    def num_steps(self) -> int:
        """Steps to run."""
        return self.last_step - self.first_step

    @property
    def rows_per_rank(self) -> int:
        """Rows of one step on one rank."""
        return self.global_batch // self.num_ranks

    @property
    def num_blocks(self) -> int:
        """Blocks in all; every rank gets as many."""
        if not self.num_steps:
            return 0
        last_round = (self.last_step - 1) // self.steps_per_block
        return (last_round - self._first_round + 1) * self.num_ranks

    @property
    def _first_round(self) -> int:
        return self.first_step // self.steps_per_block

    def rank_of(self, block: int) -> int:
        """The rank that block goes to.

        Raises:
            ValueError: There is no such block.
        """
        self._check_block(block)
        return block % self.num_ranks

    def steps_of(self, block: int) -> range:
        """The steps whose rows the block holds.

        Raises:
            ValueError: There is no such block.
        """
        whole = self.whole_steps_of(block)
        return range(max(whole.start, self.first_step), whole.stop)

    def whole_steps_of(self, block: int) -> range:
        """The same, and the steps of that block that were done before this layout begins.

        Raises:
            ValueError: There is no such block.
        """
        self._check_block(block)
        start = self.steps_per_block * (self._first_round + block // self.num_ranks)
        return range(start, min(start + self.steps_per_block, self.last_step))

    def places(self, block: int) -> npt.NDArray[np.int64]:
        """The places of the run in the block, ascending, step after step.

        Raises:
            ValueError: There is no such block.
        """
        return self._places(block, self.steps_of(block))

    def whole_places(self, block: int) -> npt.NDArray[np.int64]:
        """The same, after those of its steps that were done before; what the teacher scores.

        Raises:
            ValueError: There is no such block.
        """
        return self._places(block, self.whole_steps_of(block))

    def _places(self, block: int, steps: range) -> npt.NDArray[np.int64]:
        rank = self.rank_of(block)
        return np.concatenate([self._part(rank, step) for step in steps])

    def rank_places(self, rank: int, step: int) -> npt.NDArray[np.int64]:
        """The places that `rank` consumes in `step`.

        Raises:
            ValueError: There is no such rank or step.
        """
        if not 0 <= rank < self.num_ranks:
            raise ValueError(f"rank {rank} is not in [0, {self.num_ranks})")
        if not self.first_step <= step < self.last_step:
            raise ValueError(f"step {step} is not in [{self.first_step}, {self.last_step})")
        return self._part(rank, step)

    def _part(self, rank: int, step: int) -> npt.NDArray[np.int64]:
        start = step * self.global_batch + rank * self.rows_per_rank
        return np.arange(start, start + self.rows_per_rank, dtype=np.int64)

    def _check_block(self, block: int) -> None:
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block {block} is not in [0, {self.num_blocks})")
