"""Writers take turns, so that ids follow the order of commits and whatever is derived sees every row before it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from db.pool import Database, Executor, Record, Transaction

CHANNEL: Final = "tickgraph"

TAKE_TURN: Final = """
SELECT pg_advisory_xact_lock(7235421)
"""

WAKE_LISTENERS: Final = """
SELECT pg_notify('tickgraph', '')
"""


HOLDER: Final = """
SELECT activity.pid, coalesce(nullif(application_name, ''), '?') AS application,
       coalesce(host(client_addr), 'local') AS address,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS held_s, coalesce(state, '?') AS state
  FROM pg_locks JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid
 WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = 7235421 AND objsubid = 1
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def holder(db: Executor) -> Record | None:
    """Who holds the writers' lock now, if anybody: pid, application, address, held_s (seconds), state (`active`, …)."""
    return await db.fetchrow(HOLDER)


@asynccontextmanager
async def turn(db: Database) -> AsyncIterator[Transaction]:
    """A transaction for whoever writes prices or tracking: alone from its first statement on, and heard of on commit.

    The lock is a statement of its own, so the next one's snapshot holds all that was committed before. Touch at most some
    10,000 rows in one.
    """
    async with db.transaction() as connection:
        await connection.execute(TAKE_TURN)
        yield connection
        await connection.execute(WAKE_LISTENERS)
