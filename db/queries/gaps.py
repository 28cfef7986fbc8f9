"""Gaps: expected minutes without a price, each with its reason. What writes belongs into a writer's turn."""

from collections.abc import Mapping, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries.retention import valid_horizon_sql
from db.tables import Reason

Minute = tuple[str, int]
"""A ticker and a minute."""

LAST_MINUTES: Final = """
SELECT name, coalesce(checked_until, min(since)) AS low
  FROM ticker JOIN tracking ON tracking.ticker = ticker.name
 GROUP BY name
 ORDER BY name
"""

# Expected is what lies in a period of tracking and not before the horizon. The OFFSET keeps looking for a price a probe for
# each minute: joined, the planner reads the whole history, not knowing how few minutes there are.
OPEN_MISSING: Final = f"""
WITH walked AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS walked (ticker, low, high)
), missing AS (
    SELECT walked.ticker, minute.ts
      FROM walked
      JOIN ticker ON ticker.name = walked.ticker
      JOIN tracking ON tracking.ticker = walked.ticker
     CROSS JOIN LATERAL generate_series(
           greatest(since, low, {valid_horizon_sql}), least(coalesce(until, high), high) - 60, 60) AS minute (ts)
     WHERE NOT EXISTS (SELECT FROM price WHERE price.ticker = walked.ticker AND price.ts = minute.ts OFFSET 0)
), opened AS (
    INSERT INTO gap (ticker, ts, reason)
    SELECT missing.ticker, missing.ts, coalesce(
           evidence.reason,
           (SELECT 'storage' FROM reject WHERE reject.ticker = missing.ticker AND reject.ts = missing.ts LIMIT 1),
           'not_collected')
      FROM missing
      LEFT JOIN unnest($4::text[], $5::bigint[], $6::text[]) AS evidence (ticker, ts, reason)
        ON evidence.ticker = missing.ticker AND evidence.ts = missing.ts
        ON CONFLICT (ticker, ts) DO NOTHING
    RETURNING ticker, ts, reason
), advanced AS (
    UPDATE ticker SET checked_until = high FROM walked WHERE name = walked.ticker
), told AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count)
    SELECT 'gap_opened', ticker, min(ts), max(ts) + 60, count(*) FROM opened GROUP BY ticker
)
SELECT ticker, reason, count(*) AS minutes, min(ts) AS low, max(ts) + 60 AS high
  FROM opened
 GROUP BY ticker, reason
 ORDER BY ticker, low
"""  # noqa: S608  a constant of ours

OPEN: Final = f"""
WITH opened AS (
    INSERT INTO gap (ticker, ts, reason)
    SELECT failed.ticker, failed.ts, failed.reason
      FROM unnest($1::text[], $2::bigint[], $3::text[]) AS failed (ticker, ts, reason)
      JOIN ticker ON ticker.name = failed.ticker
     WHERE failed.ts >= coalesce({valid_horizon_sql}, 0)
       AND EXISTS (SELECT FROM tracking
                    WHERE tracking.ticker = failed.ticker AND since <= failed.ts AND (until IS NULL OR failed.ts < until))
       AND NOT EXISTS (SELECT FROM price WHERE price.ticker = failed.ticker AND price.ts = failed.ts)
        ON CONFLICT (ticker, ts) DO NOTHING
    RETURNING ticker, ts
)
INSERT INTO change (kind, ticker, from_ts, to_ts, count)
SELECT 'gap_opened', ticker, min(ts), max(ts) + 60, count(*) FROM opened GROUP BY ticker
"""  # noqa: S608  a constant of ours

