"""Fills gaps from the exchange's chart data, if its points are at most a minute apart."""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from pydantic import ValidationError

from db import times
from db.errors import DatabaseError
from db.pool import Database
from db.queries import gaps, write_lock
from db.queries.gaps import TickerMinute
from db.rows import PriceRow, Reason, Source
from ingest.errors import SourceError, UnknownTickerError
from ingest.jobs.store import store
from ingest.outbox import Outbox
from ingest.source import ChartPoint, Exchange

if TYPE_CHECKING:  # imported only with PEERS
    from ingest.peers import Peer

log = logging.getLogger(__name__)

MAX_GAPS_PER_RUN = 10_000
"""Gaps per run, the newest first."""
MAX_POSTPONED_AGE_S = 45 * times.MINUTE
"""A minute older than this does not wait for the next run with peers, because the finest chart reaches back an hour."""
MAX_STEP_S = 60.0
"""An average over more than a minute is not the price of a minute."""


@dataclass
class BackfillResult:
    """The result of a backfill, in minutes."""

    filled: int = 0
    unrecoverable: int = 0
    remaining: int = 0
    """To be retried: not found in the chart, not requested because the exchange failed, or waiting for a peer."""


async def backfill(now: int, *, source: Exchange, db: Database, outbox: Outbox, peers: "Sequence[Peer]" = ()) -> BackfillResult:
    """Fills the gaps that are due, the newest first, because the finest chart window reaches back the least.

    A live price of a peer is a sample of the very minute, so the `peers` come before the charts, which have averages.
    `now` is the exchange's time in UNIX seconds. Raises OutboxError or DatabaseError; minutes filled before stay filled.
    """
    pending = await outbox.pending_minutes()
    due_gaps = [gap for gap in await gaps.due_gaps(db, now, MAX_GAPS_PER_RUN) if gap not in pending]
    filled: set[TickerMinute] = set()
    postponed: set[TickerMinute] = set()
    if peers and due_gaps:
        from ingest.jobs.peers import fill_from_peers  # noqa: PLC0415  only with PEERS

        filled, unanswered = await fill_from_peers(due_gaps, peers, db)
        postponed = {(ticker, ts) for ticker, ts in unanswered if now - ts < MAX_POSTPONED_AGE_S}
    done = filled | postponed
    result = await fill_gaps([gap for gap in due_gaps if gap not in done], now, source=source, db=db)
    result.filled += len(filled)
    result.remaining += len(postponed)
    return result


async def fill_gaps(missing: Sequence[TickerMinute], now: int, *, source: Exchange, db: Database) -> BackfillResult:
    """Fills the minutes (newest first) from charts, with one call per ticker and window."""
    result = BackfillResult()
    groups: dict[tuple[str, str], list[int]] = {}
    for ticker, ts in missing:
        groups.setdefault((ticker, source.window(now - ts)), []).append(ts)
    for index, ((ticker, window), minutes) in enumerate(groups.items()):
        try:
            await _fill_group(ticker, window, minutes, result, source, db)
        except DatabaseError:
            raise
        except Exception as error:
            result.remaining += len(minutes)
            if not isinstance(error, SourceError):
                log.exception("%s: unexpected error of a chart", ticker)
                continue
            log.warning("%s of %s not filled, will be retried: %s", times.format_minutes(len(minutes)), ticker, error)
            if isinstance(error, UnknownTickerError):
                await _count_attempt(ticker, minutes, db)
            elif error.reason is not Reason.MALFORMED:  # the failure concerns all tickers, so the other calls would fail too
                result.remaining += sum(map(len, list(groups.values())[index + 1 :]))
                break
    return result


