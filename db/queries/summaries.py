"""Aggregates over a window: first, last, highest, lowest and mean price; and the prices of a window as two lists."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from db.pool import Executor, Record
from db.queries.retention import valid_horizon_sql
from db.queries.snapshots import Snapshot, rewrite

# Whole hours with candles come from `candle`; partial hours and hours without candles come from minute prices. Minutes before
# the horizon are excluded, because they are deleted in batches while their hours remain. One statement means one snapshot, so
# the counts and the prices agree. (If minutes were deleted manually, an hour may lack the minute of its high or low. Then the
# high or low of the stored minutes is used.) MATERIALIZED and OFFSET 0 make PostgreSQL search for the four minutes once. With
# old statistics it expects a single price, and would search again for each price of the window.
SUMMARY: Final = f"""
WITH bound AS (
    SELECT greatest($2::bigint, (SELECT {valid_horizon_sql} FROM ticker WHERE name = $1)) AS low, $3::bigint AS high
), hours AS (
    SELECT greatest((bound.low + 3599) / 3600 * 3600,
                    coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0)) AS low,
           bound.high / 3600 * 3600 AS high
      FROM bound
), built AS (
    SELECT CASE WHEN hours.low < hours.high THEN hours.low ELSE bound.high END AS low,
           CASE WHEN hours.low < hours.high THEN hours.high ELSE bound.high END AS high
      FROM hours, bound
), part AS MATERIALIZED (
    SELECT ts, high, low, coalesce(range_high, high) AS highest, coalesce(range_low, low) AS lowest, count, sum FROM candle
     WHERE ticker = $1 AND span = 3600 AND ts >= (SELECT low FROM built) AND ts < (SELECT high FROM built)
     UNION ALL
    SELECT p.ts, price, price, greatest(price, r.high), least(price, r.low), 1, price
      FROM price AS p
      LEFT JOIN minute_range AS r ON r.ticker = $1 AND r.ts = p.ts
                                 AND r.ts >= (SELECT low FROM bound) AND r.ts < (SELECT low FROM built)
     WHERE p.ticker = $1 AND p.ts >= (SELECT low FROM bound) AND p.ts < (SELECT low FROM built)
     UNION ALL
    SELECT p.ts, price, price, greatest(price, r.high), least(price, r.low), 1, price
      FROM price AS p
      LEFT JOIN minute_range AS r ON r.ticker = $1 AND r.ts = p.ts
                                 AND r.ts >= (SELECT high FROM built) AND r.ts < (SELECT high FROM bound)
     WHERE p.ticker = $1 AND p.ts >= (SELECT high FROM built) AND p.ts < (SELECT high FROM bound)
), whole AS (
    SELECT max(high) AS high, min(low) AS low, max(highest) AS highest, min(lowest) AS lowest,
           sum(count)::bigint AS count, sum(sum) AS sum
      FROM part
), hour AS MATERIALIZED (
    SELECT (SELECT min(ts) FROM part WHERE part.high = whole.high) AS of_high,
           (SELECT min(ts) FROM part WHERE part.low = whole.low) AS of_low
      FROM whole
), point AS MATERIALIZED (
    SELECT (SELECT min(ts) FROM price WHERE ticker = $1 AND ts >= bound.low AND ts < bound.high) AS first,
           (SELECT max(ts) FROM price WHERE ticker = $1 AND ts >= bound.low AND ts < bound.high) AS last,
           coalesce(
               (SELECT min(ts) FROM price
                 WHERE ticker = $1 AND ts >= of_high AND ts < least(of_high + 3600, bound.high) AND price = whole.high),
               (SELECT ts FROM price WHERE ticker = $1 AND ts >= bound.low AND ts < bound.high ORDER BY price DESC, ts LIMIT 1)
           ) AS high,
           coalesce(
               (SELECT min(ts) FROM price
                 WHERE ticker = $1 AND ts >= of_low AND ts < least(of_low + 3600, bound.high) AND price = whole.low),
               (SELECT ts FROM price WHERE ticker = $1 AND ts >= bound.low AND ts < bound.high ORDER BY price, ts LIMIT 1)
           ) AS low
      FROM bound, whole, hour
)
SELECT whole.count, whole.highest, whole.lowest, trim_scale(round(whole.sum::numeric(60, 18) / whole.count, 12)) AS twap,
       wanted.name, id, ticker, price.ts, price, observed_at, source, original_source, peer
  FROM whole
 CROSS JOIN point
 CROSS JOIN LATERAL (VALUES ('first', first), ('last', last), ('high', point.high), ('low', point.low)) AS wanted (name, ts)
 CROSS JOIN LATERAL (SELECT * FROM price WHERE ticker = $1 AND ts = wanted.ts OFFSET 0) AS price
 WHERE whole.count > 0
"""  # noqa: S608  inserts a constant

SERIES: Final = """
SELECT coalesce('[' || string_agg(ts::text, ',') || ']', '[]') AS minutes,
       coalesce('["' || string_agg(price::text, '","') || '"]', '[]') AS prices
  FROM (SELECT ts, price FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 ORDER BY ts) AS price
"""


@dataclass(frozen=True)
class Summary:
    """Aggregates over the stored minutes of a window. Prices are records with the columns of `price`."""

    first: Record
    last: Record
    high: Record
    """The highest price; the earliest if several are equal."""
    low: Record
    """The lowest price; the earliest if several are equal."""
    highest: Decimal
    """The highest price or tick."""
    lowest: Decimal
    """The lowest price or tick."""
    count: int
    twap: Decimal
    """Mean price of the stored minutes, rounded to twelve decimals."""


async def summary(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> Summary | None:
    """Returns the aggregates over [low, high) without the minutes before the horizon, or None if none is stored."""
    rows = await db.fetch(*rewrite(snapshot, SUMMARY, ticker, low, high))
    if not rows:
        return None
    prices = {row["name"]: row for row in rows}
    whole = rows[0]
    return Summary(highest=whole["highest"], lowest=whole["lowest"], count=whole["count"], twap=whole["twap"], **prices)


async def series(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> tuple[str, str]:
    """Returns the stored minutes of [low, high), oldest first, and their prices, as two JSON lists of equal length."""
    (row,) = await db.fetch(*rewrite(snapshot, SERIES, ticker, low, high))
    return row["minutes"], row["prices"]
