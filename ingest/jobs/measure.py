"""How collecting stands, for Prometheus: told once a minute, when everything is accounted for."""

import math
import time

from db import times
from db.pool import Database
from db.queries import gaps, retention, tickers
from db.tables import Reason
from ingest import metrics
from ingest.outbox import Outbox
from ingest.source import ExchangeClock


async def measure(until: int | None, *, clock: ExchangeClock, db: Database, outbox: Outbox) -> None:
    """Sets the gauges; `until`: every minute before it is accounted for. Raises OutboxError or DatabaseError."""
    await measure_outbox(outbox)  # first: it is what waits while the database is away
    if until is not None:
        metrics.reconciled.set(until)
    if clock.skew_s is not None:
        metrics.clock_skew_seconds.set(clock.skew_s)
    now = clock.database_now or time.time()
    metrics.horizons_in_future.set(len(await retention.in_future(db, int(now))))
    for row in await tickers.every(db, now):
        # What is not collected any more is no alarm.
        metrics.last_price.labels(row["name"]).set(row["ts"] if row["tracked"] and row["ts"] is not None else math.nan)
    missing = {(row["reason"], row["state"]): row for row in await gaps.missing_by_reason(db)}
    for reason in Reason:
        for state in ("open", "given_up"):
            found = missing.get((reason, state))
            metrics.missing.labels(reason, state).set(0 if found is None else found["minutes"])
    metrics.oldest_gap.set(min((row["oldest"] for (_, state), row in missing.items() if state == "open"), default=0))


async def measure_outbox(outbox: Outbox) -> int:
    """Tells how many prices wait for PostgreSQL, and since when. Raises OutboxError."""
    waiting = [ts for _, ts in await outbox.minutes()]
    metrics.outbox.set(len(waiting))
    metrics.outbox_oldest.set(min(waiting, default=times.FIRST))
    return len(waiting)
