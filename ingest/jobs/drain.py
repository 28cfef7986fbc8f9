"""Moves prices from the outbox into PostgreSQL."""

import logging

from db.errors import DatabaseError
from db.pool import Database
from db.queries import rejects
from ingest.errors import OutboxError
from ingest.jobs.store import StoreResult, store
from ingest.outbox import Outbox

log = logging.getLogger(__name__)

MAX_BATCH_ROWS = 1_000
"""Rows per transaction."""
BACKLOG_ERROR_RATIO = 0.1
"""Part of the outbox's limit from which the backlog is logged as an error."""


async def drain(outbox: Outbox, db: Database, drained: StoreResult | None = None) -> StoreResult:
    """Commits every queued price, the oldest minutes first, then removes it from the outbox. Updates `drained` on the way.

    An entry that is invalid or violates a constraint is moved to `reject`. Raises OutboxError or DatabaseError; prices that
    were not committed stay queued.
    """
    drained = StoreResult() if drained is None else drained
    fields = await outbox.fields()
    for start in range(0, len(fields), MAX_BATCH_ROWS):
        batch = await outbox.read(fields[start : start + MAX_BATCH_ROWS])
        drained.add(await store(db, batch.rows))
        for invalid in batch.invalid:
            log.error("an entry of the outbox is rejected: %s: %.80s", invalid.reason, invalid.entry)
            await rejects.insert_reject(db, invalid.ticker, invalid.ts, invalid.entry, invalid.reason)
            drained.rejected += 1
        await outbox.remove(batch.entries)
    return drained


async def log_backlog(outbox: Outbox, error: DatabaseError) -> None:
    """Logs how many prices are queued because of the error; as an error long before the outbox is full."""
    try:
        depth = await outbox.depth()
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
