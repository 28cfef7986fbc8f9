"""Minutes older than RETENTION_DAYS are forgotten, whole days of them, a little at a time."""

import logging

from db import times
from db.pool import Database
from db.queries import retention, writing

log = logging.getLogger(__name__)

TURNS = 20
"""Of a writer, in a minute: collecting comes between any two of them."""


async def retain(minute: int, days: int | None, db: Database, turns: int = TURNS) -> int:
    """Goes on with forgetting what is older than so many days before the minute; how many rows went. Raises DatabaseError."""
    if days is not None:
        horizon = (minute // times.DAY - days) * times.DAY
        if await retention.is_due(db, horizon):
            async with writing.turn(db) as connection:
                moved = await retention.move(connection, horizon)
            log.info("minutes before %s are forgotten, of %d tickers", times.iso(horizon), len(moved))
    forgotten = 0
    for ticker in await retention.behind(db):
        while turns:
            turns -= 1
            async with writing.turn(db) as connection:
                found = await retention.forget(connection, ticker["name"], ticker["horizon"])
            forgotten += found
            if found < retention.AT_ONCE:
                break
    return forgotten
