"""What requests cost, and the cap that no request may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from raykd.config.endpoint import PriceConfig
from raykd.endpoint.request import Request
from raykd.errors import GenerationError

MILLION: Final = 1_000_000


class SpendCapError(GenerationError):
    """The next request could break the cap; nothing more is sent."""


class Spend:
    """Money spent and money that requests on their way may still cost.

    A request is sent only where what is spent, and the most that it and those on their way may
    cost, stay within the cap. Near the cap requests so go one after the other.
    """

    def __init__(
        self, price: PriceConfig | None, cap_usd: float | None, spent_usd: float = 0.0
    ) -> None:
        self._price, self._cap_usd = price, cap_usd
        self.spent_usd = spent_usd
        self._on_their_way, self._reserved_usd = 0, 0.0
        self._changed = asyncio.Condition()

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of tokens, by the job's prices; 0 where it gives none."""
        if self._price is None:
            return 0.0
        both = prompt_tokens * self._price.input + completion_tokens * self._price.output
        return both / MILLION

    def most_usd(self, request: Request) -> float:
        """The most that a request can cost."""
        return self.cost_usd(request.most_prompt_tokens, request.max_new_tokens)

    @asynccontextmanager
    async def reserved(self, request: Request) -> AsyncIterator[None]:
        """Hold the most that a request can cost, while the block sends it.

        Raises:
            SpendCapError: There is not so much left, and nothing on its way that could leave more.
        """
        most = self.most_usd(request)
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(most) or not self._on_their_way)
            if not self._fits(most):
                raise SpendCapError(self._told(most))
            self._on_their_way += 1
            self._reserved_usd += most
        try:
            yield
        finally:
            async with self._changed:
                self._on_their_way -= 1
                # What is left of a sum when all of it is taken away is rounding.
                self._reserved_usd = self._reserved_usd - most if self._on_their_way else 0.0
                self._changed.notify_all()

    def add(self, cost_usd: float) -> None:
        """What a request did cost."""
        self.spent_usd += cost_usd

    def _fits(self, most: float) -> bool:
        return self._cap_usd is None or self.spent_usd + self._reserved_usd + most <= self._cap_usd

    def _told(self, most: float) -> str:
        return (
            f"teacher.endpoint.max_cost_usd: {self._cap_usd:g} USD would be broken: "
            f"{self.spent_usd:.6f} USD are spent, and the next request may cost {most:.6f}. What "
            "is paid is kept. Go on with --resume and a higher cap: "
            f"--set teacher.endpoint.max_cost_usd={2 * (self._cap_usd or 0):g}"
        )
