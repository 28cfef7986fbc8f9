"""Tracking periods of tickers. All functions require a write transaction."""

from collections.abc import Mapping, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries import tickers

# A period that would end in the minute it began in is deleted instead.
DELETE_UNSTARTED_PERIODS: Final = """
DELETE FROM tracking
 WHERE until IS NULL AND since >= $2 AND ticker = ANY ($1::text[])
RETURNING ticker
"""

END_PERIODS: Final = """
UPDATE tracking SET until = $2
 WHERE until IS NULL AND ticker = ANY ($1::text[])
RETURNING ticker
"""

# A period never begins before the end of the previous one, even if a clock was set back. It may begin before the watermark if
# the database was unavailable at its start. Then the watermark moves back, so that its minutes are checked again.
BEGIN_PERIODS: Final = """
WITH started AS (
    INSERT INTO tracking (ticker, since)
    SELECT name, greatest(first, (SELECT max(until) FROM tracking WHERE ticker = name))
      FROM unnest($1::text[], $2::bigint[]) AS requested (name, first)
     WHERE NOT EXISTS (SELECT FROM tracking WHERE ticker = name AND until IS NULL)
    RETURNING ticker, since
), rewound AS (
    UPDATE ticker SET checked_until = least(checked_until, since) FROM started WHERE name = ticker
)
SELECT ticker, since FROM started
"""

# An open period began too late by a wrong clock if live prices precede it, or if it begins in the future. Its begin is moved to
# the first of these prices, searched backwards from the begin (or from now, if that is earlier) for at most a day and until an
# hour without a price: prices before that hour were collected manually. A future begin without such prices is moved to now. The
# caller repeats the call until nothing moves, so that the search covers more than a day.
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
    RETURNING tracking.ticker, tracking.since, stray.since AS previous_since
), rewound AS (
    UPDATE ticker SET checked_until = least(checked_until, since) FROM moved WHERE name = ticker
), inserted_changes AS (
    INSERT INTO change (kind, ticker, from_ts) SELECT 'tracking', ticker, since FROM moved
)
SELECT ticker, previous_since, since FROM moved ORDER BY ticker
"""

# Minutes outside of tracking periods are not expected, so their gaps are deleted.
DELETE_UNFILLED_GAPS: Final = """
DELETE FROM gap WHERE ticker = ANY ($1::text[]) AND ts >= $2 AND filled_at IS NULL
"""

INSERT_CHANGE: Final = """
INSERT INTO change (kind, ticker, from_ts) SELECT 'tracking', unnest($1::text[]), $2::bigint
"""

HAS_PRICE: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1)
"""

DELETE_OPEN_PERIOD: Final = """
DELETE FROM tracking
 WHERE ticker = $1 AND until IS NULL
RETURNING since
"""

END_PERIOD_OF_TICKER: Final = """
UPDATE tracking SET until = $2 WHERE ticker = $1 AND until IS NULL AND since < $2
"""

DELETE_TICKER: Final = """
DELETE FROM ticker
 WHERE name = $1
   AND NOT EXISTS (SELECT FROM price WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM tracking WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM gap WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM minute_range WHERE ticker = $1)
   AND NOT EXISTS (SELECT FROM minute_ticks WHERE ticker = $1)
"""


async def begin_periods(db: Executor, since: Mapping[str, int]) -> dict[str, int]:
    """Begins a tracking period for each ticker of `since` that has no open one, at the given minute.

    Returns the first minute of each new period: later than requested if the previous period ends later.
    """
    await tickers.add(db, since)
    started = {row["ticker"]: row["since"] for row in await db.fetch(BEGIN_PERIODS, list(since), list(since.values()))}
    for name, minute in started.items():
        await db.execute(INSERT_CHANGE, [name], minute)
    return started


async def end_periods(db: Executor, names: Sequence[str], minute: int) -> list[str]:
    """Ends the open periods of the tickers at the minute, and deletes those that began at or after it.

    Returns the tickers whose period ended; those of deleted periods are not among them.
    """
    tickers_to_end = list(names)
    unstarted = [row["ticker"] for row in await db.fetch(DELETE_UNSTARTED_PERIODS, tickers_to_end, minute)]
    ended = [row["ticker"] for row in await db.fetch(END_PERIODS, tickers_to_end, minute)]
    if ended or unstarted:
        await db.execute(DELETE_UNFILLED_GAPS, ended + unstarted, minute)
        await db.execute(INSERT_CHANGE, ended + unstarted, minute)
    return ended


async def repair(db: Executor, now: int) -> list[Record]:
    """Moves open periods that a wrong clock began too late. `now` is a minute. Returns ticker, previous_since, since."""
    return await db.fetch(REPAIR, now)


async def remove_unknown_ticker(db: Executor, name: str, minute: int) -> None:
    """Ends the period of a ticker that the exchange does not know. Deletes the ticker if it never had a price."""
    if await db.fetchval(HAS_PRICE, name):
        await db.execute(END_PERIOD_OF_TICKER, name, minute)
    # A period that is still open is deleted as a whole.
    since = await db.fetchval(DELETE_OPEN_PERIOD, name)
    await db.execute(DELETE_UNFILLED_GAPS, [name], minute if since is None else since)
    await db.execute(DELETE_TICKER, name)
    await db.execute(INSERT_CHANGE, [name], minute)
