"""Sets the Prometheus gauges of the collector, once a minute after gaps are opened."""

import math
import time
from collections.abc import Iterable

from db import times
from db.pool import Database
from db.queries import delivery_prices, gaps, peers, retention, tickers
from db.rows import Reason
from ingest import metrics
from ingest.outbox import Outbox
from ingest.source import ExchangeClock


async def measure(
    until: int | None, *, clock: ExchangeClock, db: Database, outbox: Outbox, peer_urls: Iterable[str] = ()
) -> None:
    """Sets the gauges. Every minute before `until` is stored, queued or a gap. Raises OutboxError or DatabaseError."""
    # First, because the outbox grows while the database is unavailable.
    pending = [ts for _, ts in await outbox.pending_minutes()]
    metrics.outbox.set(len(pending))
    metrics.outbox_oldest.set(min(pending, default=times.FIRST))
    if until is not None:
        metrics.reconciled_until.set(until)
    if clock.skew_s is not None:
        metrics.clock_skew_seconds.set(clock.skew_s)
    now = clock.database_now or time.time()
    metrics.horizons_in_future.set(len(await retention.future_horizons(db, int(now))))
    differences = await delivery_prices.latest_differences(db, int(now) - 2 * times.DAY)
    for row in await tickers.list_tickers(db, now):
        # A ticker that is no longer tracked must not fire an alert.
        metrics.last_price_timestamp.labels(row["name"]).set(
            row["ts"] if row["tracked"] and row["ts"] is not None else math.nan
        )
        # Without a mean of the newest deliveries, an old difference must not keep an alert.
        metrics.delivery_difference.labels(row["name"]).set(differences.get(row["name"], math.nan))
    await _measure_peers(db, peer_urls)
    missing = {(row["reason"], row["state"]): row for row in await gaps.missing_by_reason(db)}
    for reason in Reason:
        for state in ("open", "given_up"):
            found = missing.get((reason, state))
            metrics.missing_minutes.labels(reason, state).set(0 if found is None else found["minutes"])
    metrics.oldest_gap.set(min((row["oldest"] for (_, state), row in missing.items() if state == "open"), default=0))


async def _measure_peers(db: Database, urls: Iterable[str]) -> None:
    for peer, found_of_peer in (await peers.newest_by_peer(db, urls)).items():
        metrics.peer_compared_day.labels(peer).set(min((found.day for found in found_of_peer), default=0))
        metrics.peer_missing_minutes.labels(peer, "here").set(sum(found.only_there for found in found_of_peer))
        metrics.peer_missing_minutes.labels(peer, "there").set(sum(found.only_here for found in found_of_peer))
        metrics.peer_difference.labels(peer).set(max((float(found.max_bps or 0) for found in found_of_peer), default=0))
