"""Moves prices and ticks from the outbox into PostgreSQL."""

import logging
from collections.abc import Sequence

from db.errors import DatabaseError
from db.pool import Database
from db.queries import rejects
from ingest.errors import OutboxError
from ingest.jobs.store import StoreResult, store
from ingest.jobs.store_ranges import store_ranges
from ingest.outbox import InvalidEntry, Outbox

log = logging.getLogger(__name__)

MAX_BATCH_ROWS = 1_000
"""Rows per transaction."""
MAX_BATCH_MINUTES = 500
"""Minutes of ticks per transaction."""
BACKLOG_ERROR_RATIO = 0.1
"""Part of the outbox's limit from which the backlog is logged as an error."""


async def drain(outbox: Outbox, db: Database, drained: StoreResult | None = None) -> StoreResult:
    """Commits every queued price, the oldest minutes first, then removes it from the outbox. Updates `drained` on the way.

    An entry that is invalid or violates a constraint is moved to `reject`. Raises OutboxError or DatabaseError; prices that
    were not committed stay queued.
    """
    drained = StoreResult() if drained is None else drained
    fields = await outbox.prices.fields()
    for start in range(0, len(fields), MAX_BATCH_ROWS):
        batch = await outbox.prices.read(fields[start : start + MAX_BATCH_ROWS])
        drained.add(await store(db, batch.values))
        await _reject(db, batch.invalid)
        drained.rejected += len(batch.invalid)
        await outbox.prices.remove(batch.entries)
    return drained


async def drain_ticks(outbox: Outbox, db: Database) -> int:
    """Commits every queued minute of ticks, the oldest first, then removes it from the outbox. Returns the changed ranges.

    Raises OutboxError or DatabaseError; minutes that were not committed stay queued.
    """
    fields = await outbox.ticks.fields()
    stored = 0
    for start in range(0, len(fields), MAX_BATCH_MINUTES):
        batch = await outbox.ticks.read(fields[start : start + MAX_BATCH_MINUTES])
        stored += (await store_ranges(db, batch.values)).stored
        await _reject(db, batch.invalid)
        await outbox.ticks.remove(batch.entries)
    return stored


async def _reject(db: Database, entries: Sequence[InvalidEntry]) -> None:
    for entry in entries:
        log.error("an entry of the outbox is rejected: %s: %.80s", entry.reason, entry.entry)
        await rejects.insert_reject(db, entry.ticker, entry.ts, entry.entry, entry.reason)


async def log_backlog(outbox: Outbox, error: DatabaseError) -> None:
    """Logs how many prices are queued because of the error; as an error long before the outbox is full."""
    try:
        depth = await outbox.prices.depth()
    except OutboxError:
        return
    if depth:
        level = logging.ERROR if depth >= outbox.max_prices * BACKLOG_ERROR_RATIO else logging.WARNING
        log.log(
            level,
            "%d prices are queued in the outbox, which holds %d, because the database is unavailable: %s",
            depth,
            outbox.max_prices,
            error,
        )
