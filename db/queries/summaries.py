"""What a window comes to: its first, last, highest and lowest price, and their mean; and its prices as two columns."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from db.pool import Executor, Record
from db.queries.retention import valid_horizon_sql

# Whole hours that are built come from `candle`, what lies at the edges or is still to be built from the minutes. Nothing before
# the horizon counts: its minutes are forgotten, a few at a time, while its hours stay. All of it is one statement, so one
# snapshot: no minute goes between what is counted and what is shown. (An hour whose minutes somebody deleted by hand has no
# minute for its extreme: then the extreme is looked for among the minutes.)
SUMMARY: Final = f"""
WITH asked AS (
    SELECT greatest($2::bigint, (SELECT {valid_horizon_sql} FROM ticker WHERE name = $1)) AS low, $3::bigint AS high
), hours AS (
    SELECT greatest((asked.low + 3599) / 3600 * 3600,
                    coalesce((SELECT candles_from FROM ticker WHERE name = $1), 0)) AS low,
           asked.high / 3600 * 3600 AS high
      FROM asked
), built AS (
    SELECT CASE WHEN hours.low < hours.high THEN hours.low ELSE asked.high END AS low,
           CASE WHEN hours.low < hours.high THEN hours.high ELSE asked.high END AS high
      FROM hours, asked
), part AS MATERIALIZED (
    SELECT ts, high, low, count, sum FROM candle
     WHERE ticker = $1 AND span = 3600 AND ts >= (SELECT low FROM built) AND ts < (SELECT high FROM built)
     UNION ALL
    SELECT ts, price, price, 1, price FROM price
     WHERE ticker = $1 AND ts >= (SELECT low FROM asked) AND ts < (SELECT low FROM built)
     UNION ALL
    SELECT ts, price, price, 1, price FROM price
     WHERE ticker = $1 AND ts >= (SELECT high FROM built) AND ts < (SELECT high FROM asked)
), whole AS (
    SELECT max(high) AS high, min(low) AS low, sum(count)::bigint AS count, sum(sum) AS sum FROM part
), place AS (
    SELECT (SELECT min(ts) FROM price WHERE ticker = $1 AND ts >= asked.low AND ts < asked.high) AS first,
           (SELECT max(ts) FROM price WHERE ticker = $1 AND ts >= asked.low AND ts < asked.high) AS last,
           coalesce(
               (SELECT min(p.ts) FROM price AS p, (SELECT min(ts) AS ts FROM part WHERE part.high = whole.high) AS near
                 WHERE ticker = $1 AND p.ts >= near.ts AND p.ts < near.ts + 3600 AND p.ts < asked.high AND price = whole.high),
               (SELECT ts FROM price WHERE ticker = $1 AND ts >= asked.low AND ts < asked.high ORDER BY price DESC, ts LIMIT 1)
           ) AS high,
           coalesce(
               (SELECT min(p.ts) FROM price AS p, (SELECT min(ts) AS ts FROM part WHERE part.low = whole.low) AS near
                 WHERE ticker = $1 AND p.ts >= near.ts AND p.ts < near.ts + 3600 AND p.ts < asked.high AND price = whole.low),
               (SELECT ts FROM price WHERE ticker = $1 AND ts >= asked.low AND ts < asked.high ORDER BY price, ts LIMIT 1)
           ) AS low
      FROM asked, whole
)
SELECT whole.count, trim_scale(round(whole.sum::numeric(60, 18) / whole.count, 12)) AS twap,
       place.ts = first AS is_first, place.ts = last AS is_last,
       place.ts = place.high AS is_high, place.ts = place.low AS is_low,
       id, ticker, place.ts, price, observed_at, source
  FROM whole
 CROSS JOIN (SELECT place.*, price.* FROM place JOIN price
                 ON price.ticker = $1 AND price.ts IN (place.first, place.last, place.high, place.low))
       AS place
 WHERE whole.count > 0
"""  # noqa: S608  a constant of ours

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
    """Of the minutes in [low, high) that are not before the horizon; None where none is stored."""
    rows = await db.fetch(SUMMARY, ticker, low, high)
    if not rows:
        return None
    places = {name: next(row for row in rows if row[f"is_{name}"]) for name in ("first", "last", "high", "low")}
    return Summary(count=rows[0]["count"], twap=rows[0]["twap"], **places)


async def series(db: Executor, ticker: str, low: int, high: int) -> tuple[str, str]:
    """The minutes of [low, high), oldest first, and their prices: two JSON lists of the same length."""
    (row,) = await db.fetch(SERIES, ticker, low, high)
    return row["minutes"], row["prices"]
