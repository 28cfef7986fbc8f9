"""What must be true of every minute afterwards, by the simulator's own record."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import asyncpg

from db.tables import Reason
from ingest.simulator import market
from ingest.simulator.server import ServedPrice
from tests.chaos.stand import TICKERS


@dataclass(frozen=True)
class Expectation:
    """What a minute went through, and which reasons it may have for being a gap; none: it must be LIVE."""

    faults: str
    reasons: Mapping[str, frozenset[Reason]]
    """By ticker."""


@dataclass
class Row:
    """A line of the table: ticker-minutes under the same faults."""

    episodes: int = 0
    minutes: int = 0
    live: int = 0
    backfilled: int = 0
    gaps: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    unkept: int = 0
    """A gap although its price was safe, or for a reason that was not there."""


@dataclass
class Verdict:
    """What was found."""

    rows: dict[str, Row] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is to be said against it."""
        return not self.complaints


class Account:
    """The database's prices and gaps, held against what was served."""

    def __init__(self, prices: Iterable[asyncpg.Record], gaps: Iterable[asyncpg.Record], served: Iterable[ServedPrice]) -> None:
        rows = [dict(row) for row in prices]
        self.prices = {(row["ticker"], row["ts"]): row for row in rows}
        self.times = Counter((row["ticker"], row["ts"]) for row in rows)
        self.gaps = {(row["ticker"], row["ts"]): dict(row) for row in gaps}
        self.served = {(one.ticker, one.us_out): one.price for one in served}

    def judge(self, expected: Mapping[int, Expectation], excused: frozenset[int]) -> Verdict:
        """Holds every expected minute of every ticker against the rules; `excused` may have the reason `clock` as well."""
        verdict = Verdict()
        for ts, expectation in expected.items():
            row = verdict.rows.setdefault(expectation.faults, Row())
            for ticker in TICKERS:
                row.minutes += 1
                self._judge_one((ticker, ts), expectation, ts in excused, row, verdict)
        for minute, price in self.prices.items():  # extra: from before the run, where the exchange's clock was behind
            if minute[1] not in expected and (why := self._wrong(minute, price)):
                verdict.complaints.append(f"{minute[0]} {minute[1]}: {why}")
        for ticker, ts in self.gaps:
            if ts not in expected:
                verdict.complaints.append(f"{ticker} {ts}: a gap of a minute that was never expected")
        return verdict

    def _judge_one(self, minute: tuple[str, int], expectation: Expectation, excused: bool, row: Row, verdict: Verdict) -> None:
        def complain(what: str) -> None:
            verdict.complaints.append(f"{minute[0]} {minute[1]} ({expectation.faults}): {what}")

        price, gap = self.prices.get(minute), self.gaps.get(minute)
        if price is None and gap is None:
            row.lost += 1
            complain("lost: neither stored nor a gap")
        if self.times[minute] > 1:
            row.twice += 1
            complain(f"stored {self.times[minute]} times")
        if price is not None:
            row.live += price["source"] == "LIVE"
            row.backfilled += price["source"] == "BACKFILL"
            why = self._wrong(minute, price)
            if why:
                row.wrong += 1
                complain(why)
            if price["source"] == "BACKFILL" and gap is None:
                complain("backfilled, and the ledger knows no gap")
        if gap is not None:
            row.gaps += price is None
            reasons = expectation.reasons[minute[0]]
            for what in _about(gap, price, reasons | ({Reason.CLOCK} if excused and reasons else frozenset())):
                row.unkept += 1
                complain(what)

    def _wrong(self, minute: tuple[str, int], price: Mapping[str, object]) -> str:
        ticker, ts = minute
        at, value = price["observed_at"], price["price"]
        if at is None and price["source"] == "LIVE":  # answered without an instant, and the local clock was sure
            said = {market.price(ticker, second) for second in range(ts, ts + 60)}
            return "" if value in said else f"LIVE {value} without an instant, which was never the price in its minute"
        if not isinstance(at, int) or at // 60_000_000 * 60 != ts:
            return f"observed at {at}, outside its minute"
        match price["source"]:
            case "LIVE":
                served = self.served.get((ticker, at))
                return "" if served is not None and Decimal(served) == value else f"LIVE {value}, served was {served}"
            case "BACKFILL":
                # The charts of an hour and of a day have a point at each full minute, and those are the first inside it.
                averages = {market.average(ticker, ts, market.STEPS_S[window]) for window in ("1h", "1d")}
                first = at == ts * 10**6 and value in averages
                return "" if first else f"BACKFILL {value} of {at}, the chart's first point is one of {averages}"
            case source:
                return f"of source {source}, which nobody wrote"


def _about(gap: Mapping[str, object], price: Mapping[str, object] | None, allowed: frozenset[Reason]) -> Iterator[str]:
    """What is to be said against a gap."""
    if gap["reason"] not in allowed:
        yield f"a gap for {gap['reason']}; it may be one for {', '.join(sorted(allowed)) or 'nothing: it was safe'}"
    if (gap["filled_at"] is None) != (price is None):
        yield "the gap and the price disagree on whether it was filled"
    if price is None:
        yield "never filled, although a chart told it"
