"""What a source of prices is to the jobs. A second source is one class with these methods and a clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from db import times

HEARD_WITHIN_S = 50.0
"""How long the exchange's clock is believed to go on without a new answer. Less than a minute: one wrong answer is forgotten
before the next collect."""


PLAUSIBLE_WITHIN_S = 86_400


def plausible(said_at: float, near: float, local: float) -> bool:
    """Whether an instant can be the exchange's: far from where it should be near and from the local clock, too, it cannot."""
    return min(abs(said_at - near), abs(said_at - local)) <= PLAUSIBLE_WITHIN_S


@dataclass(frozen=True, slots=True)
class Quote:
    """A price as it was said."""

    ticker: str
    price: Decimal
    observed_at: int | None
    """When the exchange said it, by its own clock, in microseconds; None where it did not tell."""
    asked_at: int
    """When the request left, by the local clock, in microseconds."""
    answered_at: int
    """When the answer was there, by the local clock, in microseconds."""


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """An average price of the exchange's own chart."""

    at: int
    """UNIX milliseconds."""
    price: Decimal


class ExchangeClock:
    """The exchange's clock as its answers show it, carried on by a monotonic one in between."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._heard: tuple[float, float] | None = None
        self.skew_s: float | None = None
        """Local clock minus exchange's clock, in seconds; None: never measured."""
        self.uncertainty_s = 0.0
        """By how much `skew_s` may be wrong: half the call's duration."""

    def hear(self, said_at: int, asked_at: int, answered_at: int) -> None:
        """Takes in an answer: the exchange's instant, the local ones before and after; microseconds."""
        self._heard = (said_at / 1e6, self._monotonic())
        self.skew_s = ((asked_at + answered_at) / 2 - said_at) / 1e6
        self.uncertainty_s = (answered_at - asked_at) / 2e6

    def now(self, near: int, *, within_s: float = HEARD_WITHIN_S) -> float | None:
        """UNIX seconds; None where nothing was heard within so long, or nothing plausible by the instant it should be near."""
        if self._heard is None or self.skew_s is None:
            return None
        said_at, heard_at = self._heard
        passed_s = self._monotonic() - heard_at
        if passed_s > within_s or not plausible(said_at, near, said_at + self.skew_s):
            return None
        return said_at + passed_s

    def has_passed(self, minute: int, *, within_s: float = HEARD_WITHIN_S) -> bool:
        """Whether the minute is known to be over, by this clock and by the local one.

        Where the local clock is behind, its present minute is over by this one, and yet must be used to ask.
        """
        now = self.now(minute, within_s=within_s)
        return now is not None and self.skew_s is not None and min(now, now + self.skew_s) >= minute + times.MINUTE


class Source(Protocol):
    """An exchange, or whatever else knows prices. Each method raises a SourceError of its kind where it cannot answer."""

    @property
    def clock(self) -> ExchangeClock:
        """What the answers so far told about its clock."""
        ...

    async def price(self, ticker: str) -> Quote:
        """The ticker's price now."""
        ...

    def window(self, age_s: float) -> str:
        """The name of the finest chart that still reaches back so many seconds."""
        ...

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        """A chart up to now, ascending."""
        ...

    async def names(self) -> frozenset[str]:
        """The tickers that can be asked for."""
        ...
