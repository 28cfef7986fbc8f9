"""Fills gaps with live prices of peers, and compares days with them."""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from operator import itemgetter
from statistics import median
from typing import Final, NamedTuple

from pydantic import ValidationError

from db import times
from db.errors import DatabaseError
from db.pool import Database, Executor, Record
from db.queries import peers, retention, tickers, write_lock
from db.queries.gaps import TickerMinute
from db.queries.peers import Comparison
from db.rows import PriceRow, Source
from ingest import metrics
from ingest.jobs.deadline import Deadline
from ingest.jobs.store import store
from ingest.peers import MAX_WINDOW_S, Peer, PeerError, PeerMinute

log = logging.getLogger(__name__)

FILL_TIMEOUT_S: Final = 8.0
"""Time for all peers in one run. The chart of the exchange is the alternative, so a slow peer must not delay it."""
MAX_CONCURRENT_REQUESTS: Final = 8
"""To one peer: after an outage, hundreds of tickers lack the same minutes."""
MAX_DEVIATION: Final = Decimal("0.1")
"""A price of a peer may lie this far outside of its neighbors: a tenth. The chart is the alternative for those beyond."""
MAX_DEVIATION_PER_HOUR: Final = Decimal("0.01")
"""Added for each hour to the nearer neighbor, because an index can move far in a long outage."""
COMPARE_DELAY_S: Final = 15 * times.MINUTE
"""How long after midnight the previous day is compared. Both sites fill short gaps before."""
COMPARE_BUDGET_S: Final = 4.0
"""Time of a run. A request may take five seconds more; the next minute continues."""
COMPARE_RETRY_S: Final = 10 * times.MINUTE
MAX_COMPARE_FAILURES: Final = 3
"""Tickers that may fail in one run. After a failure, those that are left wait for the retry."""
MAX_OUTLIERS: Final = 5
MIN_OUTLIER_BPS: Final = Decimal(10)
"""A smaller difference is no outlier. Samples of different seconds of one minute differ by a few basis points."""


class FillResult(NamedTuple):
    """The minutes that peers filled, and those that are worth another request."""

    filled: set[TickerMinute]
    unanswered: set[TickerMinute]
    """Minutes for which a peer that filled others did not respond: for lack of time, or after an error."""


async def fill_from_peers(missing: Sequence[TickerMinute], peer_list: Sequence[Peer], db: Database) -> FillResult:
    """Fills the minutes with live prices of the peers, in their order.

    A peer that fails is skipped. Raises DatabaseError; minutes filled before stay filled.
    """
    filled: set[TickerMinute] = set()
    unanswered: set[TickerMinute] = set()
    deadline = Deadline(FILL_TIMEOUT_S)
    for index, peer in enumerate(peer_list):
        remaining = [minute for minute in missing if minute not in filled]
        if remaining:
            # Each peer gets its part of the time, so that a slow one leaves some to the others.
            budget_s = deadline.remaining_s() / (len(peer_list) - index)
            count = len(filled)
            remaining_unanswered = await _fill_from_peer(remaining, peer, db, filled, budget_s)
            if len(filled) > count:
                unanswered |= remaining_unanswered
    return FillResult(filled, unanswered - filled)


async def _fill_from_peer(
    missing: Sequence[TickerMinute], peer: Peer, db: Database, filled: set[TickerMinute], budget_s: float
) -> set[TickerMinute]:
    """Adds what is filled to `filled`. Returns the minutes that the peer did not answer for."""
    unanswered = set(missing)
    windows = deque(_windows(missing))
    database_errors: list[DatabaseError] = []

    async def request_windows() -> None:
        while windows:
            ticker, minutes = windows.popleft()
            try:
                found = await peer.minutes(ticker, minutes[0], minutes[-1] + times.MINUTE)
                result = await store_plausible(peer, ticker, [found[ts] for ts in minutes if ts in found], db)
                filled.update((ticker, ts) for ts in result.stored)
                unanswered.difference_update((ticker, ts) for ts in minutes)
            except DatabaseError as error:
                windows.clear()
                database_errors.append(error)
            except Exception as error:  # whatever a peer sends, the chart is next
                windows.clear()
                metrics.peer_failures.labels(peer.url).inc()
                if isinstance(error, PeerError):
                    log.warning("peer %s", error)
                else:
                    log.exception("peer %s: unexpected error", peer.url)

    try:
        async with asyncio.timeout(budget_s), asyncio.TaskGroup() as group:
            for _ in range(MAX_CONCURRENT_REQUESTS):
                group.create_task(request_windows())
    except TimeoutError:
        log.warning("peer %s did not return all missing minutes within %.0f s", peer.url, budget_s)
    if database_errors:
        raise database_errors[0]
    return unanswered


