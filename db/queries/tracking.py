"""Periods of tracking. All functions belong into a writer's turn."""

from collections.abc import Mapping, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries import tickers

# A period that would end in the minute it began in never was one.
FORGET_UNBEGUN: Final = """
DELETE FROM tracking
 WHERE until IS NULL AND since >= $2 AND ticker = ANY ($1::text[])
RETURNING ticker
"""

END_PERIODS: Final = """
UPDATE tracking SET until = $2
 WHERE until IS NULL AND ticker = ANY ($1::text[])
RETURNING ticker
"""

# Never before the end of the period before it, should a clock have gone back. It may begin before the watermark, where the
# database was away when it began: then its minutes must be walked again.
BEGIN: Final = """
WITH began AS (
    INSERT INTO tracking (ticker, since)
    SELECT name, greatest(first, (SELECT max(until) FROM tracking WHERE ticker = name))
      FROM unnest($1::text[], $2::bigint[]) AS wanted (name, first)
     WHERE NOT EXISTS (SELECT FROM tracking WHERE ticker = name AND until IS NULL)
    RETURNING ticker, since
), rewound AS (
    UPDATE ticker SET checked_until = least(checked_until, since) FROM began WHERE name = ticker
)
SELECT ticker, since FROM began
"""

# Live prices right before an open period, or a period that begins in the future, are a contradiction: the clock was wrong when
# the period began. It begins with the first such price of the last day, or now where there is none; what lies a day further
# back is found by the next call. More than an hour without a price ends the run: what lies before it was collected by hand.
REPAIR: Final = """
WITH stray AS (
    SELECT period.ticker, period.since, (
           SELECT min(ts)
             FROM (SELECT ts, bool_or(is_break) OVER (ORDER BY ts DESC) AS is_before_a_break
                     FROM (SELECT ts, period.since <= $1 + 60
                                  AND coalesce(lag(ts) OVER (ORDER BY ts DESC), period.since) - ts > 3600 AS is_break
                             FROM price
                            WHERE price.ticker = period.ticker AND source = 'LIVE' AND ts < least(period.since, $1::bigint + 60)
                              AND ts >= greatest(
                                  least(period.since, $1) - 86400,
                                  (SELECT max(until) FROM tracking AS ended WHERE ended.ticker = period.ticker))) AS price
                  ) AS run
            WHERE NOT is_before_a_break) AS first
      FROM tracking AS period
     WHERE until IS NULL
), moved AS (
    UPDATE tracking SET since = coalesce(stray.first, $1)
      FROM stray
     WHERE tracking.ticker = stray.ticker AND tracking.since = stray.since
       AND (stray.first IS NOT NULL OR stray.since > $1 + 60)
    RETURNING tracking.ticker, tracking.since, stray.since AS before
), rewound AS (
    UPDATE ticker SET checked_until = least(checked_until, since) FROM moved WHERE name = ticker
), announced AS (
    INSERT INTO change (kind, ticker, from_ts) SELECT 'tracking', ticker, since FROM moved
)
SELECT ticker, before, since FROM moved ORDER BY ticker
"""

# What is not expected is no gap.
DROP_GAPS: Final = """
DELETE FROM gap WHERE ticker = ANY ($1::text[]) AND ts >= $2 AND filled_at IS NULL
"""

TELL: Final = """
INSERT INTO change (kind, ticker, from_ts) SELECT 'tracking', unnest($1::text[]), $2::bigint
"""

HAS_PRICE: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1)
"""

FORGET: Final = """
DELETE FROM tracking
 WHERE ticker = $1 AND until IS NULL
RETURNING since
"""

END: Final = """
UPDATE tracking SET until = $2 WHERE ticker = $1 AND until IS NULL AND since < $2
"""

FORGET_TICKER: Final = """
DELETE FROM ticker
 WHERE name = $1
   AND NOT EXISTS (SELECT FROM price WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM tracking WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM gap WHERE ticker = $1)
"""


async def begin(db: Executor, since: Mapping[str, int]) -> dict[str, int]:
    """Begins a period of each name that has no open one, with its minute; where those that began do so."""
    await tickers.add(db, since)
    began = {row["ticker"]: row["since"] for row in await db.fetch(BEGIN, list(since), list(since.values()))}
    for name, minute in began.items():
        await db.execute(TELL, [name], minute)
    return began


async def end(db: Executor, names: Sequence[str], minute: int) -> list[str]:
    """Ends the open periods of the names with the minute; the names whose ended."""
    wanted = list(names)
    unbegun = [row["ticker"] for row in await db.fetch(FORGET_UNBEGUN, wanted, minute)]
    ended = [row["ticker"] for row in await db.fetch(END_PERIODS, wanted, minute)]
    if ended or unbegun:
        await db.execute(DROP_GAPS, ended + unbegun, minute)
        await db.execute(TELL, ended + unbegun, minute)
    return ended


async def repair(db: Executor, now: int) -> list[Record]:
    """Moves open periods that a wrong clock began too late, by the minute `now`: ticker, before, since."""
    return await db.fetch(REPAIR, now)


async def take_back(db: Executor, name: str, minute: int) -> None:
    """Ends the period of a name that the exchange does not know, and forgets the name where it never had a price."""
    if await db.fetchval(HAS_PRICE, name):
        await db.execute(END, name, minute)
    # The whole period, where it was not ended just now.
    since = await db.fetchval(FORGET, name)
    await db.execute(DROP_GAPS, [name], minute if since is None else since)
    await db.execute(FORGET_TICKER, name)
    await db.execute(TELL, [name], minute)
