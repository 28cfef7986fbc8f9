"""Coverage: how many of the expected minutes are stored."""

from dataclasses import dataclass
from typing import Final

from db import times
from db.pool import Executor, Record
from db.queries.retention import valid_window_sql
from db.queries.snapshots import Snapshot, rewrite

# Minutes in a tracking period or an import period and not before the horizon are expected. Other stored minutes are extra.
_PERIOD: Final = f"""
    SELECT lower(merged) AS low, upper(merged) AS high
      FROM unnest({valid_window_sql} * (
           SELECT range_agg(int8range(since, until))
             FROM (SELECT since, until FROM tracking WHERE ticker = $1
                    UNION ALL
                   SELECT since, until FROM import_period WHERE ticker = $1) AS period)) AS merged"""  # noqa: S608  constants

# The periods lie in the window. OFFSET 0 makes PostgreSQL scan the index once for each; a join would read the window each time.
_STORED: Final = """
period
 CROSS JOIN LATERAL (
       SELECT ts, source FROM price WHERE ticker = $1 AND ts >= period.low AND ts < period.high OFFSET 0) AS minute"""

COUNT: Final = f"""
WITH period AS ({_PERIOD}
), expected AS (
    SELECT coalesce(sum((high - low) / 60), 0)::bigint AS minutes FROM period
), stored AS (
    SELECT count(*) AS minutes,
           count(*) FILTER (WHERE source = 'LIVE') AS live,
           count(*) FILTER (WHERE source = 'BACKFILL') AS backfilled,
           count(*) FILTER (WHERE source = 'IMPORT') AS imported,
           count(*) FILTER (WHERE source = 'PEER') AS from_peers
      FROM {_STORED}
)
SELECT expected.minutes AS expected, stored.minutes AS stored, live, backfilled, imported, from_peers,
       (SELECT count(*) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3) - stored.minutes AS extra
  FROM expected, stored
"""  # noqa: S608  inserts a constant


COUNT_WATCHED: Final = f"""
WITH period AS ({_PERIOD})
SELECT count(*)
  FROM period
 CROSS JOIN LATERAL (
       SELECT FROM minute_range
        WHERE ticker = $1 AND ts >= period.low AND ts < period.high AND watched_s = 60 OFFSET 0) AS minute
"""  # noqa: S608  inserts a constant


DAYS: Final = f"""
WITH period AS ({_PERIOD}
), expected AS (
    SELECT day, sum((least(high, day + 86400) - greatest(low, day)) / 60) AS minutes
      FROM period CROSS JOIN LATERAL generate_series(low / 86400 * 86400, high - 1, 86400) AS day
     GROUP BY day
), stored AS (
    SELECT ts / 86400 * 86400 AS day, count(*) AS minutes FROM {_STORED} GROUP BY 1
)
SELECT day, expected.minutes::int AS expected, coalesce(stored.minutes, 0)::int AS stored
  FROM expected LEFT JOIN stored USING (day)
 ORDER BY day
"""  # noqa: S608  inserts a constant


@dataclass(frozen=True)
class CoverageCounts:
    """Counts of the minutes in [low, high); `high` is at most the end of the last completed minute."""

    low: int
    high: int
    expected: int = 0
    stored: int = 0
    """Expected minutes that are stored: the sum of live, backfilled, imported and from_peers."""
    live: int = 0
    backfilled: int = 0
    imported: int = 0
    from_peers: int = 0
    extra: int = 0
    """Stored minutes that are not expected."""

    @property
    def missing(self) -> int:
        """Number of expected minutes that are not stored."""
        return self.expected - self.stored


async def count(db: Executor, ticker: str, low: int, high: int, now: float, snapshot: Snapshot | None = None) -> CoverageCounts:
    """Counts the minutes that start in [low, high) and have ended by `now`; all in UNIX seconds."""
    low = -(-low // times.MINUTE) * times.MINUTE
    high = max(low, min(-(-high // times.MINUTE) * times.MINUTE, times.minute_of(now)))
    (row,) = await db.fetch(*rewrite(snapshot, COUNT, ticker, low, high))
    return CoverageCounts(low, high, **row)


async def count_watched(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> int:
    """Returns the number of expected minutes in [low, high) that were watched completely."""
    found: int = await db.fetchval(*rewrite(snapshot, COUNT_WATCHED, ticker, low, high))
    return found


async def days(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> list[Record]:
    """Returns the UTC days of [low, high) with expected minutes, oldest first: `day`, `expected`, `stored`."""
    return await db.fetch(*rewrite(snapshot, DAYS, ticker, low, high))


NON_LIVE_PERIODS: Final = """
SELECT min(ts) AS low, max(ts) + 60 AS high, source
  FROM (SELECT ts, source, count(*) FILTER (WHERE is_apart) OVER (PARTITION BY source ORDER BY ts) AS part
          FROM (SELECT ts, source, ts - lag(ts) OVER (PARTITION BY source ORDER BY ts) > 60 * ($5::bigint + 1) AS is_apart
                  FROM price
                 WHERE ticker = $1 AND ts >= $2 AND ts < $3 AND source <> 'LIVE') AS minute) AS marked
 GROUP BY source, part
 ORDER BY low
 LIMIT $4
"""


async def non_live_periods(
    db: Executor, ticker: str, low: int, high: int, limit: int, merge_within: int, snapshot: Snapshot | None = None
) -> list[Record]:
    """Returns the periods of minutes that were not fetched live, oldest first: `low`, `high`, `source`.

    Periods of a source with at most `merge_within` other minutes between them count as one.
    """
    return await db.fetch(*rewrite(snapshot, NON_LIVE_PERIODS, ticker, low, high, limit, merge_within))
