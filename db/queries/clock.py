"""The clock of the database, for comparison with the local clock and that of the exchange."""

from typing import Final

from db.pool import Executor

NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def now(db: Executor) -> float:
    """Returns the time of the database in UNIX seconds."""
    found: float = await db.fetchval(NOW)
    return found
