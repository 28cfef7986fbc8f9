"""The writer lock. It serializes writers, so that ids follow the order of commits and derived rows see all earlier rows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from db.pool import Database, Executor, Record, Transaction

CHANNEL: Final = "tickgraph"

ACQUIRE_WRITER_LOCK: Final = """
SELECT pg_advisory_xact_lock(7235421)
"""

# Records the minute of the first data version of each minute. A transaction without a new version must record nothing:
# it would change the minute of an earlier version.
END_TRANSACTION: Final = """
WITH newest AS (
    (SELECT id, xmin FROM price ORDER BY id DESC LIMIT 1)
     UNION ALL
    (SELECT id, xmin FROM minute_range ORDER BY id DESC LIMIT 1)
     UNION ALL
    (SELECT id, xmin FROM change ORDER BY id DESC LIMIT 1)
), recorded AS (
    INSERT INTO version_time (id, at)
    SELECT *
      FROM (SELECT max(id) AS id, extract(epoch FROM clock_timestamp())::bigint / 60 * 60 AS at
              FROM newest WHERE xmin = pg_current_xact_id_if_assigned()::xid HAVING count(*) > 0) AS this
     WHERE at IS DISTINCT FROM (SELECT at FROM version_time ORDER BY id DESC LIMIT 1)
        ON CONFLICT (id) DO NOTHING
)
SELECT pg_notify('tickgraph', '')
"""


LOCK_HOLDER: Final = """
SELECT activity.pid, coalesce(nullif(application_name, ''), '?') AS application,
       coalesce(host(client_addr), 'local') AS address,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS held_s, coalesce(state, '?') AS state
  FROM pg_locks JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid
 WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = 7235421 AND objsubid = 1
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def lock_holder(db: Executor) -> Record | None:
    """Returns the session that holds the writer lock, or None: pid, application, address, held_s, state (`active`, …)."""
    return await db.fetchrow(LOCK_HOLDER)


@asynccontextmanager
async def write_transaction(db: Database) -> AsyncIterator[Transaction]:
    """Opens a transaction that holds the writer lock and notifies listeners on commit. All writes of prices or tracking use it.

    A separate statement acquires the lock, so the snapshot of the next statement contains all earlier commits. Write at
    most about 10,000 rows in one transaction, because other writers wait for it.
    """
    async with db.transaction() as connection:
        await connection.execute(ACQUIRE_WRITER_LOCK)
        yield connection
        await connection.execute(END_TRANSACTION)
