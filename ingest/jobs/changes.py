"""What changed is remembered as long as a reader may resume."""

from typing import Final

from db import times
from db.pool import Database
from db.queries import events, writing

RESUME_DAYS: Final = 7


async def forget_changes(now: int, db: Database, days: int) -> None:
    """Once an hour notes the data version, and forgets what changed more than so many days before `now`.

    `now` is the earliest of the clocks that agree. Raises DatabaseError.
    """
    if await events.is_noted(db, now):
        return
    async with writing.turn(db) as connection:
        await events.forget(connection, now, days * times.DAY)
