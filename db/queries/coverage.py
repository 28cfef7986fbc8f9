"""How much of what is expected is stored."""

from dataclasses import dataclass
from typing import Final

from db import times
from db.pool import Executor, Record
from db.queries.retention import valid_horizon_sql

# What lies in a period of tracking and not before the horizon is expected; stored beside it, it is extra.
COUNT: Final = f"""
WITH period AS (
    SELECT greatest(since, $2::bigint, {valid_horizon_sql}) AS low, least(coalesce(until, $3), $3::bigint) AS high
      FROM tracking JOIN ticker ON ticker.name = tracking.ticker
     WHERE ticker = $1
), expected AS (
    SELECT coalesce(sum((high - low) / 60), 0)::bigint AS minutes FROM period WHERE high > low
), stored AS (
    SELECT count(*) AS minutes,
           count(*) FILTER (WHERE source = 'LIVE') AS live,
           count(*) FILTER (WHERE source = 'BACKFILL') AS backfilled,
           count(*) FILTER (WHERE source = 'IMPORT') AS imported
      FROM period JOIN price ON price.ticker = $1 AND price.ts >= period.low AND price.ts < period.high
)
SELECT expected.minutes AS expected, stored.minutes AS stored, live, backfilled, imported,
       (SELECT count(*) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3) - stored.minutes AS extra
  FROM expected, stored
"""  # noqa: S608  a constant of ours


@dataclass(frozen=True)
class Counted:
    """Minutes of a window [low, high), which ends with the last finished minute."""

    low: int
    high: int
    expected: int = 0
    stored: int = 0
    """Of the expected; live, backfilled and imported are its parts."""
    live: int = 0
    backfilled: int = 0
    imported: int = 0
    extra: int = 0
    """Stored though not expected."""

    @property
    def missing(self) -> int:
        """Expected and not stored."""
        return self.expected - self.stored


async def count(db: Executor, ticker: str, low: int, high: int, now: float) -> Counted:
    """The minutes that begin in [low, high) and are over by `now`; all in UNIX seconds."""
    low = -(-low // times.MINUTE) * times.MINUTE
    high = max(low, min(-(-high // times.MINUTE) * times.MINUTE, times.minute_of(now)))
    row = await db.fetchrow(COUNT, ticker, low, high)
    return Counted(low, high, **row) if row is not None else Counted(low, high)


PARTS: Final = """
SELECT min(ts) AS low, max(ts) + 60 AS high, source
  FROM (SELECT ts, source, ts - 60 * row_number() OVER (PARTITION BY source ORDER BY ts) AS part
          FROM price
         WHERE ticker = $1 AND ts >= $2 AND ts < $3 AND source <> 'LIVE') AS marked
 GROUP BY source, part
 ORDER BY low
 LIMIT $4
"""


async def parts(db: Executor, ticker: str, low: int, high: int, limit: int) -> list[Record]:
    """The periods of minutes, one after another, that were not stored in their own minute: `low`, `high`, `source`."""
    return await db.fetch(PARTS, ticker, low, high, limit)