def _windows(missing: Iterable[TickerMinute]) -> list[tuple[str, list[int]]]:
    """Returns ascending minutes of a ticker that fit into one request; the newest of all tickers first."""
    by_ticker: dict[str, list[int]] = {}
    for ticker, ts in sorted(missing):
        by_ticker.setdefault(ticker, []).append(ts)
    windows: list[tuple[str, list[int]]] = []
    for ticker, minutes in by_ticker.items():
        start = 0
        for index, ts in enumerate(minutes):
            if ts - minutes[start] >= MAX_WINDOW_S:
                windows.append((ticker, minutes[start:index]))
                start = index
        windows.append((ticker, minutes[start:]))
    return sorted(windows, key=lambda window: window[1][-1], reverse=True)


@dataclass
class PeerFillResult:
    """What was done with the minutes of a peer."""

    stored: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    """Minutes whose price is invalid or implausible."""


async def store_plausible(peer: Peer, ticker: str, minutes: Sequence[PeerMinute], db: Database) -> PeerFillResult:
    """Stores the live minutes of a peer whose price is plausible. Raises DatabaseError."""
    result = PeerFillResult()
    rows = [row for minute in minutes if minute.is_live and (row := _row(peer, ticker, minute, result)) is not None]
    if not rows:
        return result
    neighbors = await peers.neighbors(db, ticker, min(row.ts for row in rows), max(row.ts for row in rows))
    plausible = []
    for row in rows:
        problem = _implausibility(row, neighbors)
        if problem is None:
            plausible.append(row)
        else:
            result.refused.append(row.ts)
            log.warning("peer %s: %s at %s is refused: %s", peer.url, ticker, times.iso(row.ts), problem)
    await store(db, plausible)
    result.stored = [row.ts for row in plausible]
    metrics.peer_minutes_refused.labels(peer.url).inc(len(result.refused))
    if plausible:
        log.info("%s: %s filled from the peer %s", ticker, times.format_minutes(len(plausible)), peer.url)
    return result


def _row(peer: Peer, ticker: str, minute: PeerMinute, result: PeerFillResult) -> PriceRow | None:
    problem = "a live price has no observedAt"
    if minute.observed_at is not None:
        try:
            return PriceRow(
                ticker=ticker,
                ts=minute.ts,
                price=minute.price,
                observed_at=minute.observed_at,
                source=Source.PEER,
                peer=peer.url,
            )
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
    log.warning("peer %s: %s at %s is refused: %s", peer.url, ticker, times.iso(minute.ts), problem)
    result.refused.append(minute.ts)
    return None


def _implausibility(row: PriceRow, neighbors: Sequence[Record]) -> str | None:
    """Returns why the price is too far from the stored prices before and after it, or None. Neighbors are ascending."""
    index = bisect_left(neighbors, row.ts, key=itemgetter("ts"))
    known = [(abs(found["ts"] - row.ts), found["price"]) for found in neighbors[max(0, index - 1) : index + 1]]
    if not known:
        return "no price is stored that it could be compared with"
    distance_h = Decimal(min(distance for distance, _ in known)) / 3_600
    deviation = MAX_DEVIATION + MAX_DEVIATION_PER_HOUR * distance_h
    low, high = (end(price for _, price in known) for end in (min, max))
    if low * (1 - min(deviation, Decimal("0.9"))) <= row.price <= high * (1 + deviation):
        return None
    return f"{row.price:f} is more than {deviation:.0%} outside of its neighbors ({low:f} to {high:f})"


@dataclass(frozen=True)
class DayComparison:
    """A day of a ticker here and at a peer."""

    result: Comparison
    missing_here: Sequence[PeerMinute]
    """The live minutes of the peer that are missing here."""
    outliers: Sequence[tuple[int, Decimal, Decimal, Decimal]]
    """The largest differences: minute, price here, price there, basis points."""
    p99_bps: Decimal | None
    """99 of 100 differences are at most this large; None if no minute is live on both sides."""
    is_same_observation: bool
    """Whether all live prices of both are equal: the peer is probably this archive or a copy of it."""


