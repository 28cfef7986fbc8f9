"""From the outbox into PostgreSQL."""

import logging

from db.errors import DatabaseError
from db.pool import Database
from db.queries import rejects
from ingest.errors import OutboxError
from ingest.jobs.store import Stored, store
from ingest.outbox import Outbox

log = logging.getLogger(__name__)

AT_ONCE = 1_000
"""Rows in a transaction."""
LOUD_FROM = 0.1
"""Part of what the outbox may hold, from which on each minute says so as an error."""


async def drain(outbox: Outbox, db: Database, drained: Stored | None = None) -> Stored:
    """Commits every price that waits, the oldest minutes first, and removes it only then; counts in `drained` as it goes.

    An entry that is no price, or that the database refuses, is set aside. Raises OutboxError or DatabaseError; whatever was
    not committed waits on.
    """
    drained = Stored() if drained is None else drained
    fields = await outbox.fields()
    for start in range(0, len(fields), AT_ONCE):
        waiting = await outbox.read(fields[start : start + AT_ONCE])
        drained.add(await store(db, waiting.rows))
        for bad in waiting.unreadable:
            log.error("an entry of the outbox is set aside: %s: %.80s", bad.reason, bad.entry)
            await rejects.set_aside(db, bad.ticker, bad.ts, bad.entry, bad.reason)
            drained.rejected += 1
        await outbox.remove(waiting.entries)
    return drained


async def say_how_many_wait(outbox: Outbox, error: DatabaseError) -> None:
    """Says how many prices wait because of the error: loudly, long before there is no room."""
    try:
        depth = await outbox.depth()
    except OutboxError:
        return
    if depth:
        level = logging.ERROR if depth >= outbox.most * LOUD_FROM else logging.WARNING
        log.log(
            level, "%d prices wait in the outbox, which holds %d, because the database is away: %s", depth, outbox.most, error
        )
