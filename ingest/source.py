"""What a source of prices is to the jobs. A second source is one class with these methods and a clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from statistics import median_low
from typing import Protocol

from db import times

HEARD_WITHIN_S = 50.0
"""How long the exchange's clock is believed to go on without a new answer. Less than a minute: one wrong answer is forgotten
before the next collect."""

PLAUSIBLE_WITHIN_S = 86_400
AHEAD_S = 2.0
"""By how much an answer may be ahead of the local clock, and of what other answers say."""
BEHIND_S = 60.0
"""By how much an answer may be behind both: no call takes that long."""
OTHERS_WITHIN_S = 90.0
"""How old an answer may be to be held against another one."""
AGREE_WITHIN_S = 3_600
"""How far apart clocks may be that agree enough for something to be deleted or to expire."""


def agreed(*clocks: float | None) -> int | None:
    """The earliest of the clocks, UNIX seconds, where all of them are known and agree; else None."""
    known = [clock for clock in clocks if clock is not None]
    if len(known) < len(clocks) or max(known) - min(known) > AGREE_WITHIN_S:
        return None
    return int(min(known))


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
    """The exchange's clock as its answers show it, carried on by a monotonic one in between.

    Three other clocks judge what it says: the local one, that of the message, and the database's where it was heard.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._heard: tuple[float, float] | None = None
        self._answers: dict[str, tuple[float, float]] = {}
        self._database: tuple[float, float] | None = None
        self.skew_s: float | None = None
        """Local clock minus exchange's clock, in seconds; None: never measured."""
        self.uncertainty_s = 0.0
        """By how much `skew_s` may be wrong: half the call's duration."""

    @property
    def was_heard(self) -> bool:
        """Whether the exchange ever told its time."""
        return self._heard is not None

    def hear(self, said_at: int, asked_at: int, answered_at: int, about: str = "") -> None:
        """Takes in an answer: the exchange's instant, the local ones before and after; microseconds. `about`: whose it is.

        An answer that is ahead of the local clock and of the answers about others, or behind both, changes nothing.
        """
        said_s, local_s = said_at / 1e6, answered_at / 1e6
        is_apart = self.is_ahead(said_s, local_s, about) or self._is_behind(said_s, local_s, about)
        self._answers[about] = (said_s, self._monotonic())
        if is_apart:
            return
        self._heard = (said_s, self._monotonic())
        self.skew_s = ((asked_at + answered_at) / 2 - said_at) / 1e6
        self.uncertainty_s = (answered_at - asked_at) / 2e6

    def hear_database(self, now: float) -> None:
        """Takes in what the database's clock says, UNIX seconds."""
        self._database = (now, self._monotonic())

    @property
    def database_now(self) -> float | None:
        """UNIX seconds by the database's clock; None where it was never heard."""
        return None if self._database is None else self._database[0] + self._monotonic() - self._database[1]

    def others(self, about: str) -> float | None:
        """UNIX seconds now by the latest answers about others (their median); None where there are none."""
        now = self._monotonic()
        said = [
            said_at + now - heard_at
            for other, (said_at, heard_at) in self._answers.items()
            if other != about and now - heard_at <= OTHERS_WITHIN_S
        ]
        return median_low(said) if said else None

    def is_ahead(self, said_at: float, local: float, about: str) -> bool:
        """Whether an instant is ahead of the local clock and of what the answers about others say."""
        others = self.others(about)
        return said_at > local + AHEAD_S and others is not None and said_at > others + AHEAD_S

    def _is_behind(self, said_at: float, local: float, about: str) -> bool:
        others = self.others(about)
        return said_at < local - BEHIND_S and others is not None and said_at < others - BEHIND_S

    def is_plausible(self, said_at: float, near: float, local: float) -> bool:
        """Whether an instant can be the exchange's: it is within a day of where it should be near, or of another clock."""
        clocks = (near, local, self.database_now)
        return min(abs(said_at - clock) for clock in clocks if clock is not None) <= PLAUSIBLE_WITHIN_S

    def now(self, near: int, *, within_s: float = HEARD_WITHIN_S) -> float | None:
        """UNIX seconds; None where nothing was heard within so long, or nothing plausible by the instant it should be near."""
        if self._heard is None or self.skew_s is None:
            return None
        said_at, heard_at = self._heard
        passed_s = self._monotonic() - heard_at
        if passed_s > within_s or not self.is_plausible(said_at, near, said_at + self.skew_s):
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
