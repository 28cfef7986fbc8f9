"""Every expected minute that is over is stored, waits in the outbox, or becomes a gap with a reason."""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from db import times
from db.errors import DatabaseError
from db.pool import Database, Record
from db.queries import gaps, writing
from db.queries.gaps import Minute
from db.tables import Reason
from ingest.errors import OutboxError
from ingest.jobs.backfill import Backfilled, backfill
from ingest.jobs.candles import build_candles
from ingest.jobs.changes import RESUME_DAYS, forget_changes
from ingest.jobs.deadline import Deadline
from ingest.jobs.drain import drain, say_how_many_wait
from ingest.jobs.measure import measure
from ingest.jobs.retain import retain
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.source import ExchangeClock, Source

log = logging.getLogger(__name__)

BUDGET_S = 50.0
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
) -> Reconciled:
    """Drains the outbox, opens the gaps that are new, and fills what can be filled.

    Does nothing for a minute that is over, for a newer message does its work, and nothing while the outbox cannot be read: a
    price that waits there must win over an average. Raises OutboxError or DatabaseError then: the next minute's call goes on
    from where this one ended.
    """
    await watchlist.tickers(minute, source=source)
    if source.clock.has_passed(minute, within_s=math.inf):
        log.info("minute %s is over: nothing to reconcile", times.iso(minute))
        return Reconciled()
    try:
        async with Deadline(budget_s).enforced():
            await watchlist.follow(db)
            drained = await drain(outbox, db)
            if drained.strangers:  # somebody emptied or restored the database under us
                await watchlist.follow_again(minute, source=source, db=db)
            reconciled = await walk(minute, clock=source.clock, db=db, outbox=outbox)
            if reconciled.now is not None:
                reconciled.backfilled = await backfill(reconciled.now, source=source, db=db, outbox=outbox)
            await build_candles(db)
            await forget_changes(db, resume_days)
            await retain(minute, retention_days, db)
            await measure(reconciled.until, clock=source.clock, db=db, outbox=outbox)
            return reconciled
    except OutboxError as error:
        log.error("gaps are looked for once the outbox can be read: %s", error)  # noqa: TRY400  one line is enough
        raise
    except DatabaseError as error:
        log.error("minute %s could not be reconciled to its end: %s", times.iso(minute), error)  # noqa: TRY400  likewise
        await say_how_many_wait(outbox, error)
        raise


async def walk(minute: int, *, clock: ExchangeClock, db: Database, outbox: Outbox) -> Reconciled:
    """Opens the gaps from each ticker's watermark to the last minute that is over, at the cost of what is new."""
    now = clock.now(minute, within_s=math.inf)
    if now is None:
        log.warning("gaps up to %s are looked for once the exchange has told its time", times.iso(minute))
        return Reconciled()
    until = min(minute, times.minute_of(now))
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