# Evidence may come after the gap was opened: a collect that began late ends late.
EXPLAIN: Final = """
WITH explained AS (
    UPDATE gap SET reason = evidence.reason
      FROM unnest($1::text[], $2::bigint[], $3::text[]) AS evidence (ticker, ts, reason)
     WHERE gap.ticker = evidence.ticker AND gap.ts = evidence.ts AND gap.reason = 'not_collected'
    RETURNING gap.ticker, gap.ts, CASE WHEN filled_at IS NULL THEN 'gap_opened' ELSE 'gap_closed' END AS kind
)
INSERT INTO change (kind, ticker, from_ts, to_ts, count)
SELECT kind, ticker, min(ts), max(ts) + 60, count(*) FROM explained GROUP BY kind, ticker
"""

# A minute that was looked for in vain k times waits until it is 2 to the k minutes old: some ten times a day, twenty a year.
NEWEST_OPEN: Final = """
SELECT ticker, ts
  FROM gap
 WHERE filled_at IS NULL AND given_up_at IS NULL AND $1::bigint - ts >= 60 * (2::numeric ^ attempts)
 ORDER BY ts DESC, ticker
 LIMIT $2
"""

UNFILLED: Final = """
SELECT ticker, ts
  FROM gap
 WHERE ticker = $1 AND ts >= $2 AND ts < $3 AND filled_at IS NULL
 ORDER BY ts DESC
 LIMIT $4
"""

COUNT_ATTEMPT: Final = """
UPDATE gap SET attempts = attempts + 1
 WHERE ticker = $1 AND ts = ANY ($2::bigint[]) AND filled_at IS NULL
"""

GIVE_UP: Final = """
WITH given_up AS (
    UPDATE gap SET given_up_at = extract(epoch FROM now())::bigint
     WHERE ticker = $1 AND ts = ANY ($2::bigint[]) AND filled_at IS NULL AND given_up_at IS NULL
    RETURNING ticker, ts
)
INSERT INTO change (kind, ticker, from_ts, to_ts, count)
SELECT 'gap_given_up', ticker, min(ts), max(ts) + 60, count(*) FROM given_up GROUP BY ticker
"""

_STATE: Final = """
CASE WHEN filled_at IS NOT NULL THEN 'FILLED' WHEN given_up_at IS NOT NULL THEN 'GIVEN_UP' ELSE 'OPEN' END"""

PERIODS: Final = f"""
WITH kept AS (
    SELECT ts, reason, {_STATE} AS state FROM gap WHERE ticker = $1 AND ts >= $2 AND ts < $3
), marked AS (
    SELECT *, (lag(ts) OVER w, lag(reason) OVER w, lag(state) OVER w) IS DISTINCT FROM (ts - 60, reason, state) AS begins
      FROM kept WINDOW w AS (ORDER BY ts)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER (ORDER BY ts) AS period FROM marked
)
SELECT min(ts) AS low, max(ts) + 60 AS high, reason, state
  FROM numbered
 WHERE state = ANY ($4::text[])
 GROUP BY period, reason, state
 ORDER BY low
 LIMIT $5
"""  # noqa: S608  a constant of ours

# Walks back from the newest gap of each ticker, over its last period only.
LAST_PERIOD_OF_EACH: Final = f"""
SELECT newest.ticker, newest.reason, newest.state, newest.ts + 60 AS high, (
       SELECT ts
         FROM gap
        WHERE gap.ticker = newest.ticker AND ts <= newest.ts
          AND NOT EXISTS (
              SELECT FROM (SELECT before.reason, {_STATE} AS state
                             FROM gap AS before
                            WHERE before.ticker = newest.ticker AND before.ts = gap.ts - 60) AS earlier
               WHERE earlier.reason = newest.reason AND earlier.state = newest.state)
        ORDER BY ts DESC
        LIMIT 1) AS low
  FROM unnest($1::text[]) AS asked (ticker)
 CROSS JOIN LATERAL (
       SELECT ticker, ts, reason, {_STATE} AS state FROM gap WHERE gap.ticker = asked.ticker ORDER BY ts DESC LIMIT 1) AS newest
"""  # noqa: S608  a constant of ours

