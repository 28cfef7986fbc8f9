"""The price of every ticker for one minute: asked for, and stored as it comes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field

from db import times
from db.errors import DatabaseError, MissingReferenceError
from db.pool import Database
from db.queries import prices, writing
from db.tables import PriceRow
from ingest.errors import SourceError, UnknownTickerError
from ingest.jobs.ask import SKEW_ALLOWED_S, Asked, ask
from ingest.jobs.deadline import Deadline
from ingest.jobs.watchlist import Watchlist
from ingest.source import Source

log = logging.getLogger(__name__)

BUDGET_S = 50.0
"""How long a collect may take, by a monotonic clock: the next minute's must find the worker free."""


@dataclass
class Collected:
    """What became of a minute."""

    stored: int = 0
    """Rows that were not there before."""
    prices: dict[str, str] = field(default_factory=dict)
    """The minute's price of each ticker that answered."""
    attempts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, SourceError] = field(default_factory=dict)
    duration_s: float = 0.0


async def collect(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Source,
    db: Database,
    only: Sequence[str] = (),
    max_retries: int | None = None,
    budget_s: float = BUDGET_S,
) -> Collected:
    """Asks for every ticker (or those in `only`) at once and stores each price as it comes.

    Each goes under the minute in which the exchange said it. Ends at once where the minute is over by the exchange's clock,
    or stored. No ticker's failure stops another's; each is tried until the budget ends. Raises DatabaseError where prices
    could not be stored by then.
    """
    collected = Collected()
    if source.clock.has_passed(minute):
        log.info("minute %s is over: nothing to collect", times.iso(minute))
        return collected
    deadline = Deadline(budget_s)
    try:
        missing = await _missing(minute, only, watchlist, source, db, deadline)
        if missing:
            log.info("minute %s: asking for %d tickers", times.iso(minute), len(missing))
        asking = [ask(ticker, minute, source, deadline, max_retries) for ticker in missing]
        async for batch in _as_they_come(asking):
            rows = [row for asked in batch for row in asked.rows]
            collected.stored += await _store(rows, minute, watchlist, source, db, deadline)
            _take_in(collected, batch)
        for ticker, failure in collected.failures.items():
            if isinstance(failure, UnknownTickerError):
                await watchlist.drop(ticker, minute, db=db)
    except DatabaseError as error:
        log.error("minute %s could not be stored: %s", times.iso(minute), error)  # noqa: TRY400  one line is enough
        raise
    collected.duration_s = round(deadline.passed_s(), 3)
    _report(minute, missing, collected, source)
    return collected


async def _missing(
    minute: int, only: Sequence[str], watchlist: Watchlist, source: Source, db: Database, deadline: Deadline
) -> list[str]:
    async for attempt in deadline.while_database_is_away():
        with attempt:
            async with deadline.enforced():
                tickers = await watchlist.tickers(minute, source=source, db=db)
                stored = await prices.stored_at(db, tickers, minute)
    if not tickers:
        log.warning("minute %s: there is no ticker to ask for; is TICKERS right?", times.iso(minute))
    return [ticker for ticker in tickers if ticker not in stored and (not only or ticker in only)]


async def _as_they_come(asking: Sequence[Coroutine[None, None, Asked]]) -> AsyncIterator[list[Asked]]:
    """The results in batches: whatever arrived while the batch before was dealt with. What broke is raised at the end."""
    pending = {asyncio.create_task(one) for one in asking}
    broken: list[Exception] = []
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done if task.exception() is None]
            broken += [error for task in done if isinstance(error := task.exception(), Exception)]
    finally:
        for task in pending:
            task.cancel()
    if broken:
        raise ExceptionGroup("asking for a price broke", broken)


async def _store(
    rows: Sequence[PriceRow], minute: int, watchlist: Watchlist, source: Source, db: Database, deadline: Deadline
) -> int:
    """How many of the rows are new."""
    if not rows:
        return 0
    async for attempt in deadline.while_database_is_away():
        with attempt:
            async with deadline.enforced():
                try:
                    stored = await _insert(rows, db)
                except MissingReferenceError:  # somebody emptied or restored the database under us
                    await watchlist.follow_again(minute, source=source, db=db)
                    stored = await _insert(rows, db)
    return stored


async def _insert(rows: Sequence[PriceRow], db: Database) -> int:
    async with writing.turn(db) as connection:
        return len(await prices.store(connection, rows))


def _take_in(collected: Collected, batch: Sequence[Asked]) -> None:
    for asked in batch:
        collected.attempts[asked.ticker] = asked.attempts
        if asked.failure is None:
            collected.prices[asked.ticker] = f"{asked.rows[-1].price:f}"
        else:
            collected.failures[asked.ticker] = asked.failure


def _report(minute: int, asked: Sequence[str], collected: Collected, source: Source) -> None:
    if not asked:
        log.info("minute %s: nothing is missing", times.iso(minute))
        return
    log.info(
        "minute %s: %d of %d prices collected, %d of them new",
        times.iso(minute),
        len(collected.prices),
        len(asked),
        collected.stored,
        extra={"prices": collected.prices, "attempts": collected.attempts, "duration_s": collected.duration_s},
    )
    for ticker, failure in collected.failures.items():
        log.error(
            "%s has no price for %s: %s",
            ticker,
            times.iso(minute),
            failure,
            extra={"reason": failure.reason.value, "attempts": collected.attempts[ticker]},
        )
    clock = source.clock
    if clock.skew_s is not None and abs(clock.skew_s) - clock.uncertainty_s >= SKEW_ALLOWED_S:
        log.warning("the local clock is %.1f s %s Deribit's", abs(clock.skew_s), "ahead of" if clock.skew_s > 0 else "behind")
