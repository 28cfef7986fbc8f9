"""Checks every minute after the run against the prices that the simulator served."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg

from db.tables import Reason
from ingest.simulator import market
from ingest.simulator.server import ServedPrice
from tests.chaos.environment import TICKERS


@dataclass(frozen=True)
class Expectation:
    """The faults of a minute and the reasons that its gap may have. Empty: its price must be LIVE."""

    faults: str
    reasons: Mapping[str, frozenset[Reason]]
    """Allowed reasons, by ticker."""


@dataclass
class Row:
    """A row of the table: counts of ticker-minutes under the same faults."""

    episodes: int = 0
    minutes: int = 0
    live: int = 0
    backfilled: int = 0
    gaps: int = 0
    lost: int = 0
    duplicates: int = 0
    wrong: int = 0
    unjustified: int = 0
    """Gaps whose price was safe, or whose reason does not fit the fault."""


@dataclass
class AuditResult:
    """The rows of the table and the problems found."""

    rows: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether the audit found no problem."""
        return not self.problems


class Audit:
    """Compares the database's prices and gaps with what the simulator served."""

    def __init__(self, prices: Iterable[asyncpg.Record], gaps: Iterable[asyncpg.Record], served: Iterable[ServedPrice]) -> None:
        rows = [dict(row) for row in prices]
        self.prices = {(row["ticker"], row["ts"]): row for row in rows}
        self.times = Counter((row["ticker"], row["ts"]) for row in rows)
        self.gaps = {(row["ticker"], row["ts"]): dict(row) for row in gaps}
        self.served = {(one.ticker, one.us_out): one.price for one in served}

    def check(self, expected: Mapping[int, Expectation], may_be_clock: frozenset[int]) -> AuditResult:
        """Checks every expected minute of every ticker. Minutes in `may_be_clock` may also have the reason `clock`."""
        result = AuditResult()
        for ts, expectation in expected.items():
            row = result.rows.setdefault(expectation.faults, Row())
            for ticker in TICKERS:
                row.minutes += 1
                self._check_minute((ticker, ts), expectation, ts in may_be_clock, row, result)
        for (
            minute,
            price,
        ) in self.prices.items():  # extra prices, from before the run, stored while the exchange's clock was behind
            if minute[1] not in expected and (price_error := self._price_error(minute, price)):
                result.problems.append(f"{minute[0]} {minute[1]}: {price_error}")
        for ticker, ts in self.gaps:
            if ts not in expected:
                result.problems.append(f"{ticker} {ts}: a gap in a minute that was never expected")
        return result

    def _check_minute(
        self, minute: tuple[str, int], expectation: Expectation, may_be_clock: bool, row: Row, result: AuditResult
    ) -> None:
        def report(problem: str) -> None:
            result.problems.append(f"{minute[0]} {minute[1]} ({expectation.faults}): {problem}")

        price, gap = self.prices.get(minute), self.gaps.get(minute)
        if price is None and gap is None:
            row.lost += 1
            report("lost: neither stored nor a gap")
        if self.times[minute] > 1:
            row.duplicates += 1
            report(f"stored {self.times[minute]} times")
        if price is not None:
            row.live += price["source"] == "LIVE"
            row.backfilled += price["source"] == "BACKFILL"
            price_error = self._price_error(minute, price)
            if price_error:
                row.wrong += 1
                report(price_error)
            if price["source"] == "BACKFILL" and gap is None:
                report("backfilled without a gap")
        if gap is not None:
            row.gaps += price is None
            reasons = expectation.reasons[minute[0]]
            for problem in _gap_errors(gap, price, reasons | ({Reason.CLOCK} if may_be_clock and reasons else frozenset())):
                row.unjustified += 1
                report(problem)

    def _price_error(self, minute: tuple[str, int], price: Mapping[str, object]) -> str:
        ticker, ts = minute
        at, value = price["observed_at"], price["price"]
        if at is None and price["source"] == "LIVE":  # a response without an instant, at a time that the local clock is sure of
            possible_prices = {market.price(ticker, second) for second in range(ts, ts + 60)}
            return "" if value in possible_prices else f"LIVE {value} without an instant, which was not a price of its minute"
        if not isinstance(at, int) or at // 60_000_000 * 60 != ts:
            return f"observed at {at}, outside its minute"
        match price["source"]:
            case "LIVE":
                served = self.served.get((ticker, at))
                return "" if served is not None and Decimal(served) == value else f"LIVE {value}, but {served} was served"
            case "BACKFILL":
                # The charts of an hour and of a day have a point at each full minute, and those are the first inside it.
                averages = {market.average(ticker, ts, market.STEPS_S[window]) for window in ("1h", "1d")}
                first = at == ts * 10**6 and value in averages
                return "" if first else f"BACKFILL {value} of {at}, the chart's first point is one of {averages}"
            case source:
                return f"of source {source}, which no job writes"


def _gap_errors(gap: Mapping[str, object], price: Mapping[str, object] | None, allowed: frozenset[Reason]) -> Iterator[str]:
    """Yields the problems of a gap."""
    if gap["reason"] not in allowed:
        yield f"a gap with reason {gap['reason']}; allowed: {', '.join(sorted(allowed)) or 'none, its price was safe'}"
    if (gap["filled_at"] is None) != (price is None):
        yield "the gap and the price disagree on whether it was filled"
    if price is None:
        yield "not filled, although a chart covers it"
