"""The interface of a source of prices. A second source is one class with these methods and a clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from statistics import median_low
from typing import Protocol

from db import times

MAX_PLAUSIBLE_OFFSET_S = 86_400
MAX_AHEAD_S = 2.0
"""How far a response may be ahead of the local clock and of other responses."""
MAX_BEHIND_S = 60.0
"""How far a response may be behind the local clock and other responses. No call takes that long."""
MAX_COMPARISON_AGE_S = 90.0
"""Maximum age of a response that another one is compared with."""
MAX_CLOCK_DIFFERENCE_S = 3_600
"""Maximum difference of clocks that agree well enough to delete data or to begin a tracking period."""


def agree_on_time(*clocks: float | None) -> int | None:
    """Returns the earliest of the clocks in UNIX seconds; None if one is unknown or they disagree."""
    known = [clock for clock in clocks if clock is not None]
    if len(known) < len(clocks) or max(known) - min(known) > MAX_CLOCK_DIFFERENCE_S:
        return None
    return int(min(known))


@dataclass(frozen=True, slots=True)
class Quote:
    """A price as the source returned it."""

    ticker: str
    price: Decimal
    observed_at: int | None
    """When the exchange quoted it, by its own clock, in UNIX microseconds; None if the response has no time."""
    requested_at: int
    """When the request was sent, by the local clock, in UNIX microseconds."""
    received_at: int
    """When the response was received, by the local clock, in UNIX microseconds."""
    estimated_delivery_price: Decimal | None = None
    """The exchange's estimate of its next delivery price, if it differs from the price."""


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """An average price of the exchange's own chart."""

    at: int
    """UNIX milliseconds."""
    price: Decimal


class ExchangeClock:
    """The exchange's clock, measured by its responses and extrapolated by a monotonic clock.

    `observe` compares each measurement with the local clock and with those of other subjects. `now` compares the last one
    with the message's, the local and the database's clock.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last_accepted: tuple[float, float] | None = None
        self._last_by_subject: dict[str, tuple[float, float]] = {}
        self._database: tuple[float, float] | None = None
        self.skew_s: float | None = None
        """Local clock minus exchange's clock, in seconds; None: never measured."""
        self.uncertainty_s = 0.0
        """By how much `skew_s` may be wrong: half the call's duration."""

    @property
    def has_observation(self) -> bool:
        """Whether the exchange's clock was ever measured."""
        return self._last_accepted is not None

    def observe(self, exchange_us: int, requested_at: int, received_at: int, subject: str = "") -> None:
        """Adds a measurement: the exchange's time, and the local times before and after the call, in UNIX microseconds.

        `subject` is a ticker or method. A time ahead of the local clock and of other subjects, or behind both, does not change
        the clock; it is only compared with later measurements of other subjects.
        """
        exchange_s, local_s = exchange_us / 1e6, received_at / 1e6
        is_outlier = self.is_ahead(exchange_s, local_s, subject) or self._is_behind(exchange_s, local_s, subject)
        self._last_by_subject[subject] = (exchange_s, self._monotonic())
        if is_outlier:
            return
        self._last_accepted = (exchange_s, self._monotonic())
        self.skew_s = ((requested_at + received_at) / 2 - exchange_us) / 1e6
        self.uncertainty_s = (received_at - requested_at) / 2e6

    def observe_database(self, now: float) -> None:
        """Adds a measurement of the database's clock, in UNIX seconds."""
        self._database = (now, self._monotonic())

    @property
    def database_now(self) -> float | None:
        """UNIX seconds by the database's clock; None if it was never measured."""
        return None if self._database is None else self._database[0] + self._monotonic() - self._database[1]

    def other_subjects_now(self, subject: str) -> float | None:
        """Returns UNIX seconds by the latest measurements of other subjects (their median); None if there are none."""
        now = self._monotonic()
        estimates = [
            exchange_s + now - measured_at
            for name, (exchange_s, measured_at) in self._last_by_subject.items()
            if name != subject and now - measured_at <= MAX_COMPARISON_AGE_S
        ]
        return median_low(estimates) if estimates else None

    def is_ahead(self, exchange_s: float, local_s: float, subject: str) -> bool:
        """Returns whether an instant is ahead of the local clock and of the measurements of other subjects."""
        other_subjects_now = self.other_subjects_now(subject)
        return (
            exchange_s > local_s + MAX_AHEAD_S
            and other_subjects_now is not None
            and exchange_s > other_subjects_now + MAX_AHEAD_S
        )

    def _is_behind(self, exchange_s: float, local_s: float, subject: str) -> bool:
        other_subjects_now = self.other_subjects_now(subject)
        return (
            exchange_s < local_s - MAX_BEHIND_S
            and other_subjects_now is not None
            and exchange_s < other_subjects_now - MAX_BEHIND_S
        )

    def is_plausible(self, exchange_s: float, expected_at: float, local_s: float) -> bool:
        """Returns whether an instant can be the exchange's: it is within a day of the expected time or of another clock."""
        clocks = (expected_at, local_s, self.database_now)
        return min(abs(exchange_s - clock) for clock in clocks if clock is not None) <= MAX_PLAUSIBLE_OFFSET_S

    def now(self, expected_at: int) -> float | None:
        """Returns UNIX seconds; None if the clock was never measured, or if the last measurement is not plausible."""
        if self._last_accepted is None or self.skew_s is None:
            return None
        exchange_s, measured_at = self._last_accepted
        elapsed_s = self._monotonic() - measured_at
        if not self.is_plausible(exchange_s, expected_at, exchange_s + self.skew_s):
            return None
        return exchange_s + elapsed_s

    def has_passed(self, minute: int) -> bool:
        """Returns whether the minute is over by this clock and by the local one.

        The local clock counts too: if it is behind, the newest scheduled minute is already over by this clock, but is not
        collected yet.
        """
        now = self.now(minute)
        return now is not None and self.skew_s is not None and min(now, now + self.skew_s) >= minute + times.MINUTE


class Exchange(Protocol):
    """An exchange, or another source of prices. Each method raises a SourceError if it fails."""

    @property
    def clock(self) -> ExchangeClock:
        """The source's clock, measured by its responses."""
        ...

    async def price(self, ticker: str) -> Quote:
        """Returns the current price of the ticker."""
        ...

    def window(self, age_s: float) -> str:
        """Returns the name of the finest chart window that reaches back `age_s` seconds."""
        ...

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        """Returns the chart of the window up to now, in ascending order."""
        ...

    async def delivery_prices(self, ticker: str, count: int) -> dict[int, Decimal]:
        """Returns the newest delivery prices of the ticker, at most `count`, by their instant in UNIX seconds."""
        ...

    async def names(self) -> frozenset[str]:
        """Returns the tickers that the source supports."""
        ...
