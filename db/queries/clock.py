"""The database's clock: a third opinion beside the local one and the exchange's."""

from typing import Final

from db.pool import Executor

NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def now(db: Executor) -> float:
    """UNIX seconds."""
    found: float = await db.fetchval(NOW)
    return found
