"""Ticks of a minute, and the range that they prove. Pure functions of sets: the order of arrival changes no result.

A minute is a set of ticks, and merging is the union of sets. So a merge of what several processes saw is commutative,
associative and idempotent, and its result is that of one process that saw every tick.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final, Self

from db import times
from db.queries.gaps import TickerMinute
from db.rows import MAX_PRICE_DECIMALS, RangeRow, Source, normalize_price, validate_price

MINUTE_MS: Final = times.MINUTE * 1_000
MAX_SILENCE_MS: Final = 5_000
"""Longest silence in a watched minute. A price counts for at most this time after its tick."""
MAX_EDGE_SILENCE_MS: Final = MAX_SILENCE_MS // 2
"""Longest silence at the beginning and at the end of a watched minute, so that none across two minutes is longer, either."""
SEAL_DELAY_S: Final = 2.0
"""How long after its end a minute still accepts ticks."""
MAX_TICK_AGE_S: Final = 60.0
"""Maximum age of a tick by the exchange's clock. Deribit sends about one a second."""
MAX_TICK_AHEAD_S: Final = 2.0
"""How far a tick may be ahead of the exchange's clock, which is extrapolated between its responses."""
MAX_TICKS_PER_MINUTE: Final = 600
"""Maximum number of ticks held for one minute, about ten times what Deribit sends. Of others, extremes and the last count."""
TWAP_EXTRA_DECIMALS: Final = 6
"""Decimals of a mean beyond those of its prices."""
TWAP_PRECISION: Final = 60
"""Digits of the calculation: more than the longest price and weight have."""


class TickRejection(StrEnum):
    """Why a tick is no evidence."""

    INVALID = "invalid"
    """It is malformed, or its price is not a positive, finite number."""
    LATE = "late"
    """Its minute is sealed already, or it is older than MAX_TICK_AGE_S."""
    AHEAD = "ahead"
    """It is ahead of the exchange's clock."""
    CLOCK = "clock"
    """The exchange's clock is unknown, or disagrees with the other clocks."""
    NOT_SUBSCRIBED = "not_subscribed"
    """It is of an index that is not subscribed."""
    FLOOD = "flood"
    """Its minute holds MAX_TICKS_PER_MINUTE."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A price that the exchange published."""

    ticker: str
    at_ms: int
    """The exchange's timestamp, in UNIX milliseconds."""
    price: Decimal
    arrived_us: int
    """When it arrived, by the local clock, in UNIX microseconds. It orders ticks of the same millisecond."""

    @property
    def minute(self) -> int:
        """The minute of the exchange's timestamp, in UNIX seconds."""
        return self.at_ms // MINUTE_MS * times.MINUTE


@dataclass(frozen=True)
class ClockReading:
    """The exchange's clock in a response, and the local times of request and response; all in UNIX microseconds."""

    exchange_us: int
    requested_us: int
    received_us: int


@dataclass
class StreamMessage:
    """What a message of the exchange's stream contained."""

    ticks: list[Tick] = field(default_factory=list)
    rejections: list[TickRejection] = field(default_factory=list)
    clock: ClockReading | None = None


