"""Prices of a long window, thinned to the lowest and the highest of each part. A plot of them looks like one of all prices."""

from typing import Final

from db.pool import Executor
from db.queries.retention import valid_horizon_sql
from db.queries.snapshots import Snapshot, rewrite
from db.times import HOUR, MINUTE

BOUNDS: Final = f"""
WITH retained AS (
    SELECT greatest($2::bigint, (SELECT {valid_horizon_sql} FROM ticker WHERE name = $1)) AS low
)
SELECT (SELECT min(ts) FROM price WHERE ticker = $1 AND ts >= retained.low AND ts < $3) AS first,
       (SELECT max(ts) FROM price WHERE ticker = $1 AND ts >= retained.low AND ts < $3) AS last
  FROM retained
"""  # noqa: S608  inserts a constant

_AS_JSON: Final = """
SELECT coalesce('[' || string_agg(ts::text, ',') || ']', '[]') AS minutes,
       coalesce('["' || string_agg(price::text, '","') || '"]', '[]') AS prices
  FROM (SELECT ts, price FROM found UNION SELECT ts, price FROM price WHERE ticker = $1 AND ts IN ($2, $3) ORDER BY ts) AS price
"""

# $4: seconds of a part. Of equal prices of a part, the earliest counts.
FROM_MINUTES: Final = f"""
WITH ranked AS (
    SELECT ts, price,
           row_number() OVER (PARTITION BY (ts - $2) / $4::bigint ORDER BY price DESC, ts) AS from_highest,
           row_number() OVER (PARTITION BY (ts - $2) / $4::bigint ORDER BY price, ts) AS from_lowest
      FROM price WHERE ticker = $1 AND ts >= $2::bigint AND ts <= $3::bigint
), found AS (
    SELECT ts, price FROM ranked WHERE from_highest = 1 OR from_lowest = 1
)
{_AS_JSON}
"""  # noqa: S608  inserts a constant

# Finds the hours of each part with its lowest and highest price, then their minutes. Hours without a stored candle, and the
# first and the last hour, come from minutes. Parts begin at whole hours.
FROM_HOURS: Final = f"""
WITH whole AS (
    SELECT greatest(($2::bigint + 3599) / 3600 * 3600, coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0)) AS low,
           $3::bigint / 3600 * 3600 AS high
), hours AS (
    SELECT ts, high, low FROM candle
     WHERE ticker = $1 AND span = 3600 AND ts >= (SELECT low FROM whole) AND ts < (SELECT high FROM whole)
     UNION ALL
    SELECT ts - ts % 3600, max(price), min(price) FROM price
     WHERE ticker = $1 AND ts >= $2 AND ts <= $3 AND (ts < (SELECT low FROM whole) OR ts >= (SELECT high FROM whole))
     GROUP BY 1
), ranked AS (
    SELECT ts,
           row_number() OVER (PARTITION BY (ts - $2 / 3600 * 3600) / $4::bigint ORDER BY high DESC, ts) AS from_highest,
           row_number() OVER (PARTITION BY (ts - $2 / 3600 * 3600) / $4::bigint ORDER BY low, ts) AS from_lowest
      FROM hours
), found AS (
    SELECT minute.ts, minute.price
      FROM ranked
     CROSS JOIN LATERAL (
           SELECT ts, price FROM price
            WHERE ticker = $1 AND price.ts >= greatest(ranked.ts, $2) AND price.ts <= least(ranked.ts + 3599, $3)
            ORDER BY price DESC, ts LIMIT 1) AS minute
     WHERE from_highest = 1
     UNION
    SELECT minute.ts, minute.price
      FROM ranked
     CROSS JOIN LATERAL (
           SELECT ts, price FROM price
            WHERE ticker = $1 AND price.ts >= greatest(ranked.ts, $2) AND price.ts <= least(ranked.ts + 3599, $3)
            ORDER BY price, ts LIMIT 1) AS minute
     WHERE from_lowest = 1
)
{_AS_JSON}
"""  # noqa: S608  inserts a constant


async def read(
    db: Executor, ticker: str, low: int, high: int, max_points: int, snapshot: Snapshot | None = None
) -> tuple[str, str]:
    """Returns at most `max_points` (4 or more) minutes of [low, high), oldest first, and their prices, as two JSON lists.

    These are the first and the last price of the window, and the lowest and the highest price of parts of equal length.
    If no more minutes are stored than fit, all are returned.
    """
    (bounds,) = await db.fetch(*rewrite(snapshot, BOUNDS, ticker, low, high))
    first, last = bounds["first"], bounds["last"]
    if first is None:
        return "[]", "[]"
    statement, part = FROM_MINUTES, MINUTE
    if (last - first) // MINUTE + 1 > max_points:
        parts = (max_points - 2) // 2
        part = _ceil((last - first + MINUTE) / parts, MINUTE)
        if part >= HOUR:
            statement, part = FROM_HOURS, _ceil((last + MINUTE - first // HOUR * HOUR) / parts, HOUR)
    (row,) = await db.fetch(*rewrite(snapshot, statement, ticker, first, last, part))
    return row["minutes"], row["prices"]


def _ceil(seconds: float, multiple: int) -> int:
    return int(-(-seconds // multiple)) * multiple
