"""Candles of what was stored before candles were kept."""

import logging

from db import times
from db.pool import Database
from db.queries import candles, writing

DAYS_AT_ONCE = 7
"""Of one ticker in a transaction: some 10,000 minutes."""
TURNS = 60

log = logging.getLogger(__name__)


async def build_candles(db: Database, turns: int = TURNS) -> int:
    """Goes on with what is still to be built, so many turns of a writer at most; how many it took. Raises DatabaseError."""
    taken = 0
    for ticker in await candles.still_to_build(db):
        built: int | None = times.END
        while built is not None and taken < turns:
            async with writing.turn(db) as connection:
                built = await candles.build(connection, ticker, DAYS_AT_ONCE)
            taken += 1
        if built is None:
            log.info("all candles of %s are built", ticker)
    return taken