@dataclass
class MinuteTicks:
    """The set of ticks of one ticker in one minute."""

    ticker: str
    ts: int
    arrivals: dict[tuple[int, Decimal], int] = field(default_factory=dict)
    """The first arrival of each tick, in UNIX microseconds, by its milliseconds after the start of the minute and its price."""
    _overflow: set[tuple[int, Decimal]] = field(default_factory=set)
    """Beyond MAX_TICKS_PER_MINUTE: the lowest, the highest and the last tick."""

    def add(self, tick: Tick) -> bool:
        """Adds a tick of this minute. Returns False if the minute is full: it counts only as an extreme or as the last one."""
        key = (tick.at_ms - self.ts * 1_000, tick.price)
        is_full = len(self.arrivals) - len(self._overflow) >= MAX_TICKS_PER_MINUTE and key not in self.arrivals
        self.add_arrival(key, tick.arrived_us)
        if is_full:
            candidates = {*self._overflow, key}
            by_price = sorted(candidates, key=lambda one: one[1])
            self._overflow = {by_price[0], by_price[-1], max(candidates, key=lambda one: one[0])}
            for dropped in candidates - self._overflow:
                del self.arrivals[dropped]
        return not is_full

    def merge(self, other: Self) -> Self:
        """Returns the union of both sets, which must be of the same ticker and minute."""
        merged = type(self)(self.ticker, self.ts, dict(self.arrivals))
        for key, arrived_us in other.arrivals.items():
            merged.add_arrival(key, arrived_us)
        return merged

    def range(self) -> RangeRow:
        """Returns the range of the minute. Raises ValueError if there is no tick."""
        if not self.arrivals:
            raise ValueError("a minute without ticks has no range")
        ordered = self._ordered()
        instants, prices = [at for at, _, _ in ordered], [price for _, _, price in ordered]
        silences = [after - before for before, after in zip([0, *instants], [*instants, MINUTE_MS], strict=True)]
        # A price counts until the next tick, but for at most MAX_SILENCE_MS: nothing is known about a longer silence.
        weights = [min(silence, MAX_SILENCE_MS) for silence in silences[1:]]
        begin, *between, end = silences
        watched_ms = sum(min(silence, MAX_SILENCE_MS) for silence in between) + min(end, MAX_EDGE_SILENCE_MS)
        watched_ms += begin if begin <= MAX_EDGE_SILENCE_MS else 0
        return RangeRow(
            ticker=self.ticker,
            ts=self.ts,
            open=prices[0],
            high=max(prices),
            low=min(prices),
            close=prices[-1],
            opened_ms=instants[0],
            closed_ms=instants[-1],
            twap=_weighted_mean(prices, weights),
            ticks=len(ordered),
            watched_s=watched_ms // 1_000,
            longest_silence_ms=max(silences),
            source=Source.LIVE,
        )

    def to_json(self) -> str:
        """Returns the set as JSON: `[[milliseconds, price, arrival], …]`."""
        return json.dumps([[at, str(price), arrived_us] for at, arrived_us, price in self._ordered()], separators=(",", ":"))

    @classmethod
    def from_json(cls, ticker: str, ts: int, text: str | bytes) -> Self:
        """Parses `to_json`. Raises ValueError if the text is anything else."""
        found = cls(ticker, ts)
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise ValueError("the ticks of a minute should be a JSON list")  # noqa: TRY004  one exception for invalid text
        for entry in entries:
            match entry:
                case [int(at), str(price), int(arrived_us)] if 0 <= at < MINUTE_MS:
                    found.add_arrival((at, parse_price(price)), arrived_us)
                case _:
                    raise ValueError(f"a tick should be [milliseconds, price, arrival], not {entry!s:.80}")
        if not found.arrivals:
            raise ValueError("the minute has no tick")
        return found

    def add_arrival(self, key: tuple[int, Decimal], arrived_us: int) -> None:
        """Adds a tick, or an arrival of a known one. The first arrival counts."""
        self.arrivals[key] = min(arrived_us, self.arrivals.get(key, arrived_us))

    def _ordered(self) -> list[tuple[int, int, Decimal]]:
        """Returns milliseconds, arrival and price in the order of the exchange's timestamps.

        Of the same millisecond, the later arrival is the later one.
        """
        return sorted((at, arrived_us, price) for (at, price), arrived_us in self.arrivals.items())


def _weighted_mean(prices: Sequence[Decimal], weights: Sequence[int]) -> Decimal:
    # With at least the decimals of the prices, rounding cannot leave the interval between the lowest and the highest.
    decimals = -min(int(price.as_tuple().exponent) for price in prices) + TWAP_EXTRA_DECIMALS
    with localcontext(prec=TWAP_PRECISION):
        total = sum((price * weight for price, weight in zip(prices, weights, strict=True)), Decimal(0))
        return normalize_price((total / sum(weights)).quantize(Decimal(1).scaleb(-min(decimals, MAX_PRICE_DECIMALS))))


def parse_price(value: str | int | Decimal) -> Decimal:
    """Returns a valid price in its normal form. Raises ValueError if it is not positive, not finite, or has too many digits."""
    try:
        return validate_price(Decimal(value))
    except ArithmeticError:
        raise ValueError(f"{value!s:.40} is not a number") from None


class UnsealedMinutes:
    """The ticks of the minutes that are not sealed yet."""

    def __init__(self) -> None:
        self._minutes: dict[TickerMinute, MinuteTicks] = {}
        self._sealed_until = 0
        """All minutes before this one are sealed, in UNIX seconds."""

    def add(self, tick: Tick, now: float | None) -> TickRejection | None:
        """Adds a tick, or returns why it is no evidence. `now` is UNIX seconds by the exchange's clock; None if unknown."""
        if now is None:
            return TickRejection.CLOCK
        if tick.at_ms > (now + MAX_TICK_AHEAD_S) * 1_000:
            return TickRejection.AHEAD
        if tick.at_ms < (now - MAX_TICK_AGE_S) * 1_000 or tick.minute < self._sealed_until:
            return TickRejection.LATE
        minute = self._minutes.setdefault((tick.ticker, tick.minute), MinuteTicks(tick.ticker, tick.minute))
        return None if minute.add(tick) else TickRejection.FLOOD

    def seal(self, now: float) -> list[MinuteTicks]:
        """Removes and returns the minutes that ended by the exchange's clock. They accept no further tick."""
        self._sealed_until = max(self._sealed_until, times.minute_of(now - SEAL_DELAY_S))
        return self._take(key for key in self._minutes if key[1] < self._sealed_until)

    def seal_all(self) -> list[MinuteTicks]:
        """Removes and returns all minutes, also unfinished ones: the process ends."""
        return self._take(iter(self._minutes))

    def _take(self, keys: Iterable[TickerMinute]) -> list[MinuteTicks]:
        return [self._minutes.pop(key) for key in sorted(keys)]


def merge_all(minutes: Iterable[MinuteTicks]) -> Mapping[TickerMinute, MinuteTicks]:
    """Returns the union of the ticks of each ticker and minute."""
    merged: dict[TickerMinute, MinuteTicks] = {}
    for minute in minutes:
        key = (minute.ticker, minute.ts)
        merged[key] = merged[key].merge(minute) if key in merged else minute
    return merged