async def _fill_group(
    ticker: str, window: str, minutes: Sequence[int], result: BackfillResult, source: Exchange, db: Database
) -> None:
    chart = Chart(await source.chart(ticker, window))
    found = chart.rows(ticker, minutes)
    result.filled += (await store(db, found)).new
    found_minutes = {row.ts for row in found}
    not_found = [ts for ts in minutes if ts not in found_minutes]
    # A chart says nothing about the time before its first point: its window may begin one step late.
    unrecoverable = [ts for ts in not_found if chart.is_too_coarse and chart.reaches(ts)]
    if unrecoverable:
        async with write_lock.write_transaction(db) as connection:
            await gaps.mark_unrecoverable(connection, ticker, unrecoverable)
    _log_result(ticker, len(found), unrecoverable, chart)
    result.unrecoverable += len(unrecoverable)
    remaining = [ts for ts in not_found if ts not in set(unrecoverable)]
    result.remaining += len(remaining)
    if remaining:
        await _count_attempt(ticker, remaining, db)


async def _count_attempt(ticker: str, minutes: Sequence[int], db: Database) -> None:
    async with write_lock.write_transaction(db) as connection:
        await gaps.count_attempt(connection, ticker, minutes)


@dataclass
class Chart:
    """The averages of the exchange, ascending. Their period is derived from the distances between them."""

    points: Sequence[ChartPoint]
    step_s: float | None = field(init=False)
    """Median of the seconds from one point to the next; None with fewer than two points."""

    def __post_init__(self) -> None:
        # Of several points at one instant, the first stays.
        self.points = list({point.at: point for point in reversed(self.points)}.values())[::-1]
        self._instants = [point.at for point in self.points]
        distances = [following - previous for previous, following in pairwise(self._instants)]
        self.step_s = median(distances) / 1000 if distances else None

    @property
    def is_too_coarse(self) -> bool:
        """Whether its points are averages over more than a minute."""
        return self.step_s is not None and self.step_s > MAX_STEP_S

    def reaches(self, ts: int) -> bool:
        """Returns whether the chart begins before the minute ends."""
        return bool(self._instants) and self._instants[0] < (ts + times.MINUTE) * 1000

    def first_point_in(self, ts: int) -> ChartPoint | None:
        """Returns the first point inside the minute; None if there is none, or if it is an average over more than a minute."""
        if self.step_s is None or self.is_too_coarse:
            return None
        index = bisect_left(self._instants, ts * 1000)
        if index == len(self.points) or self._instants[index] >= (ts + times.MINUTE) * 1000:
            return None
        neighbors = self._instants[max(0, index - 1) : index + 2]
        nearest_s = min(following - previous for previous, following in pairwise(neighbors)) / 1000
        return self.points[index] if nearest_s <= MAX_STEP_S else None

    def rows(self, ticker: str, minutes: Iterable[int]) -> list[PriceRow]:
        """Returns the prices of the minutes that the chart covers."""
        found = []
        for ts in minutes:
            point = self.first_point_in(ts)
            row = None if point is None else _row(ticker, ts, point)
            if row is not None:
                found.append(row)
        return found


def _row(ticker: str, ts: int, point: ChartPoint) -> PriceRow | None:
    try:
        return PriceRow.model_validate(
            {
                "ticker": ticker,
                "ts": ts,
                "price": point.price,
                "observed_at": point.at * 1000,
                "source": Source.BACKFILL,
            }
        )
    except ValidationError as error:
        log.warning("%s: a chart point cannot be stored: %s", ticker, error.errors()[0]["msg"])
        return None


def _log_result(ticker: str, filled: int, unrecoverable: Sequence[int], chart: Chart) -> None:
    step = "unknown" if chart.step_s is None else f"{chart.step_s:g} s"
    if filled:
        log.info("%s: %s backfilled from a chart with a step of %s", ticker, times.format_minutes(filled), step)
    if unrecoverable:
        log.warning(
            "%s: %s from %s to %s unrecoverable: the finest chart that reaches back so far has a step of %s",
            *(
                ticker,
                times.format_minutes(len(unrecoverable)),
                times.iso(unrecoverable[-1]),
                times.iso(unrecoverable[0] + times.MINUTE),
                step,
            ),
        )
