"""When an index first reached a price, as far as its ticks and prices prove it."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from db.pool import Executor

# `start` is the first known value in the window. From there, the index reaches the price from below with a
# high at or above it, or from above with a low at or below it. All scans follow the primary keys and stop at the first hit.
FIND_TOUCH: Final = """
WITH first_minute AS (
    SELECT least((SELECT min(ts) FROM price WHERE ticker = $1 AND ts >= $3 AND ts < $4),
                 (SELECT min(ts) FROM minute_range WHERE ticker = $1 AND ts >= $3 AND ts < $4)) AS ts
), start AS (
    SELECT first_minute.ts,
           CASE WHEN r.ts IS NULL OR p.observed_at < r.ts * 1000000 + r.opened_ms * 1000 THEN p.price ELSE r.open END AS value
      FROM first_minute
      LEFT JOIN price AS p ON p.ticker = $1 AND p.ts = first_minute.ts
      LEFT JOIN minute_range AS r ON r.ticker = $1 AND r.ts = first_minute.ts
), touch AS (
    SELECT CASE WHEN value <= $2 THEN
                least((SELECT ts FROM price WHERE ticker = $1 AND ts >= $3 AND ts < $4 AND price >= $2 ORDER BY ts LIMIT 1),
                      (SELECT ts FROM minute_range
                        WHERE ticker = $1 AND ts >= $3 AND ts < $4 AND high >= $2 ORDER BY ts LIMIT 1))
           ELSE least((SELECT ts FROM price WHERE ticker = $1 AND ts >= $3 AND ts < $4 AND price <= $2 ORDER BY ts LIMIT 1),
                      (SELECT ts FROM minute_range
                        WHERE ticker = $1 AND ts >= $3 AND ts < $4 AND low <= $2 ORDER BY ts LIMIT 1))
            END AS ts
      FROM start
), unwatched AS (
    SELECT CASE WHEN NOT EXISTS (SELECT FROM minute_range WHERE ticker = $1 AND ts = $3 AND watched_s = 60) THEN $3
           ELSE (SELECT ts + 60
                   FROM (SELECT ts, lead(ts) OVER (ORDER BY ts) AS next_ts
                           FROM minute_range
                          WHERE ticker = $1 AND ts >= $3 AND ts < $4 AND watched_s = 60) AS watched
                  WHERE next_ts IS DISTINCT FROM ts + 60 ORDER BY ts LIMIT 1) END AS ts
)
SELECT start.value AS start, touch.ts, unwatched.ts AS unwatched_ts FROM start, touch, unwatched
"""


@dataclass(frozen=True)
class Touch:
    """What is known about an index and a price in a window."""

    start: Decimal | None
    """The earliest known value of the window; None if nothing is known."""
    ts: int | None
    """The first minute in which the index is known to have reached the price; None if none is."""
    unwatched_ts: int | None
    """The first minute that was not watched completely; None if all were."""

    @property
    def is_certain(self) -> bool:
        """Whether no earlier minute could have reached the price unnoticed."""
        return self.unwatched_ts is None or (self.ts is not None and self.ts <= self.unwatched_ts)


async def find_touch(db: Executor, ticker: str, price: Decimal, low: int, high: int) -> Touch:
    """Returns when the index first reached the price in the minutes of [low, high), both multiples of 60 in UNIX seconds."""
    (row,) = await db.fetch(FIND_TOUCH, ticker, price, low, high)
    unwatched_ts = row["unwatched_ts"]
    return Touch(row["start"], row["ts"], unwatched_ts if unwatched_ts is not None and unwatched_ts < high else None)
