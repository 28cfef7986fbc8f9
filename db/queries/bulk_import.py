"""Bulk import of prices of one ticker. All functions that write require a write transaction."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from db.pool import Executor, Transaction
from db.queries.prices import HISTORY_EVENT_THRESHOLD
from db.queries.retention import valid_horizon_sql

COLUMNS: Final = ("ts", "price", "observed_at", "original_source", "open", "high", "low", "close")

STAGE: Final = """
CREATE TEMPORARY TABLE staged (ts bigint, price numeric, observed_at bigint, original_source text, open numeric,
                               high numeric, low numeric, close numeric) ON COMMIT DROP
"""

# The writer lock prevents concurrent inserts, so NOT EXISTS is sufficient. The change events are those of prices.STORE. Without
# the bounds $2 and $3 the planner, which has no statistics of `staged`, would read the whole history for every batch.
MERGE: Final = f"""
WITH stored AS (
    INSERT INTO price (ticker, ts, price, observed_at, source, original_source)
    SELECT $1, ts, price, observed_at, 'IMPORT', original_source::price_source
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
         WHERE ts < coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0)) AS expired
"""  # noqa: S608  inserts constants

# A range from ticks stays. The change event is that of prices.STORE.
MERGE_RANGES: Final = f"""
WITH stored AS (
    INSERT INTO minute_range (ticker, ts, open, high, low, close, opened_ms, closed_ms, source)
    SELECT $1, ts, open, high, low, close, 0, 59999, 'IMPORT'
      FROM staged
     WHERE open IS NOT NULL
       AND NOT EXISTS (SELECT FROM minute_range AS r WHERE r.ticker = $1 AND r.ts = staged.ts AND r.ts BETWEEN $2 AND $3)
       AND ts >= coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0)
    RETURNING id, ts
), inserted_changes AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count, first_id, last_id)
    SELECT 'history', $1, min(ts), max(ts) + 60, count(*), min(id), max(id)
      FROM stored HAVING count(*) > {HISTORY_EVENT_THRESHOLD}
)
SELECT count(*) FROM stored
"""  # noqa: S608  inserts constants

Row = tuple[int, str, int | None, str | None, str | None]
"""Minute in UNIX seconds, price without exponent, `observed_at` in microseconds, source in the exporting Tickgraph
(None if unknown), and open, high, low and close separated by commas (None without them). Valid as in `PriceRow`."""

PREVIEW: Final = f"""
SELECT count(*) FILTER (WHERE ts < horizon) AS expired,
       count(*) FILTER (WHERE ts >= horizon AND NOT EXISTS (
           SELECT FROM price WHERE price.ticker = $1 AND price.ts = staged.ts AND price.ts BETWEEN $3 AND $4)) AS stored
  FROM unnest($2::bigint[]) AS staged (ts),
       (SELECT coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0) AS horizon) AS bounds
"""  # noqa: S608  inserts a constant

# Merges the period with those that it overlaps or touches.
EXTEND_PERIOD: Final = """
WITH merged AS (
    DELETE FROM import_period
     WHERE ticker = $1 AND since <= $3 AND until >= $2 AND NOT (since <= $2 AND until >= $3)
    RETURNING since, until
), extended AS (
    INSERT INTO import_period (ticker, since, until)
    SELECT $1, least($2::bigint, min(since)), greatest($3::bigint, max(until))
      FROM merged
    HAVING NOT EXISTS (SELECT FROM import_period WHERE ticker = $1 AND since <= $2 AND until >= $3)
    RETURNING since, until
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'tracking', $1, since, until FROM extended
"""


async def merge(db: Transaction, ticker: str, rows: Sequence[Row]) -> tuple[int, int]:
    """Stores the rows whose minute is not stored yet and not before the horizon.

    `rows` has at least one row, and ascending minutes. Returns the number of stored rows, and of rows before the
    horizon. Raises RowRejectedError if a row violates a constraint of the table.
    """
    await db.execute(STAGE)
    await db.copy_to_table("staged", source=_lines(rows), columns=COLUMNS, format="csv")
    (row,) = await db.fetch(MERGE, ticker, rows[0][0], rows[-1][0])
    return row["stored"], row["expired"]


async def merge_ranges(db: Transaction, ticker: str, rows: Sequence[Row]) -> int:
    """Stores open, high, low and close of the rows that `merge` staged, where the minute has no range. Returns their number."""
    if not any(row[4] for row in rows):
        return 0
    found: int = await db.fetchval(MERGE_RANGES, ticker, rows[0][0], rows[-1][0])
    return found


async def preview(db: Executor, ticker: str, minutes: Sequence[int]) -> tuple[int, int]:
    """Returns what `merge` would return for rows of these ascending minutes, and stores nothing. Requires no transaction."""
    (row,) = await db.fetch(PREVIEW, ticker, list(minutes), minutes[0], minutes[-1])
    return row["stored"], row["expired"]


async def extend_period(db: Transaction, ticker: str, low: int, high: int) -> None:
    """Records that an import covers the minutes in [low, high): they are expected from now on."""
    await db.execute(EXTEND_PERIOD, ticker, low, high)


async def refresh_statistics(db: Executor) -> None:
    """Updates the planner's statistics of the prices. Autovacuum waits until a tenth of a table is new.

    Skips tables that are locked, those of another role, and empty ones: PostgreSQL plans to read a table as a whole that was
    empty when it was analyzed.
    """
    for table in ("price", "candle", "minute_range"):
        if await db.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608  a constant
            await db.execute(f"ANALYZE (SKIP_LOCKED) {table}")


async def _lines(rows: Sequence[Row]) -> AsyncIterator[bytes]:
    yield "".join([_line(*row) for row in rows]).encode()


def _line(ts: int, price: str, observed_at: int | None, source: str | None, candle: str | None) -> str:
    return f"{ts},{price},{'' if observed_at is None else observed_at},{source or ''},{candle or ',,,'}\n"
