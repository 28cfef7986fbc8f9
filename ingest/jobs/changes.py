"""Deletes changes that are too old for a client to resume from."""

from db import times
from db.pool import Database
from db.queries import events, write_lock


async def delete_old_changes(now: int, db: Database, days: int) -> None:
    """Once an hour, records the data version and deletes changes older than `days` before `now`.

    `now` is the earliest of the clocks that agree, in UNIX seconds. Raises DatabaseError.
    """
    if await events.has_milestone(db, now):
        return
    async with write_lock.write_transaction(db) as connection:
        await events.record_milestone(connection, now, days * times.DAY)
