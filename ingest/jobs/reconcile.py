"""Accounts for every expected minute that is over: it is stored, queued in the outbox, or becomes a gap with a reason."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median_low
from typing import TYPE_CHECKING, Final

from db import times
from db.errors import DatabaseError
from db.pool import Database, Executor, Record
from db.queries import clock, gaps, ranges, tickers, write_lock
from db.queries.gaps import TickerMinute
from db.rows import Reason
from ingest import metrics
from ingest.errors import JobsFailedError, OutboxError
from ingest.jobs.backfill import BackfillResult, backfill
from ingest.jobs.candles import build_candles
from ingest.jobs.changes import delete_old_changes
from ingest.jobs.deadline import Deadline
from ingest.jobs.delivery_prices import DeliveryPriceCollector
from ingest.jobs.digests import update_digests
from ingest.jobs.drain import drain, drain_ticks, log_backlog
from ingest.jobs.measure import measure
from ingest.jobs.message_minutes import MinuteChooser
from ingest.jobs.report import report_workers
from ingest.jobs.retain import RetentionRefusedError, retain
from ingest.jobs.store_ranges import MERGE_WINDOW_S
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.source import Exchange, ExchangeClock, agree_on_time

if TYPE_CHECKING:  # imported only with PEERS
    from ingest.jobs.peers import PeerComparer
    from ingest.peers import Peer

log = logging.getLogger(__name__)

JOB_TIMEOUTS_S: Final = {
    "tracking": 5.0,
    "outbox": 15.0,
    "gaps": 10.0,
    "ticks": 10.0,
    "metrics": 5.0,
    "report": 5.0,
    "backfill": 20.0,
    "delivery_prices": 10.0,
    "peers": 10.0,
    "candles": 10.0,
    "digests": 10.0,
    "changes": 5.0,
    "retention": 10.0,
}
"""The jobs of a minute in their order, with their timeouts in seconds. A slow or failing job does not stop the others."""
BUDGET_S: Final = 55.0
"""Time budget of all jobs together. The worker must be free for the next minute."""
MAX_BATCH_MINUTES = 10_000
"""Minutes checked per transaction, over all tickers."""


@dataclass
class ReconcileResult:
    """The result of reconciling."""

    until: int | None = None
    """Every expected minute before this one is stored, queued or a gap, unless its ticker has an older
    queued price; None if the exchange's clock is unknown."""
    now: int | None = None
    """UNIX seconds by the exchange's clock; None if it is unknown."""
    opened: dict[tuple[str, Reason], int] = field(default_factory=dict)
    """Number of minutes of the opened gaps, by ticker and reason."""
    backfilled: BackfillResult = field(default_factory=BackfillResult)


async def reconcile(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Exchange,
    db: Database,
    outbox: Outbox,
    resume_days: int = 7,
    retention_days: int | None = None,
    ticks_days: int = 0,
    delivery_prices: DeliveryPriceCollector | None = None,
    peers: "Sequence[Peer]" = (),
    peer_comparer: "PeerComparer | None" = None,
    budget_s: float = BUDGET_S,
    minute_chooser: MinuteChooser | None = None,
    database_clock: Callable[[Executor], Awaitable[float]] = clock.now,
) -> ReconcileResult:
    """Drains the outbox, opens new gaps, fills gaps, and runs the other jobs of a minute.

    `minute_chooser` chooses the minute of a late or early message. No gap is opened or filled while the outbox cannot be read:
    a queued price takes precedence over an average. Data is deleted only if the exchange's and the database's clocks are
    known and agree. Raises JobsFailedError after all jobs have run; the next minute continues.
    """
    await watchlist.read_worker_tickers(outbox)
    await watchlist.tickers(source=source)
    chosen = await (minute_chooser or MinuteChooser()).choose_minute(minute, source)
    if chosen is None:
        return ReconcileResult()
    minute = chosen
    jobs = Jobs(budget_s)
    reconciled, agreed_now, clocks_are_known = ReconcileResult(), None, False
    async with jobs.run_job("tracking"):
        now = await database_clock(db)
        source.clock.observe_database(now)
        exchange_now = source.clock.now(minute)
        clocks_are_known = exchange_now is not None
        agreed_now = agree_on_time(minute, exchange_now, now)
        await watchlist.update_tracking(minute, source=source, db=db)
    async with jobs.run_job("outbox"):
        await drain(outbox, db)
    async with jobs.run_job("gaps"):
        reconciled = await detect_gaps(minute, clock=source.clock, db=db, outbox=outbox)
    async with jobs.run_job("ticks"):
        await drain_ticks(outbox, db)
        if agreed_now is not None:
            async with write_lock.write_transaction(db) as connection:
                await ranges.delete_old_ticks(connection, max(MERGE_WINDOW_S, ticks_days * times.DAY))
    async with jobs.run_job("metrics"):
        await measure(reconciled.until, clock=source.clock, db=db, outbox=outbox, peer_urls=[peer.url for peer in peers])
    async with jobs.run_job("report"):
        await report_workers(source.clock, outbox, db)
    if reconciled.now is not None:
        async with jobs.run_job("backfill"):
            reconciled.backfilled = await backfill(reconciled.now, source=source, db=db, outbox=outbox, peers=peers)
    if agreed_now is not None and delivery_prices is not None:
        async with jobs.run_job("delivery_prices"):
            tracked = await tickers.list_tracked(db)
            await delivery_prices.collect(agreed_now, tracked, source=source, db=db)
    if agreed_now is not None and peer_comparer is not None:
        async with jobs.run_job("peers"):
            await peer_comparer.compare(agreed_now, db)
    async with jobs.run_job("candles"):
        await build_candles(db)
    if agreed_now is not None:
        async with jobs.run_job("digests"):
            await update_digests(agreed_now, db)
        async with jobs.run_job("changes"):
            await delete_old_changes(agreed_now, db, resume_days)
    if clocks_are_known:
        async with jobs.run_job("retention"):
            await retain(agreed_now, retention_days, db)
    await jobs.report(minute, outbox)
    return reconciled