async def compare_day(db: Executor, peer: Peer, ticker: str, day: int, high: int | None = None) -> DayComparison:
    """Compares the UTC day that begins at `day`, up to `high`. What lies before the horizon is not compared: it is not missing.

    Raises PeerError and DatabaseError.
    """
    high = min(day + times.DAY, high or times.END)
    low = max(day, (await retention.horizons(db)).get(ticker, 0))
    there = await peer.minutes(ticker, low, high) if low < high else {}
    here = {row["ts"]: row for row in await peers.stored_minutes(db, ticker, low, high)}
    live_pairs = [
        (ts, row["price"], there[ts].price)
        for ts, row in sorted(here.items())
        if ts in there and row["source"] == Source.LIVE and there[ts].is_live
    ]
    differences = sorted(
        ((abs(theirs - ours) / ours * 10_000, ts, ours, theirs) for ts, ours, theirs in live_pairs), reverse=True
    )
    missing_here = [minute for ts, minute in there.items() if ts not in here and minute.is_live]
    worst = differences[0] if differences else None
    return DayComparison(
        Comparison(
            peer=peer.url,
            day=day,
            ticker=ticker,
            shared=len(here.keys() & there.keys()),
            only_here=len(here.keys() - there.keys()),
            only_there=len(missing_here),
            median_bps=None if worst is None else round(median(bps for bps, *_ in differences), 4),
            max_bps=None if worst is None else round(worst[0], 4),
            max_ts=None if worst is None else worst[1],
        ),
        missing_here,
        [(ts, ours, theirs, bps) for bps, ts, ours, theirs in differences[:MAX_OUTLIERS] if bps >= MIN_OUTLIER_BPS],
        p99_bps=None if worst is None else round(differences[len(differences) // 100][0], 4),
        is_same_observation=len(live_pairs) > MAX_OUTLIERS and differences[0][0] == 0,
    )


class PeerComparer:
    """Compares the previous day with each peer, once a day. What fails is retried later."""

    def __init__(self, peer_list: Sequence[Peer]) -> None:
        self._peers = peer_list
        self._retry_at: dict[str, float] = {}
        self._failed: set[tuple[str, str]] = set()

    async def compare(self, now: int, db: Database) -> None:
        """Compares what is due at `now`, the earliest of the clocks that agree, in UNIX seconds. Raises DatabaseError."""
        day = (now - COMPARE_DELAY_S) // times.DAY * times.DAY - times.DAY
        for peer in self._peers:
            deadline = Deadline(COMPARE_BUDGET_S / len(self._peers))
            if self._retry_at.get(peer.url, 0) > time.monotonic():
                continue
            compared = await peers.compared_tickers(db, peer.url, day)
            due = [ticker for ticker in await tickers.list_tracked(db) if ticker not in compared]
            failures = 0
            # A ticker that failed comes last, so that it does not keep the others waiting.
            for ticker in sorted(due, key=lambda name: (peer.url, name) in self._failed):
                if not deadline.remaining_s() or failures == MAX_COMPARE_FAILURES:
                    break
                try:
                    await self._compare_ticker(peer, ticker, day, db)
                    self._failed.discard((peer.url, ticker))
                except PeerError as error:
                    failures += 1
                    self._failed.add((peer.url, ticker))
                    metrics.peer_failures.labels(peer.url).inc()
                    self._retry_at[peer.url] = time.monotonic() + COMPARE_RETRY_S
                    log.warning("%s on %s is not compared, will be retried: peer %s", ticker, times.iso(day)[:10], error)

    async def _compare_ticker(self, peer: Peer, ticker: str, day: int, db: Database) -> None:
        comparison = await compare_day(db, peer, ticker, day)
        async with write_lock.write_transaction(db) as connection:
            await peers.store_comparison(connection, comparison.result)
        found = comparison.result
        log.log(
            logging.WARNING if found.only_there or comparison.outliers else logging.INFO,
            "%s on %s: %d minutes here and at %s, %d only here, %d only there; prices differ by at most %s basis points",
            *(ticker, times.iso(day)[:10], found.shared, peer.url, found.only_here, found.only_there, found.max_bps or 0),
        )
