"""The price of every ticker for one minute: asked for, and kept as it comes."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from db import times
from db.pool import Database
from db.queries import clock
from ingest.errors import CollectError, NotKeptError, OutboxError, UnknownTickerError
from ingest.jobs.ask import SKEW_ALLOWED_S, Asked, ask
from ingest.jobs.deadline import Deadline
from ingest.jobs.keep import Keeping
from ingest.jobs.message_minutes import MessageMinutes
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, Report
from ingest.source import Source

log = logging.getLogger(__name__)

BUDGET_S = 50.0
"""How long a collect may take, by a monotonic clock: the next minute's must find the worker free."""


@dataclass
class Collected:
    """What became of a minute."""

    stored: int = 0
    """Rows that were not in the database before."""
    prices: dict[str, str] = field(default_factory=dict)
    """The minute's price of each ticker that answered in it."""
    later: list[str] = field(default_factory=list)
    """Tickers whose first answer was of a later minute: this one is over."""
    attempts: dict[str, int] = field(default_factory=dict)
    failures: dict[str, CollectError] = field(default_factory=dict)
    duration_s: float = 0.0


async def collect(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Source,
    db: Database,
    outbox: Outbox | None,
    only: Sequence[str] = (),
    max_retries: int | None = None,
    budget_s: float = BUDGET_S,
    minutes: MessageMinutes | None = None,
) -> Collected:
    """Asks for every ticker (or those in `only`) at once and keeps each price as it comes.

    Each goes under the minute in which the exchange said it: into the outbox, and from there into the database. `minutes` says
    what a message of another minute stands for. Ends at once where everything of the minute is there. No ticker's failure stops
    another's; each is tried until the budget ends, and what failed by then is left as evidence.
    """
    collected = Collected()
    deadline = Deadline(budget_s)
    keeping = Keeping(outbox, db, deadline)
    await watchlist.hear(outbox)
    tickers = await watchlist.tickers(source=source)
    async with keeping.patiently("the database's clock cannot be asked"):
        source.clock.hear_database(await clock.now(db))
    chosen = await (minutes or MessageMinutes()).choose(minute, source)
    if chosen is None:
        return collected
    minute = chosen
    missing = await _missing(minute, tickers, only, keeping)
    if not keeping.database_is_away:
        await _settle(minute, watchlist, source, db, keeping)
    asking = [ask(ticker, minute, source, deadline, max_retries) for ticker in missing]
    async with aclosing(_as_they_come(asking)) as batches:
        async for batch in batches:
            await _keep(batch, minute, keeping, collected)
    await _settle(minute, watchlist, source, db, keeping)
    now = source.clock.now(minute, within_s=math.inf)
    failures = {(ticker, minute): failure.reason for ticker, failure in collected.failures.items()}
    await keeping.note(failures, begun=now is None or now >= minute)
    await _drop_unknown(minute, collected, watchlist, db, keeping)
    collected.stored = keeping.done.new
    collected.duration_s = round(deadline.passed_s(), 3)
    _report(minute, missing, collected, source)
    await _say(minute, collected, source, outbox)
    return collected


async def _missing(minute: int, tickers: Sequence[str], only: Sequence[str], keeping: Keeping) -> list[str]:
    if not tickers:
        log.warning("minute %s: there is no ticker to ask for; is TICKERS right?", times.iso(minute))
    there = await keeping.there(tickers, minute)
    missing = [ticker for ticker in tickers if ticker not in there and (not only or ticker in only)]
    if missing:
        log.info("minute %s: asking for %d tickers", times.iso(minute), len(missing))
    return missing


async def _settle(minute: int, watchlist: Watchlist, source: Source, db: Database, keeping: Keeping) -> None:
    """Sees to what the database is behind with: periods of tracking, and prices that wait. Otherwise the next minute does."""
    was_away = keeping.database_is_away
    async with keeping.patiently("since when tickers are tracked is written later"):
        await watchlist.follow(minute, source=source, db=db)
    if was_away and not keeping.database_is_away:
        await keeping.drain()


async def _drop_unknown(minute: int, collected: Collected, watchlist: Watchlist, db: Database, keeping: Keeping) -> None:
    for ticker, failure in collected.failures.items():
        if isinstance(failure, UnknownTickerError) and not keeping.database_is_away:
            async with keeping.patiently(f"{ticker} is unknown to the exchange, and is asked for until it can be dropped"):
                await watchlist.drop(ticker, minute, db=db)


async def _as_they_come(asking: Sequence[Coroutine[None, None, Asked]]) -> AsyncGenerator[list[Asked], None]:
    """The results in batches: whatever arrived while the batch before was dealt with."""
    pending = {asyncio.create_task(one) for one in asking}
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            yield [task.result() for task in done]
    finally:
        for task in pending:
            task.cancel()


async def _keep(batch: Sequence[Asked], minute: int, keeping: Keeping, collected: Collected) -> None:
    unkept: NotKeptError | None = None
    try:
        await keeping.keep([row for asked in batch for row in asked.rows])
    except NotKeptError as error:
        unkept = error
    for asked in batch:
        collected.attempts[asked.ticker] = asked.attempts
        failure = asked.failure or unkept
        own = asked.price_of(minute)
        if failure is not None:
            collected.failures[asked.ticker] = failure
        elif own is not None:
            collected.prices[asked.ticker] = f"{own.price:f}"
        else:
            collected.later.append(asked.ticker)


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
    if collected.later:
        log.warning(
            "minute %s was over when Deribit answered for %d tickers: their prices are stored under their own minute",
            *(times.iso(minute), len(collected.later)),
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
    if skew_s is not None and abs(skew_s) - source.clock.uncertainty_s >= SKEW_ALLOWED_S:
        log.warning("the local clock is %.1f s %s Deribit's", abs(skew_s), "ahead of" if skew_s > 0 else "behind")


async def _say(minute: int, collected: Collected, source: Source, outbox: Outbox | None) -> None:
    """For `python -m ingest status`."""
    errors = {ticker: f"{times.iso(minute)} {failure}" for ticker, failure in collected.failures.items()}
    if outbox is not None:
        try:
            await outbox.say(Report(source.clock.skew_s, errors))
        except OutboxError as error:
            log.debug("nothing could be said to Redis: %s", error)
