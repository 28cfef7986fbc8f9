"""Prices of one ticker in bulk. All of it belongs into a writer's turn."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from db.pool import Transaction
from db.queries.prices import MANY
from db.queries.retention import valid_horizon_sql

COLUMNS: Final = ("ts", "price", "observed_at")

STAGE: Final = """
CREATE TEMPORARY TABLE staged (ts bigint, price numeric, observed_at bigint) ON COMMIT DROP
"""

# Writers take turns, so what is not there now is not there when it is inserted; what is told is as in prices.STORE. Without the
# bounds the planner, which has no statistics of `staged`, reads the whole history for every batch.
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
), told AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count, first_id, last_id)
    SELECT 'gap_closed', $1, min(ts), max(ts) + 60, count(*), NULL, NULL FROM filled HAVING count(*) > 0
     UNION ALL
    SELECT 'history', $1, min(ts), max(ts) + 60, count(*), min(id), max(id) FROM stored HAVING count(*) > {MANY}
)
SELECT (SELECT count(*) FROM stored) AS stored,
       (SELECT count(*) FROM staged
         WHERE ts < coalesce((SELECT {valid_horizon_sql} FROM ticker WHERE name = $1), 0)) AS forgotten
"""  # noqa: S608  a constant of ours

Row = tuple[int, str, int | None]
"""Minute, price in plain notation, instant in microseconds: as `PriceRow` would have them."""


async def merge(db: Transaction, ticker: str, rows: Sequence[Row]) -> tuple[int, int]:
    """Stores the rows (one at least, each minute once) whose minute is not stored yet and not before the horizon.

    Returns how many were stored, and how many lie before the horizon.

    Raises RowRefusedError where one of them breaks a rule of the table.
    """
    await db.execute(STAGE)
    await db.copy_to_table("staged", source=_lines(rows), columns=COLUMNS, format="csv")
    minutes = [row[0] for row in rows]
    (row,) = await db.fetch(MERGE, ticker, min(minutes), max(minutes))
    return row["stored"], row["forgotten"]


async def _lines(rows: Sequence[Row]) -> AsyncIterator[bytes]:
    yield "".join([f"{ts},{price},{'' if at is None else at}\n" for ts, price, at in rows]).encode()
