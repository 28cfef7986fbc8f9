"""What changed is remembered as long as a reader may resume."""

from typing import Final

from db import times
from db.pool import Database
from db.queries import events, writing

RESUME_DAYS: Final = 7


async def forget_changes(db: Database, days: int) -> None:
    """Once an hour notes the data version, and forgets what changed more than so many days ago. Raises DatabaseError."""
    if await events.is_noted(db):
        return
    async with writing.turn(db) as connection:
        await events.forget(connection, days * times.DAY)
