"""What a window comes to: its first, last, highest and lowest price, and their mean; and its prices as two columns."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from db.pool import Executor, Record

# Whole hours that are built come from `candle`, what lies at the edges or is still to be built from the minutes.
SUMMARY: Final = """
WITH hours AS (
    SELECT greatest(($2::bigint + 3599) / 3600 * 3600, coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0)) AS low,
           $3::bigint / 3600 * 3600 AS high
), kept AS (
    SELECT CASE WHEN low < high THEN low ELSE $3 END AS low, CASE WHEN low < high THEN high ELSE $3 END AS high FROM hours
), part AS MATERIALIZED (
    SELECT ts, high, low, count, sum FROM candle
     WHERE ticker = $1 AND span = 3600 AND ts >= (SELECT kept.low FROM kept) AND ts < (SELECT kept.high FROM kept)
     UNION ALL
    SELECT ts, price, price, 1, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts < (SELECT kept.low FROM kept)
     UNION ALL
    SELECT ts, price, price, 1, price FROM price WHERE ticker = $1 AND ts >= (SELECT kept.high FROM kept) AND ts < $3
), whole AS (
    SELECT max(high) AS high, min(low) AS low, sum(count)::bigint AS count, sum(sum) AS sum FROM part
)
SELECT count, trim_scale(round(sum::numeric(60, 18) / count, 12)) AS twap,
       (SELECT min(ts) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3) AS first,
       (SELECT max(ts) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3) AS last,
       (SELECT min(p.ts) FROM price AS p,
               (SELECT min(ts) AS ts FROM part WHERE part.high = whole.high) AS near
         WHERE ticker = $1 AND p.ts >= near.ts AND p.ts < near.ts + 3600 AND p.ts < $3 AND price = whole.high) AS high,
       (SELECT min(p.ts) FROM price AS p,
               (SELECT min(ts) AS ts FROM part WHERE part.low = whole.low) AS near
         WHERE ticker = $1 AND p.ts >= near.ts AND p.ts < near.ts + 3600 AND p.ts < $3 AND price = whole.low) AS low
  FROM whole
 WHERE count > 0
"""

OF_MINUTES: Final = """
SELECT id, ticker, ts, price, observed_at, source FROM price WHERE ticker = $1 AND ts = ANY ($2::bigint[])
"""

SERIES: Final = """
SELECT coalesce('[' || string_agg(ts::text, ',') || ']', '[]') AS minutes,
       coalesce('["' || string_agg(price::text, '","') || '"]', '[]') AS prices
  FROM (SELECT ts, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts) AS price
"""


@dataclass(frozen=True)
class Summary:
    """Of the stored minutes of a window; the prices as records with the columns of `price`."""

    first: Record
    last: Record
    high: Record
    """The highest; of several the earliest."""
    low: Record
    """The lowest; of several the earliest."""
    count: int
    twap: Decimal
    """The mean of the stored minutes, to twelve places."""


async def summary(db: Executor, ticker: str, low: int, high: int) -> Summary | None:
    """Of the minutes in [low, high); None where none is stored."""
    row = await db.fetchrow(SUMMARY, ticker, low, high)
    if row is None:
        return None
    places = {name: row[name] for name in ("first", "last", "high", "low")}
    of = {record["ts"]: record for record in await db.fetch(OF_MINUTES, ticker, list(set(places.values())))}
    return Summary(count=row["count"], twap=row["twap"], **{name: of[ts] for name, ts in places.items()})


async def series(db: Executor, ticker: str, low: int, high: int) -> tuple[str, str]:
    """The minutes of [low, high), oldest first, and their prices: two JSON lists of the same length."""
    (row,) = await db.fetch(SERIES, ticker, low, high)
    return row["minutes"], row["prices"]
