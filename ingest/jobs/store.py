"""Prices into PostgreSQL: all of them, but for those it refuses, which are set aside and hold up nobody."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from db import times
from db.errors import RowRefusedError
from db.pool import Database
from db.queries import prices, rejects, tickers, writing
from db.tables import PriceRow, Source
from ingest import metrics

log = logging.getLogger(__name__)


@dataclass
class Stored:
    """What became of rows."""

    new: int = 0
    """Not there before."""
    rejected: int = 0

    def add(self, other: Self) -> None:
        """Takes in what became of more rows."""
        self.new += other.new
        self.rejected += other.rejected


async def store(db: Database, rows: Sequence[PriceRow]) -> Stored:
    """Commits the rows in one transaction; where one is refused, in halves, until that one is alone and set aside.

    Raises DatabaseError where the database did not answer: whatever was not stored by then can be given again.
    """
    if not rows:
        return Stored()
    try:
        async with writing.turn(db) as connection:
            await tickers.add(connection, {row.ticker for row in rows})
            new = await prices.store(connection, rows)
        now = time.time()
        for one in new:
            metrics.stored.labels(one["source"]).inc()
            if one["source"] == Source.LIVE:
                metrics.lateness_seconds.observe(now - one["ts"])
        return Stored(len(new))
    except RowRefusedError as error:
        if len(rows) == 1:
            await _set_aside(db, rows[0], str(error))
            return Stored(rejected=1)
    middle = len(rows) // 2
    stored = await store(db, rows[:middle])
    stored.add(await store(db, rows[middle:]))
    return stored


async def _set_aside(db: Database, row: PriceRow, why: str) -> None:
    log.error("%s of %s is refused by the database and set aside: %s", row.ticker, times.iso(row.ts), why)
    await rejects.set_aside(db, row.ticker, row.ts, row.model_dump_json(), why)
