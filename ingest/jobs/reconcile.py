"""Every expected minute that is over is stored, waits in the outbox, or becomes a gap with a reason."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median_low
from typing import Final

from db import times
from db.errors import DatabaseError
from db.pool import Database, Executor, Record
from db.queries import clock, gaps, writing
from db.queries.gaps import Minute
from db.tables import Reason
from ingest import metrics
from ingest.errors import JobsFailedError, OutboxError
from ingest.jobs.backfill import Backfilled, backfill
from ingest.jobs.candles import build_candles
from ingest.jobs.changes import RESUME_DAYS, forget_changes
from ingest.jobs.deadline import Deadline
from ingest.jobs.drain import drain, say_how_many_wait
from ingest.jobs.measure import measure
from ingest.jobs.message_minutes import MessageMinutes
from ingest.jobs.retain import RetentionRefusedError, retain
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.source import ExchangeClock, Source, agreed

log = logging.getLogger(__name__)

BUDGETS_S: Final = {
    "tracking": 5.0,
    "outbox": 15.0,
    "gaps": 10.0,
    "metrics": 5.0,
    "backfill": 20.0,
    "candles": 10.0,
    "changes": 5.0,
    "retention": 10.0,
}
"""The jobs of a minute, in their order, with the seconds that each may take: one that is slow or fails stops no other."""
BUDGET_S: Final = 55.0
"""For all of them: the next minute's must find the worker free."""
AT_ONCE = 10_000
"""Minutes walked in a transaction, over all tickers."""


@dataclass
class Reconciled:
    """What became of a walk."""

    until: int | None = None
    """Every minute before it is stored or a gap; None where the exchange's clock is unknown."""
    now: int | None = None
    """By the exchange's clock, however long ago it was heard."""
    opened: dict[tuple[str, Reason], int] = field(default_factory=dict)
    """Minutes, by ticker and reason."""
    backfilled: Backfilled = field(default_factory=Backfilled)


async def reconcile(
    minute: int,
    *,
    watchlist: Watchlist,
    source: Source,
    db: Database,
    outbox: Outbox,
    resume_days: int = RESUME_DAYS,
    retention_days: int | None = None,
    budget_s: float = BUDGET_S,
    minutes: MessageMinutes | None = None,
    database_clock: Callable[[Executor], Awaitable[float]] = clock.now,
) -> Reconciled:
    """Drains the outbox, opens the gaps that are new, fills what can be filled, and does the other jobs of a minute.

    `minutes` says what a message of another minute stands for. No gap is looked for while the outbox cannot be read: a price
    that waits there must win over an average. What the clocks decide for good is done only where the exchange's and the
    database's are known and agree. Raises JobsFailedError once every job had its turn: the next minute goes on from there.
    """
    await watchlist.hear(outbox)
    await watchlist.tickers(source=source)
    chosen = await (minutes or MessageMinutes()).choose(minute, source)
    if chosen is None:
        return Reconciled()
    minute = chosen
    jobs = Jobs(budget_s)
    reconciled, agreed_now, clocks_are_known = Reconciled(), None, False
    async with jobs.job("tracking"):
        now = await database_clock(db)
        source.clock.hear_database(now)
        exchange_now = source.clock.now(minute, within_s=math.inf)
        clocks_are_known = exchange_now is not None
        agreed_now = agreed(minute, exchange_now, now)
        await watchlist.follow(minute, source=source, db=db)
    async with jobs.job("outbox"):
        await drain(outbox, db)
    async with jobs.job("gaps"):
        reconciled = await walk(minute, clock=source.clock, db=db, outbox=outbox)
    async with jobs.job("metrics"):
        await measure(reconciled.until, clock=source.clock, db=db, outbox=outbox)
    if reconciled.now is not None:
        async with jobs.job("backfill"):
            reconciled.backfilled = await backfill(reconciled.now, source=source, db=db, outbox=outbox)
    async with jobs.job("candles"):
        await build_candles(db)
    if agreed_now is not None:
        async with jobs.job("changes"):
            await forget_changes(agreed_now, db, resume_days)
    if clocks_are_known:
        async with jobs.job("retention"):
            await retain(agreed_now, retention_days, db)
    await jobs.report(minute, outbox)
    return reconciled