COUNTS: Final = """
SELECT ticker, count(*) FILTER (WHERE given_up_at IS NULL) AS open, count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up
  FROM gap WHERE filled_at IS NULL GROUP BY ticker
"""

MISSING_BY_REASON: Final = """
SELECT reason, CASE WHEN given_up_at IS NULL THEN 'open' ELSE 'given_up' END AS state, count(*) AS minutes, min(ts) AS oldest
  FROM gap WHERE filled_at IS NULL GROUP BY 1, 2
"""


async def last_minutes(db: Executor) -> dict[str, int]:
    """For each ticker that was ever tracked, the first minute that is not known to be stored or a gap."""
    return {row["name"]: row["low"] for row in await db.fetch(LAST_MINUTES)}


async def open_missing(db: Executor, walked: Mapping[str, tuple[int, int]], evidence: Mapping[Minute, Reason]) -> list[Record]:
    """Makes every expected minute without a price a gap, for each ticker in its [low, high), and moves the watermark to high.

    The reason is the evidence's, or that the price was set aside, or that nobody collected. Returns what was opened:
    ticker, reason, minutes, low, high.
    """
    windows = [(name, low, high) for name, (low, high) in walked.items()]
    return await db.fetch(OPEN_MISSING, *_columns(windows), *_reasons(evidence))


async def open_(db: Executor, failed: Mapping[Minute, Reason]) -> None:
    """Makes the minutes gaps, those of them that are expected and not stored."""
    await db.execute(OPEN, *_reasons(failed))


async def explain(db: Executor, evidence: Mapping[Minute, Reason]) -> None:
    """Gives gaps that were opened without evidence their reason."""
    await db.execute(EXPLAIN, *_reasons(evidence))


async def newest_open(db: Executor, now: int, limit: int) -> list[Minute]:
    """The gaps that a chart should be looked through for in the minute `now`, newest first."""
    return [(row["ticker"], row["ts"]) for row in await db.fetch(NEWEST_OPEN, now, limit)]


async def unfilled(db: Executor, ticker: str, low: int, high: int, limit: int) -> list[Minute]:
    """The gaps of a window, given up or not, newest first."""
    return [(row["ticker"], row["ts"]) for row in await db.fetch(UNFILLED, ticker, low, high, limit)]


async def count_attempt(db: Executor, ticker: str, minutes: Sequence[int]) -> None:
    """Notes that a chart was looked through for the minutes in vain."""
    await db.execute(COUNT_ATTEMPT, ticker, list(minutes))


async def give_up(db: Executor, ticker: str, minutes: Sequence[int]) -> None:
    """Notes that no chart can resolve the minutes any more."""
    await db.execute(GIVE_UP, ticker, list(minutes))


async def periods(db: Executor, ticker: str, low: int, high: int, states: Sequence[str], limit: int) -> list[Record]:
    """The gaps of [low, high) as periods of one reason and state: low, high, reason, state (OPEN, FILLED, GIVEN_UP)."""
    return await db.fetch(PERIODS, ticker, low, high, list(states), limit)


async def last_period_of_each(db: Executor, tickers: Sequence[str]) -> dict[str, Record]:
    """The newest period of gaps, like `periods` gives them, of each ticker that has one."""
    return {row["ticker"]: row for row in await db.fetch(LAST_PERIOD_OF_EACH, list(tickers))}


async def counts(db: Executor) -> dict[str, Record]:
    """How many minutes of each ticker are missing: open (to be looked for) and given_up."""
    return {row["ticker"]: row for row in await db.fetch(COUNTS)}


async def missing_by_reason(db: Executor) -> list[Record]:
    """How many minutes are missing, by reason and state (open, given_up), and the oldest of them."""
    return await db.fetch(MISSING_BY_REASON)


def _reasons(evidence: Mapping[Minute, Reason]) -> list[list[object]]:
    return _columns([(ticker, ts, reason) for (ticker, ts), reason in evidence.items()])


def _columns(rows: Sequence[tuple[object, object, object]]) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(3)]
