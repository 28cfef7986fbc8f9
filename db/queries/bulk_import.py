"""Bulk import of prices of one ticker. All functions require a write transaction."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from db.pool import Transaction
from db.queries.prices import HISTORY_EVENT_THRESHOLD
from db.queries.retention import valid_horizon_sql

COLUMNS: Final = ("ts", "price", "observed_at")

STAGE: Final = """
CREATE TEMPORARY TABLE staged (ts bigint, price numeric, observed_at bigint) ON COMMIT DROP
"""

# The writer lock prevents concurrent inserts, so NOT EXISTS is sufficient. The change events are those of prices.STORE. Without
# the bounds $2 and $3 the planner, which has no statistics of `staged`, would read the whole history for every batch.
MERGE: Final = f"""
WITH stored AS (
    INSERT INTO price (ticker, ts, price, observed_at, source)
    SELECT $1, ts, price, observed_at, 'IMPORT'
      FROM staged
     WHERE NOT EXISTS (
           SELECT FROM price WHERE price.ticker = $1 AND price.ts = staged.ts AND price.ts BETWEEN $2 AND $3)
       AND ts >= coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0)
    RETURNING id, ts
), filled AS (
    UPDATE gap SET filled_at = extract(epoch FROM now())::bigint
      FROM stored
     WHERE gap.ticker = $1 AND gap.ts = stored.ts AND gap.filled_at IS NULL
    RETURNING gap.ts
), inserted_changes AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count, first_id, last_id)
    SELECT 'gap_closed', $1, min(ts), max(ts) + 60, count(*), NULL, NULL FROM filled HAVING count(*) > 0
     UNION ALL
    SELECT 'history', $1, min(ts), max(ts) + 60, count(*), min(id), max(id)
      FROM stored HAVING count(*) > {HISTORY_EVENT_THRESHOLD}
)
SELECT (SELECT count(*) FROM stored) AS stored,
       (SELECT count(*) FROM staged
         WHERE ts < coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0)) AS forgotten
"""  # noqa: S608  inserts constants

Row = tuple[int, str, int | None]
"""Minute in UNIX seconds, price without exponent, `observed_at` in microseconds; valid as in `PriceRow`."""


async def merge(db: Transaction, ticker: str, rows: Sequence[Row]) -> tuple[int, int]:
    """Stores the rows whose minute is not stored yet and not before the horizon.

    `rows` has at least one row, and each minute at most once. Returns the number of stored rows, and of rows before the
    horizon. Raises RowRejectedError if a row violates a constraint of the table.
    """
    await db.execute(STAGE)
    await db.copy_to_table("staged", source=_lines(rows), columns=COLUMNS, format="csv")
    minutes = [row[0] for row in rows]
    (row,) = await db.fetch(MERGE, ticker, min(minutes), max(minutes))
    return row["stored"], row["forgotten"]


async def _lines(rows: Sequence[Row]) -> AsyncIterator[bytes]:
    yield "".join([f"{ts},{price},{'' if at is None else at}\n" for ts, price, at in rows]).encode()
