"""What each caller may spend, by the cost of what it asks for."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from graph.errors import RateLimitedError, TooComplexError

WINDOW_S: Final = 60
CALLERS_MOST: Final = 20_000
"""Remembered, those that spent last: the others begin anew."""


class Allowance:
    """So much a minute for each caller: spent at once or little by little, it comes back steadily.

    The generic cell rate algorithm: of a caller only the instant is kept at which all it spent will have come back.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._whole_at: LRUCache[str, float] = LRUCache(CALLERS_MOST)

    def spend(self, caller: str, cost: int, paid: int = 0) -> None:
        """Takes the cost but for what was `paid` of it before.

        Raises RateLimitedError where it is not there now, TooComplexError where it never is.
        """
        if cost > self.per_minute:
            raise TooComplexError(
                f"This costs {cost}, and a caller may spend {self.per_minute} a minute: ask for less at once",
                cost=cost,
                most=self.per_minute,
            )
        whole_in = self.whole_in_s(caller) + (cost - paid) * WINDOW_S / self.per_minute
        if whole_in > WINDOW_S:
            wait = math.ceil(whole_in - WINDOW_S)
            raise RateLimitedError(
                f"A caller may spend {self.per_minute} a minute, and this costs {cost}: come back in {wait} s", wait
            )
        self._whole_at[caller] = time.monotonic() + whole_in

    async def reserve(self, caller: str, cost: int) -> int:
        """Takes up to so much, as much as is there now; waits until that is something. How much it took."""
        while (found := min(cost, self.left(caller))) < 1:  # noqa: ASYNC110  it comes back by the clock
            await asyncio.sleep(max(0.05, self.whole_in_s(caller) - WINDOW_S + WINDOW_S / self.per_minute))
        self.spend(caller, found)
        return found

    def give_back(self, caller: str, cost: int) -> None:
        """For what was taken and not used."""
        whole_in = self.whole_in_s(caller) - cost * WINDOW_S / self.per_minute
        self._whole_at[caller] = time.monotonic() + max(0.0, whole_in)

    def left(self, caller: str) -> int:
        """What it may spend now."""
        return math.floor((1 - self.whole_in_s(caller) / WINDOW_S) * self.per_minute)

    def whole_in_s(self, caller: str) -> float:
        """Seconds until all it spent has come back."""
        return max(0.0, self._whole_at.get(caller, 0.0) - time.monotonic())


@dataclass(frozen=True)
class CallerBudget:
    """The allowance of one caller."""

    allowance: Allowance
    caller: str

    async def reserve(self, cost: int) -> int:
        """Like `Allowance.reserve`."""
        return await self.allowance.reserve(self.caller, cost)

    def give_back(self, cost: int) -> None:
        """Like `Allowance.give_back`."""
        self.allowance.give_back(self.caller, cost)
