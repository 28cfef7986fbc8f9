"""Collects the price of every ticker for one minute, and stores each price as it arrives."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from db import times
from db.pool import Database
from db.queries import clock
from ingest.errors import CollectError, OutboxError, StorageUnavailableError, UnknownTickerError
from ingest.jobs.deadline import Deadline
from ingest.jobs.fetch_price import MAX_SKEW_S, FetchResult, fetch_price
from ingest.jobs.message_minutes import MinuteChooser
from ingest.jobs.price_storage import PriceStorage
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, Report
from ingest.source import Exchange

log = logging.getLogger(__name__)

BUDGET_S = 50.0
"""Time budget of a collect, by a monotonic clock. The worker must be free for the next minute."""


@dataclass
class CollectResult:
    """The result of collecting one minute."""

    stored: int = 0
    """New rows in the database, also those of earlier minutes that were queued in the outbox."""
    prices: dict[str, str] = field(default_factory=dict)
    """The minute's price of each fetched ticker that has one."""
    later_tickers: list[str] = field(default_factory=list)
    """Tickers whose first response was of a later minute, because this one is over."""
    attempts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, CollectError] = field(default_factory=dict)
    duration_s: float = 0.0


async def collect(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Exchange,
    db: Database,
    outbox: Outbox | None,
    only: Sequence[str] = (),
    max_retries: int | None = None,
    budget_s: float = BUDGET_S,
    minute_chooser: MinuteChooser | None = None,
) -> CollectResult:
    """Fetches every ticker (or those in `only`) concurrently and stores each price as it arrives.

    A price belongs to the minute in which the exchange quoted it. It goes into the outbox, and from there into the database.
    `minute_chooser` chooses the minute of a late or early message. Skips tickers whose price is stored or queued.
    A ticker's failure does not stop the others. It is retried until the budget or `max_retries` ends; then its reason is
    recorded.
    """
    collected = CollectResult()
    deadline = Deadline(budget_s)
    storage = PriceStorage(outbox, db, deadline)
    await watchlist.read_worker_tickers(outbox)
    tickers = await watchlist.tickers(source=source)
    async with storage.tolerate_database_outage("cannot read the database's clock"):
        source.clock.observe_database(await clock.now(db))
    chosen = await (minute_chooser or MinuteChooser()).choose_minute(minute, source)
    if chosen is None:
        return collected
    minute = chosen
    missing = await _find_missing_tickers(minute, tickers, only, storage)
    if not storage.database_is_unavailable:
        await _catch_up_database(minute, watchlist, source, db, storage)
    fetches = [fetch_price(ticker, minute, source, deadline, max_retries) for ticker in missing]
    async with aclosing(_in_arrival_order(fetches)) as batches:
        async for batch in batches:
            await _save_batch(batch, minute, storage, collected)
    await _catch_up_database(minute, watchlist, source, db, storage)
    now = source.clock.now(minute)
    failures = {(ticker, minute): failure.reason for ticker, failure in collected.failures.items()}
    await storage.record_failures(failures, has_begun=now is None or now >= minute)
    await _drop_unknown(minute, collected, watchlist, db, storage)
    collected.stored = storage.stored.new
    collected.duration_s = round(deadline.elapsed_s(), 3)
    _log_result(minute, missing, collected, source)
    failures_by_ticker = {ticker: f"{times.iso(minute)} {failure}" for ticker, failure in collected.failures.items()}
    await _write_report(Report(source.clock.skew_s, failures_by_ticker | watchlist.unknown), outbox)
    return collected


async def _find_missing_tickers(minute: int, tickers: Sequence[str], only: Sequence[str], storage: PriceStorage) -> list[str]:
    if not tickers:
        log.warning("minute %s: there is no ticker to collect; check TICKERS", times.iso(minute))
    existing_tickers = await storage.existing_tickers(tickers, minute)
    missing = [ticker for ticker in tickers if ticker not in existing_tickers and (not only or ticker in only)]
    if missing:
        log.info("minute %s: fetching %d tickers", times.iso(minute), len(missing))
    return missing


async def _catch_up_database(minute: int, watchlist: Watchlist, source: Exchange, db: Database, storage: PriceStorage) -> None:
    """Updates the tracking periods and, when the database is available again, drains the outbox. The next minute retries."""
    was_unavailable = storage.database_is_unavailable
    async with storage.tolerate_database_outage("tracking periods are updated later"):
        await watchlist.update_tracking(minute, source=source, db=db)
    if was_unavailable and not storage.database_is_unavailable:
        await storage.drain()


async def _drop_unknown(
    minute: int, collected: CollectResult, watchlist: Watchlist, db: Database, storage: PriceStorage
) -> None:
    for ticker, failure in collected.failures.items():
        if isinstance(failure, UnknownTickerError) and not storage.database_is_unavailable:
            async with storage.tolerate_database_outage(f"{ticker} is unknown to the exchange and is dropped later"):
                await watchlist.drop(ticker, minute, db=db)


async def _in_arrival_order(fetches: Sequence[Coroutine[None, None, FetchResult]]) -> AsyncGenerator[list[FetchResult], None]:
    """Yields the results in batches: those that arrived while the previous batch was processed."""
    pending = {asyncio.create_task(fetch) for fetch in fetches}
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in pending:
            task.cancel()


async def _save_batch(batch: Sequence[FetchResult], minute: int, storage: PriceStorage, collected: CollectResult) -> None:
    storage_error: StorageUnavailableError | None = None
    try:
        await storage.save([row for result in batch for row in result.rows])
    except StorageUnavailableError as error:
        storage_error = error
    for result in batch:
        collected.attempts[result.ticker] = result.attempts
        failure = result.failure or storage_error
        price_row = result.price_of(minute)
        if failure is not None:
            collected.failures[result.ticker] = failure
        elif price_row is not None:
            collected.prices[result.ticker] = f"{price_row.price:f}"
        else:
            collected.later_tickers.append(result.ticker)


def _log_result(minute: int, requested: Sequence[str], collected: CollectResult, source: Exchange) -> None:
    if not requested:
        log.info("minute %s: nothing is missing", times.iso(minute))
        return
    log.info(
        "minute %s: %d of %d prices collected, %d new rows stored",
        times.iso(minute),
        len(collected.prices),
        len(requested),
        collected.stored,
        extra={"prices": collected.prices, "attempts": collected.attempts, "duration_s": collected.duration_s},
    )
    if collected.later_tickers:
        log.warning(
            "minute %s was over when Deribit responded for %d tickers: their prices are stored under their own minute",
            *(times.iso(minute), len(collected.later_tickers)),
        )
    for ticker, failure in collected.failures.items():
        log.error(
            "%s has no price for %s: %s",
            ticker,
            times.iso(minute),
            failure,
            extra={"reason": failure.reason.value, "attempts": collected.attempts[ticker]},
        )
    skew_s = source.clock.skew_s
    if skew_s is not None and abs(skew_s) - source.clock.uncertainty_s >= MAX_SKEW_S:
        log.warning("the local clock is %.1f s %s Deribit's", abs(skew_s), "ahead of" if skew_s > 0 else "behind")


async def _write_report(report: Report, outbox: Outbox | None) -> None:
    """Writes the report for `python -m ingest status`."""
    if outbox is not None:
        try:
            await outbox.write_report(report)
        except OutboxError as error:
            log.debug("cannot write the report to Redis: %s", error)
