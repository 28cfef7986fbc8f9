"""Forgetting minutes that are too old to be kept. Their hours and days stay, as candles.

`now` is never one clock's: callers pass the earliest of those that agree.
"""

from typing import Final

from db.pool import Executor, Record, Transaction

AT_ONCE: Final = 10_000
"""Rows in a transaction."""

valid_horizon_sql: Final = "CASE WHEN horizon <= extract(epoch FROM now())::bigint THEN horizon END"
"""SQL: a ticker's horizon. One in the future was set by a wrong clock and counts as none, until `reset` repairs it."""

# A ticker's horizon goes to the day $1, but never past the day of its newest price; one step is from the day of its oldest
# minute, or from the horizon before. Only where every hour and day is there already: what is forgotten cannot be read for them
# any more.
_NEXT: Final = """
SELECT name, horizon, next.to_ts, next.to_ts - next.from_ts AS step
  FROM ticker
 CROSS JOIN LATERAL (
       SELECT min(ts) AS oldest, max(ts) AS newest
         FROM (SELECT (SELECT min(ts) FROM price WHERE price.ticker = name) AS ts
                UNION ALL
               SELECT (SELECT max(ts) FROM price WHERE price.ticker = name AND ts <= $2)) AS ends) AS stored
 CROSS JOIN LATERAL (
       SELECT least($1::bigint, stored.newest - stored.newest % 86400) AS to_ts,
              greatest(horizon, stored.oldest - stored.oldest % 86400) AS from_ts) AS next
 WHERE candles_from IS NULL AND stored.oldest < next.to_ts AND coalesce(horizon, 0) < next.to_ts
"""

STEPS: Final = _NEXT + " ORDER BY name"

MOVE: Final = f"""
WITH next AS ({_NEXT}
), moved AS (
    UPDATE ticker SET horizon = next.to_ts FROM next WHERE next.name = ticker.name AND next.step <= $3::bigint
    RETURNING ticker.name, ticker.horizon
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'horizon', name, horizon, horizon FROM moved ORDER BY name
RETURNING ticker
"""  # noqa: S608  a constant of ours

BEHIND: Final = """
SELECT name, horizon FROM ticker
 WHERE horizon <= $1::bigint
   AND (EXISTS (SELECT FROM price WHERE price.ticker = name AND price.ts < horizon)
        OR EXISTS (SELECT FROM gap WHERE gap.ticker = name AND gap.ts < horizon))
 ORDER BY name
"""

FORGET_PRICES: Final = """
DELETE FROM price
 WHERE ticker = $1 AND ts < $2 AND ts IN (SELECT ts FROM price WHERE ticker = $1 AND ts < $2 ORDER BY ts LIMIT $3)
"""

FORGET_GAPS: Final = """
DELETE FROM gap
 WHERE ticker = $1 AND ts < $2 AND ts IN (SELECT ts FROM gap WHERE ticker = $1 AND ts < $2 ORDER BY ts LIMIT $3)
"""

HORIZONS: Final = """
SELECT name, horizon FROM ticker WHERE horizon IS NOT NULL
"""

IN_FUTURE: Final = """
SELECT name, horizon FROM ticker WHERE horizon > greatest(extract(epoch FROM now())::bigint, $1::bigint) ORDER BY name
"""

# Back to the oldest minute that is still stored, and what lies after it is looked through for gaps once more.
RESET: Final = """
WITH kept AS (
    SELECT name, coalesce((SELECT min(ts) FROM price WHERE price.ticker = name), $1::bigint / 60 * 60) AS ts
      FROM ticker WHERE horizon > $1::bigint
), moved AS (
    UPDATE ticker SET horizon = kept.ts, checked_until = least(checked_until, kept.ts) FROM kept WHERE kept.name = ticker.name
    RETURNING ticker.name, ticker.horizon
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'horizon', name, horizon, horizon FROM moved ORDER BY name
RETURNING ticker, from_ts
"""


async def steps(db: Executor, horizon: int, now: int) -> list[Record]:
    """The tickers whose horizon is to move to the UTC day that begins there: name, horizon (as it stands), to_ts, step (s)."""
    return await db.fetch(STEPS, horizon, now)


async def move(db: Transaction, horizon: int, now: int, most_s: int) -> list[str]:
    """Moves the horizons whose step is at most so many seconds; the tickers whose moved. In a writer's turn."""
    return [row["ticker"] for row in await db.fetch(MOVE, horizon, now, most_s)]


async def behind(db: Executor, now: int) -> list[Record]:
    """The tickers that have something before their horizon: name, horizon. One in the future deletes nothing."""
    return await db.fetch(BEHIND, now)


async def forget(db: Transaction, ticker: str, horizon: int) -> int:
    """Forgets the oldest prices and gaps before the horizon, some of them; how many. In a writer's turn."""
    statuses = [await db.execute(statement, ticker, horizon, AT_ONCE) for statement in (FORGET_PRICES, FORGET_GAPS)]
    return sum(int(status.rpartition(" ")[2]) for status in statuses)


async def horizons(db: Executor) -> dict[str, int]:
    """The horizon of each ticker that has one."""
    return {row["name"]: row["horizon"] for row in await db.fetch(HORIZONS)}


async def in_future(db: Executor, now: int) -> dict[str, int]:
    """The horizons that lie ahead of the database's clock and of `now`."""
    return {row["name"]: row["horizon"] for row in await db.fetch(IN_FUTURE, now)}


async def reset(db: Transaction, now: int) -> dict[str, int]:
    """Takes horizons of the future back to each ticker's oldest stored minute; where they are now. In a writer's turn."""
    return {row["ticker"]: row["from_ts"] for row in await db.fetch(RESET, now)}