class Jobs:
    """The jobs of one minute. Each has its own timeout and its own error."""

    def __init__(self, budget_s: float) -> None:
        self._deadline = Deadline(budget_s)
        self._failed: dict[str, Exception] = {}
        self._done: set[str] = set()

    @asynccontextmanager
    async def run_job(self, name: str) -> AsyncIterator[None]:
        """Runs the block as the named job. An exception ends only this job."""
        budget_s = min(JOB_TIMEOUTS_S[name], self._deadline.remaining_s())
        try:
            async with asyncio.timeout(budget_s):
                yield
        except TimeoutError:
            self._failed[name] = TimeoutError(f"not finished within {budget_s:.0f} s; it continues in the next minute")
        except (DatabaseError, OutboxError, RetentionRefusedError) as error:
            self._failed[name] = error
        except Exception as error:
            log.exception("the job %s failed with an unexpected error", name)
            self._failed[name] = error
        else:
            self._done.add(name)
        metrics.job_failing.labels(name).set(name in self._failed)

    async def report(self, minute: int, outbox: Outbox) -> None:
        """Reports failed jobs in the log and to `python -m ingest status`. Raises JobsFailedError if there are any."""
        for name, error in self._failed.items():
            log.error("minute %s: the job %s failed: %s", times.iso(minute), name, error)
        database = next((error for error in self._failed.values() if isinstance(error, DatabaseError)), None)
        if database is not None:
            await log_backlog(outbox, database)
        failed = {name: str(error) or type(error).__name__ for name, error in self._failed.items()}
        with suppress(OutboxError):  # it is among the failures already
            await outbox.write_job_failures(failed, self._done, minute)
        if failed:
            raise JobsFailedError(f"failed: {', '.join(failed)}") from next(iter(self._failed.values()))


async def detect_gaps(minute: int, *, clock: ExchangeClock, db: Database, outbox: Outbox) -> ReconcileResult:
    """Opens the gaps from each ticker's watermark to the last minute that is over. The cost depends only on new minutes."""
    now = clock.now(minute)
    if now is None:
        log.warning("waiting for the exchange's clock before checking for gaps up to %s", times.iso(minute))
        return ReconcileResult()
    # An exchange clock that is ahead must not create gaps in the future: two clocks must agree that a minute is over.
    clocks = [now, time.time(), *([] if clock.database_now is None else [clock.database_now])]
    until = min(minute, times.minute_of(now), times.minute_of(median_low(clocks)))
    # The outbox is read before the table, because a price only moves from the outbox to the table.
    pending = await outbox.pending_minutes()
    failure_reasons = await outbox.read_failures()
    reconciled, has_more = ReconcileResult(until, int(now)), True
    while has_more:
        opened, has_more = await _detect_gaps_in_batch(until, pending, failure_reasons, db)
        for row in opened:
            _log_gap(row)
            key = (row["ticker"], Reason(row["reason"]))
            reconciled.opened[key] = reconciled.opened.get(key, 0) + row["minutes"]
    # A ticker with a queued price does not advance, so its reasons may still be needed.
    pending_tickers = {ticker for ticker, _ in pending}
    await outbox.delete_failures(key for key in failure_reasons if key[1] < until and key[0] not in pending_tickers)
    return reconciled


async def _detect_gaps_in_batch(
    until: int, pending: Collection[TickerMinute], failure_reasons: Mapping[TickerMinute, Reason], db: Database
) -> tuple[list[Record], bool]:
    """Opens gaps in one transaction. Returns them, and whether there are more minutes to check."""
    # In descending order, so that each ticker's earliest minute stays.
    first_pending = dict(sorted(pending, key=lambda minute: minute[1], reverse=True))
    async with write_lock.write_transaction(db) as connection:
        watermarks = await gaps.watermarks(connection)
        # Never advance past a queued price: if the outbox is lost, its minute must still become a gap.
        ends = {ticker: min(until, first_pending.get(ticker, until)) for ticker in watermarks}
        behind_tickers = [ticker for ticker, low in watermarks.items() if low < ends[ticker]]
        late_reasons = {key: reason for key, reason in failure_reasons.items() if key[1] < watermarks.get(key[0], 0)}
        if late_reasons:
            await gaps.set_gap_reasons(connection, late_reasons)
        if not behind_tickers:
            return [], False
        span = max(1, MAX_BATCH_MINUTES // len(behind_tickers)) * times.MINUTE
        windows = {ticker: (watermarks[ticker], min(ends[ticker], watermarks[ticker] + span)) for ticker in behind_tickers}
        window_reasons = {
            key: reason
            for key, reason in failure_reasons.items()
            if key[0] in windows and _is_in_window(key[1], windows[key[0]])
        }
        opened = await gaps.detect_gaps(connection, windows, window_reasons)
    return opened, any(high < ends[ticker] for ticker, (_, high) in windows.items())


def _is_in_window(ts: int, window: tuple[int, int]) -> bool:
    return window[0] <= ts < window[1]


def _log_gap(row: Record) -> None:
    log.warning(
        "%s: %s missing from %s to %s: %s",
        row["ticker"],
        times.format_minutes(row["minutes"]),
        times.iso(row["low"]),
        times.iso(row["high"]),
        row["reason"],
    )
