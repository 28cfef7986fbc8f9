"""Checks every minute after the run against the prices that the simulator served."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg

from db.rows import Reason
from ingest.simulator import market
from ingest.simulator.server import ServedPrice
from tests.chaos.environment import TICKERS


@dataclass(frozen=True)
class Expectation:
    """The faults of a minute, and the reasons that its gap may have. Without reasons, its price must be stored as LIVE."""

    faults: str
    reasons: Mapping[str, frozenset[Reason]]
    """Allowed reasons, by ticker."""


@dataclass
class AuditRow:
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
    """Problems of gaps: the price had to be stored, the reason does not fit the fault, or a chart covers the minute."""


@dataclass
class AuditResult:
    """The rows of the table and the problems found."""

    rows: dict[str, AuditRow] = field(default_factory=dict)
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
        self.row_counts = Counter((row["ticker"], row["ts"]) for row in rows)
        self.gaps = {(row["ticker"], row["ts"]): dict(row) for row in gaps}
        self.served = {(one.ticker, one.us_out): one.price for one in served}

    def check(self, expected: Mapping[int, Expectation], clock_minutes: frozenset[int]) -> AuditResult:
        """Checks every expected minute of every ticker. Minutes in `clock_minutes` may also have the reason `clock`."""
        result = AuditResult()
        for ts, expectation in expected.items():
            row = result.rows.setdefault(expectation.faults, AuditRow())
            for ticker in TICKERS:
                row.minutes += 1
                self._check_minute((ticker, ts), expectation, ts in clock_minutes, row, result)
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
        self, minute: tuple[str, int], expectation: Expectation, may_be_clock: bool, row: AuditRow, result: AuditResult
    ) -> None:
        def report(problem: str) -> None:
            result.problems.append(f"{minute[0]} {minute[1]} ({expectation.faults}): {problem}")

        price, gap = self.prices.get(minute), self.gaps.get(minute)
        if price is None and gap is None:
            row.lost += 1
            report("lost: neither stored nor a gap")
        if self.row_counts[minute] > 1:
            row.duplicates += 1
            report(f"stored {self.row_counts[minute]} times")
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
        if at is None and price["source"] == "LIVE":  # the response had no usOut, and the local clock was trusted
            possible_prices = {market.price(ticker, second) for second in range(ts, ts + 60)}
            return "" if value in possible_prices else f"LIVE {value} without an instant, which was not a price of its minute"
        if not isinstance(at, int) or at // 60_000_000 * 60 != ts:
            return f"observed at {at}, outside its minute"
        match price["source"]:
            case "LIVE":
                served = self.served.get((ticker, at))
                return "" if served is not None and Decimal(served) == value else f"LIVE {value}, but {served} was served"
            case "BACKFILL":
                # In the charts 1h and 1d, the first point of a minute is the one at its beginning.
                averages = {market.average(ticker, ts, market.STEPS_S[window]) for window in ("1h", "1d")}
                first = at == ts * 10**6 and value in averages
                return "" if first else f"BACKFILL {value} of {at}, the chart's first point is one of {averages}"
            case source:
                return f"of source {source}, which no job writes"


def _gap_errors(gap: Mapping[str, object], price: Mapping[str, object] | None, allowed: frozenset[Reason]) -> Iterator[str]:
    """Yields the problems of a gap."""
    if gap["reason"] not in allowed:
        yield f"a gap with reason {gap['reason']}; allowed: {', '.join(sorted(allowed)) or 'none, the price had to be stored'}"
    if (gap["filled_at"] is None) != (price is None):
        yield "the gap and the price disagree on whether it was filled"
    if price is None:
        yield "the gap is not filled, although a chart covers its minute"
