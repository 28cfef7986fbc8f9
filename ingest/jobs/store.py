"""Stores prices in PostgreSQL. A row that violates a constraint is moved to `reject` and does not block the others."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from db import times
from db.errors import RowRejectedError
from db.pool import Database
from db.queries import prices, rejects, tickers, write_lock
from db.rows import PriceRow, Source
from ingest import metrics

log = logging.getLogger(__name__)


@dataclass
class StoreResult:
    """The result of storing rows."""

    new: int = 0
    """Rows that were not stored before."""
    rejected: int = 0

    def add(self, result: Self) -> None:
        """Adds the counts of another result."""
        self.new += result.new
        self.rejected += result.rejected


async def store(db: Database, rows: Sequence[PriceRow]) -> StoreResult:
    """Commits the rows in one transaction. If one violates a constraint, splits them until it is alone, and rejects it.

    Raises DatabaseError if the database is unavailable. Storing the same rows again is safe.
    """
    if not rows:
        return StoreResult()
    try:
        async with write_lock.write_transaction(db) as connection:
            await tickers.add(connection, {row.ticker for row in rows})
            new = await prices.store(connection, rows)
        now = time.time()
        for record in new:
            metrics.prices_stored.labels(record["source"]).inc()
            if record["source"] == Source.LIVE:
                metrics.lateness_seconds.observe(now - record["ts"])
        return StoreResult(len(new))
    except RowRejectedError as error:
        if len(rows) == 1:
            await _reject_row(db, rows[0], str(error))
            return StoreResult(rejected=1)
    middle = len(rows) // 2
    stored = await store(db, rows[:middle])
    stored.add(await store(db, rows[middle:]))
    return stored


async def _reject_row(db: Database, row: PriceRow, reason: str) -> None:
    log.error("%s of %s violates a constraint and is rejected: %s", row.ticker, times.iso(row.ts), reason)
    await rejects.insert_reject(db, row.ticker, row.ts, row.model_dump_json(), reason)
