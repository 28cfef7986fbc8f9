"""Rate limit: each caller has a budget of query cost per minute."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from graph.errors import RateLimitedError, TooComplexError

WINDOW_S: Final = 60
MAX_CALLERS: Final = 20_000
"""Callers with a stored state. The least recently charged ones are evicted and start with a full budget."""


class CostBudget:
    """The cost that each caller may use per minute. The budget refills continuously.

    Implements the generic cell rate algorithm (GCRA): of each caller it stores only the time at which the budget is full again.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._reset_at: LRUCache[str, float] = LRUCache(MAX_CALLERS)

    def charge(self, caller: str, cost: int, already_charged: int = 0) -> None:
        """Charges the cost, less the part that was `already_charged`.

        Raises RateLimitedError if the remaining budget is too small, TooComplexError if the cost exceeds the whole budget.
        """
        if cost > self.per_minute:
            raise TooComplexError(
                f"The query costs {cost}, but the limit is {self.per_minute} per minute. Request less data at once.",
                cost=cost,
                most=self.per_minute,
            )
        reset_in_s = self.reset_after_s(caller) + (cost - already_charged) * WINDOW_S / self.per_minute
        if reset_in_s > WINDOW_S:
            wait = math.ceil(reset_in_s - WINDOW_S)
            raise RateLimitedError(
                f"Rate limit exceeded: limit {self.per_minute} per minute, query cost {cost}. Retry after {wait} s.", wait
            )
        self._reset_at[caller] = time.monotonic() + reset_in_s

    async def reserve(self, caller: str, cost: int) -> int:
        """Charges as much of the cost as the budget allows now, and returns that amount. Waits while the budget is empty."""
        while (granted := min(cost, self.remaining(caller))) < 1:  # noqa: ASYNC110  the budget refills by the clock
            await asyncio.sleep(max(0.05, self.reset_after_s(caller) - WINDOW_S + WINDOW_S / self.per_minute))
        self.charge(caller, granted)
        return granted

    def refund(self, caller: str, cost: int) -> None:
        """Gives back a charged cost that was not used."""
        reset_in_s = self.reset_after_s(caller) - cost * WINDOW_S / self.per_minute
        self._reset_at[caller] = time.monotonic() + max(0.0, reset_in_s)

    def remaining(self, caller: str) -> int:
        """Returns the cost that the caller may use now."""
        return math.floor((1 - self.reset_after_s(caller) / WINDOW_S) * self.per_minute)

    def reset_after_s(self, caller: str) -> float:
        """Returns the seconds until the budget of the caller is full again."""
        return max(0.0, self._reset_at.get(caller, 0.0) - time.monotonic())


@dataclass(frozen=True)
class CallerBudget:
    """The cost budget of one caller."""

    cost_budget: CostBudget
    caller: str

    async def reserve(self, cost: int) -> int:
        """See `CostBudget.reserve`."""
        return await self.cost_budget.reserve(self.caller, cost)

    def refund(self, cost: int) -> None:
        """See `CostBudget.refund`."""
        self.cost_budget.refund(self.caller, cost)