class Jobs:
    """The jobs of one minute: each has its own time and its own error."""

    def __init__(self, budget_s: float) -> None:
        self._deadline = Deadline(budget_s)
        self._failed: dict[str, Exception] = {}
        self._done: set[str] = set()

    @asynccontextmanager
    async def job(self, name: str) -> AsyncIterator[None]:
        """Runs the block as the job; what it raises ends it alone."""
        budget_s = min(BUDGETS_S[name], self._deadline.left_s())
        try:
            async with asyncio.timeout(budget_s):
                yield
        except TimeoutError:
            self._failed[name] = TimeoutError(f"not done within {budget_s:.0f} s; it goes on in the next minute")
        except (DatabaseError, OutboxError, RetentionRefusedError) as error:
            self._failed[name] = error
        except Exception as error:
            log.exception("the job %s has an error that nothing was made for", name)
            self._failed[name] = error
        else:
            self._done.add(name)
        metrics.job_failing.labels(name).set(name in self._failed)

    async def report(self, minute: int, outbox: Outbox) -> None:
        """Says which jobs failed, in the log and for `python -m ingest status`. Raises JobsFailedError where some did."""
        for name, error in self._failed.items():
            log.error("minute %s: the job %s failed: %s", times.iso(minute), name, error)
        database = next((error for error in self._failed.values() if isinstance(error, DatabaseError)), None)
        if database is not None:
            await say_how_many_wait(outbox, database)
        failed = {name: str(error) or type(error).__name__ for name, error in self._failed.items()}
        with suppress(OutboxError):  # which is among the failures then
            await outbox.write_jobs(failed, self._done, minute)
        if failed:
            raise JobsFailedError(f"failed: {', '.join(failed)}") from next(iter(self._failed.values()))


async def walk(minute: int, *, clock: ExchangeClock, db: Database, outbox: Outbox) -> Reconciled:
    """Opens the gaps from each ticker's watermark to the last minute that is over, at the cost of what is new."""
    now = clock.now(minute, within_s=math.inf)
    if now is None:
        log.warning("gaps up to %s are looked for once the exchange has told its time", times.iso(minute))
        return Reconciled()
    # An exchange whose clock is ahead must not make gaps of minutes to come: two clocks have to say that they are over.
    clocks = [now, time.time(), *([] if clock.database_now is None else [clock.database_now])]
    until = min(minute, times.minute_of(now), times.minute_of(median_low(clocks)))
    # Before the table, for a price only ever moves from here to there.
    waiting = await outbox.minutes()
    evidence = await outbox.failures()
    reconciled, more = Reconciled(until, int(now)), True
    while more:
        opened, more = await _step(until, waiting, evidence, db)
        for row in opened:
            _tell(row)
            key = (row["ticker"], Reason(row["reason"]))
            reconciled.opened[key] = reconciled.opened.get(key, 0) + row["minutes"]
    # What stands still because a price of its ticker waits may need its evidence yet.
    held = {ticker for ticker, _ in waiting}
    await outbox.forget(key for key in evidence if key[1] < until and key[0] not in held)
    return reconciled


async def _step(
    until: int, waiting: Collection[Minute], evidence: Mapping[Minute, Reason], db: Database
) -> tuple[list[Record], bool]:
    """What one transaction opened, and whether there is more to walk."""
    first_waiting = dict(sorted(waiting, key=lambda minute: minute[1], reverse=True))
    async with writing.turn(db) as connection:
        lows = await gaps.last_minutes(connection)
        # Never past a price that waits: should the outbox be lost, its minute must still be found.
        ends = {ticker: min(until, first_waiting.get(ticker, until)) for ticker in lows}
        behind = [ticker for ticker, low in lows.items() if low < ends[ticker]]
        late = {key: reason for key, reason in evidence.items() if key[1] < lows.get(key[0], 0)}
        if late:
            await gaps.explain(connection, late)
        if not behind:
            return [], False
        span = max(1, AT_ONCE // len(behind)) * times.MINUTE
        walked = {ticker: (lows[ticker], min(ends[ticker], lows[ticker] + span)) for ticker in behind}
        new = {key: reason for key, reason in evidence.items() if key[0] in walked and _within(key[1], walked[key[0]])}
        opened = await gaps.open_missing(connection, walked, new)
    return opened, any(high < ends[ticker] for ticker, (_, high) in walked.items())


def _within(ts: int, window: tuple[int, int]) -> bool:
    return window[0] <= ts < window[1]


def _tell(row: Record) -> None:
    log.warning(
        "%s: %s missing from %s to %s: %s",
        row["ticker"],
        times.minutes(row["minutes"]),
        times.iso(row["low"]),
        times.iso(row["high"]),
        row["reason"],
    )
