"""Forgetting minutes that are too old to be kept. Their hours and days stay, as candles."""

from typing import Final

from db.pool import Executor, Record, Transaction

AT_ONCE: Final = 10_000
"""Rows in a transaction."""

# Only where every hour and day is there already: what is forgotten cannot be read for them any more.
MOVE: Final = """
WITH moved AS (
    UPDATE ticker SET horizon = $1
     WHERE coalesce(horizon, 0) < $1 AND candles_from IS NULL
       AND EXISTS (SELECT FROM price WHERE price.ticker = ticker.name AND price.ts < $1)
    RETURNING name
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'horizon', name, $1, $1 FROM moved ORDER BY name RETURNING ticker
"""

# Asked before a writer's turn is taken, for that makes every API process forget its answers, and days end once a day.
IS_DUE: Final = """
SELECT EXISTS (
    SELECT FROM ticker
     WHERE coalesce(horizon, 0) < $1 AND candles_from IS NULL
       AND EXISTS (SELECT FROM price WHERE price.ticker = ticker.name AND price.ts < $1))
"""

BEHIND: Final = """
SELECT name, horizon FROM ticker
 WHERE horizon IS NOT NULL
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


async def is_due(db: Executor, horizon: int) -> bool:
    """Whether `move` would move any."""
    found: bool = await db.fetchval(IS_DUE, horizon)
    return found


async def move(db: Transaction, horizon: int) -> list[str]:
    """Moves the horizon of each ticker that has older prices to the UTC day that begins there; those whose moved. In a turn."""
    return [row["ticker"] for row in await db.fetch(MOVE, horizon)]


async def behind(db: Executor) -> list[Record]:
    """The tickers that have something before their horizon: name, horizon."""
    return await db.fetch(BEHIND)


async def forget(db: Transaction, ticker: str, horizon: int) -> int:
    """Forgets the oldest prices and gaps before the horizon, some of them; how many. In a writer's turn."""
    statuses = [await db.execute(statement, ticker, horizon, AT_ONCE) for statement in (FORGET_PRICES, FORGET_GAPS)]
    return sum(int(status.rpartition(" ")[2]) for status in statuses)


async def horizons(db: Executor) -> dict[str, int]:
    """The horizon of each ticker that has one."""
    return {row["name"]: row["horizon"] for row in await db.fetch(HORIZONS)}
