"""Gaps: expected minutes without a price, each with a reason. Functions that write require a write transaction."""

from collections.abc import Mapping, Sequence
from typing import Final

from db.pool import Executor, Record
from db.queries.retention import valid_horizon_sql, valid_window_sql
from db.queries.snapshots import Snapshot, rewrite
from db.rows import Reason

TickerMinute = tuple[str, int]
"""Ticker, and minute in UNIX seconds."""

WATERMARKS: Final = """
SELECT name, coalesce(checked_until, min(since)) AS low
  FROM ticker JOIN tracking ON tracking.ticker = ticker.name
 GROUP BY name
 ORDER BY name
"""

# Minutes in a tracking period and not before the horizon are expected. OFFSET 0 forces an index lookup for each minute. In a
# join the planner would read the whole history, because it does not know how few minutes there are.
DETECT_GAPS: Final = f"""
WITH windows AS (
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS windows (ticker, low, high)
), missing AS (
    SELECT windows.ticker, minute.ts
      FROM windows
      JOIN ticker ON ticker.name = windows.ticker
      JOIN tracking ON tracking.ticker = windows.ticker
     CROSS JOIN LATERAL generate_series(
           greatest(since, low, {valid_horizon_sql}), least(coalesce(until, high), high) - 60, 60) AS minute (ts)
     WHERE NOT EXISTS (SELECT FROM price WHERE price.ticker = windows.ticker AND price.ts = minute.ts OFFSET 0)
), opened AS (
    INSERT INTO gap (ticker, ts, reason)
    SELECT missing.ticker, missing.ts, coalesce(
           failure_reasons.reason,
           (SELECT 'storage' FROM reject WHERE reject.ticker = missing.ticker AND reject.ts = missing.ts LIMIT 1),
           'not_collected')
      FROM missing
      LEFT JOIN unnest($4::text[], $5::bigint[], $6::text[]) AS failure_reasons (ticker, ts, reason)
        ON failure_reasons.ticker = missing.ticker AND failure_reasons.ts = missing.ts
        ON CONFLICT (ticker, ts) DO NOTHING
    RETURNING ticker, ts, reason
), advanced AS (
    UPDATE ticker SET checked_until = high FROM windows WHERE name = windows.ticker
), inserted_changes AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count)
    SELECT 'gap_opened', ticker, min(ts), max(ts) + 60, count(*) FROM opened GROUP BY ticker
)
SELECT ticker, reason, count(*) AS minutes, min(ts) AS low, max(ts) + 60 AS high
  FROM opened
 GROUP BY ticker, reason
 ORDER BY ticker, low
"""  # noqa: S608  inserts a constant

OPEN_GAPS: Final = f"""
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
"""  # noqa: S608  inserts a constant

# A late collect job may report the reason after the gap was opened.
SET_GAP_REASONS: Final = """
WITH explained AS (
    UPDATE gap SET reason = failure_reasons.reason
      FROM unnest($1::text[], $2::bigint[], $3::text[]) AS failure_reasons (ticker, ts, reason)
     WHERE gap.ticker = failure_reasons.ticker AND gap.ts = failure_reasons.ts AND gap.reason = 'not_collected'
    RETURNING gap.ticker, gap.ts, CASE WHEN filled_at IS NULL THEN 'gap_opened' ELSE 'gap_closed' END AS kind
)
INSERT INTO change (kind, ticker, from_ts, to_ts, count)
SELECT kind, ticker, min(ts), max(ts) + 60, count(*) FROM explained GROUP BY kind, ticker
"""

# Exponential backoff: after k failed attempts a minute is retried when it is 2^k minutes old. That makes about ten attempts
# in the first day, and twenty in a year.
DUE_GAPS: Final = """
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
  FROM unnest($2::bigint[]) AS given (ts)
 WHERE gap.ticker = $1 AND gap.ts = given.ts AND filled_at IS NULL
"""

MARK_UNRECOVERABLE: Final = """
WITH given_up AS (
    UPDATE gap SET given_up_at = extract(epoch FROM now())::bigint
      FROM unnest($2::bigint[]) AS given (ts)
     WHERE gap.ticker = $1 AND gap.ts = given.ts AND filled_at IS NULL AND given_up_at IS NULL
    RETURNING gap.ticker, gap.ts
)
INSERT INTO change (kind, ticker, from_ts, to_ts, count)
SELECT 'gap_given_up', ticker, min(ts), max(ts) + 60, count(*) FROM given_up GROUP BY ticker
"""

_STATE: Final = """
CASE WHEN filled_at IS NOT NULL THEN 'FILLED' WHEN given_up_at IS NOT NULL THEN 'GIVEN_UP' ELSE 'OPEN' END"""

# Minutes that an import covers and lacks are gaps without a row: a file of hourly prices lacks 59 of 60. They are derived from
# the stored minutes. In a tracking period, rows of `gap` explain them. OFFSET 0 makes PostgreSQL scan the index once for each
# period; with old statistics, a join would read the whole history of the ticker.
PERIODS: Final = f"""
WITH import_only AS (
    SELECT lower(part) AS low, upper(part) AS high
      FROM unnest({valid_window_sql}
           * (SELECT range_agg(int8range(since, until)) FROM import_period WHERE ticker = $1)
           - coalesce((SELECT range_agg(int8range(since, until)) FROM tracking WHERE ticker = $1), '{{}}')) AS part
), hole AS (
    SELECT ts + 60 AS low, lead(ts, 1, until) OVER (PARTITION BY until ORDER BY ts) AS high
      FROM (SELECT high AS until, low - 60 AS ts FROM import_only
             UNION ALL
            SELECT high, ts
              FROM import_only
             CROSS JOIN LATERAL (
                   SELECT ts FROM price
                    WHERE ticker = $1 AND ts >= import_only.low AND ts < import_only.high OFFSET 0) AS minute
           ) AS boundary
), window_gaps AS (
    SELECT ts, reason, {_STATE} AS state FROM gap WHERE ticker = $1 AND ts >= $2 AND ts < $3
), marked AS (
    SELECT *, (lag(ts) OVER w, lag(reason) OVER w, lag(state) OVER w) IS DISTINCT FROM (ts - 60, reason, state) AS begins
      FROM window_gaps WINDOW w AS (ORDER BY ts)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE begins) OVER (ORDER BY ts) AS period FROM marked
)
SELECT min(ts) AS low, max(ts) + 60 AS high, reason, state
  FROM numbered
 WHERE state = ANY ($4::text[])
 GROUP BY period, reason, state
 UNION ALL
SELECT low, high, 'not_imported', 'GIVEN_UP' FROM hole WHERE low < high AND 'GIVEN_UP' = ANY ($4::text[]) AND $6::boolean
 ORDER BY low
 LIMIT $5
"""  # noqa: S608  inserts constants

# Reads backwards from the newest gap of each ticker, and only over its last period.
LAST_PERIOD_OF_EACH: Final = f"""
SELECT newest.ticker, newest.reason, newest.state, newest.ts + 60 AS high, (
       SELECT ts
         FROM gap
        WHERE gap.ticker = newest.ticker AND ts <= newest.ts
          AND NOT EXISTS (
              SELECT FROM (SELECT previous.reason, {_STATE} AS state
                             FROM gap AS previous
                            WHERE previous.ticker = newest.ticker AND previous.ts = gap.ts - 60) AS adjacent
               WHERE adjacent.reason = newest.reason AND adjacent.state = newest.state)
        ORDER BY ts DESC
        LIMIT 1) AS low
  FROM unnest($1::text[]) AS names (ticker)
 CROSS JOIN LATERAL (
       SELECT ticker, ts, reason, {_STATE} AS state FROM gap WHERE gap.ticker = names.ticker ORDER BY ts DESC LIMIT 1) AS newest
"""  # noqa: S608  inserts a constant

COUNTS: Final = """
SELECT ticker, count(*) FILTER (WHERE given_up_at IS NULL) AS open, count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up
  FROM gap WHERE filled_at IS NULL GROUP BY ticker
"""

MISSING_BY_REASON: Final = """
SELECT reason, CASE WHEN given_up_at IS NULL THEN 'open' ELSE 'given_up' END AS state, count(*) AS minutes, min(ts) AS oldest
  FROM gap WHERE filled_at IS NULL GROUP BY 1, 2
"""


async def watermarks(db: Executor) -> dict[str, int]:
    """Returns the watermark of each ticker that was ever tracked: all earlier expected minutes are stored or gaps."""
    return {row["name"]: row["low"] for row in await db.fetch(WATERMARKS)}


async def detect_gaps(
    db: Executor, ticker_windows: Mapping[str, tuple[int, int]], failure_reasons: Mapping[TickerMinute, Reason]
) -> list[Record]:
    """Opens a gap for each expected minute without a price in the window [low, high) of each ticker.

    Moves the watermark of each ticker to the end of its window. The reason is that of the recorded failure,
    `storage` if the price was rejected, or `not_collected`. Returns the opened gaps: ticker, reason, minutes, low, high.
    """
    windows = [(name, low, high) for name, (low, high) in ticker_windows.items()]
    return await db.fetch(DETECT_GAPS, *_transpose(windows), *_failure_columns(failure_reasons))


async def open_gaps(db: Executor, failed: Mapping[TickerMinute, Reason]) -> None:
    """Opens a gap for each of the minutes that is expected and not stored."""
    await db.execute(OPEN_GAPS, *_failure_columns(failed))


async def set_gap_reasons(db: Executor, failure_reasons: Mapping[TickerMinute, Reason]) -> None:
    """Sets the reason of gaps that were opened as `not_collected`."""
    await db.execute(SET_GAP_REASONS, *_failure_columns(failure_reasons))


async def due_gaps(db: Executor, now: int, limit: int) -> list[TickerMinute]:
    """Returns the open gaps for which a backfill is due at the minute `now`, newest first."""
    return [(row["ticker"], row["ts"]) for row in await db.fetch(DUE_GAPS, now, limit)]


async def unfilled(db: Executor, ticker: str, low: int, high: int, limit: int) -> list[TickerMinute]:
    """Returns the unfilled gaps of a window, including unrecoverable ones, newest first."""
    return [(row["ticker"], row["ts"]) for row in await db.fetch(UNFILLED, ticker, low, high, limit)]


async def count_attempt(db: Executor, ticker: str, minutes: Sequence[int]) -> None:
    """Increments the count of failed backfill attempts of the minutes."""
    await db.execute(COUNT_ATTEMPT, ticker, list(minutes))


async def mark_unrecoverable(db: Executor, ticker: str, minutes: Sequence[int]) -> None:
    """Marks gaps as unrecoverable: the chart data no longer contains their minutes."""
    await db.execute(MARK_UNRECOVERABLE, ticker, list(minutes))


async def periods(
    db: Executor,
    ticker: str,
    low: int,
    high: int,
    states: Sequence[str],
    limit: int,
    *,
    with_imports: bool = True,
    snapshot: Snapshot | None = None,
) -> list[Record]:
    """Returns the gaps of [low, high) as periods: low, high, reason, state (OPEN, FILLED or GIVEN_UP).

    The reason is a `db.rows.Reason`, or `not_imported` for minutes that only an import covers and that the import lacks. The
    latter are returned only if `with_imports` is true.
    """
    return await db.fetch(*rewrite(snapshot, PERIODS, ticker, low, high, list(states), limit, with_imports))


async def last_period_of_each(db: Executor, tickers: Sequence[str]) -> dict[str, Record]:
    """Returns the newest period of gaps of each ticker that has one, with the columns of `periods`."""
    return {row["ticker"]: row for row in await db.fetch(LAST_PERIOD_OF_EACH, list(tickers))}


async def counts(db: Executor) -> dict[str, Record]:
    """Returns the number of missing minutes of each ticker: open (backfill pending) and given_up (unrecoverable)."""
    return {row["ticker"]: row for row in await db.fetch(COUNTS)}


async def missing_by_reason(db: Executor) -> list[Record]:
    """Returns the number of missing minutes and the oldest one, by reason and state (open, given_up)."""
    return await db.fetch(MISSING_BY_REASON)


def _failure_columns(failure_reasons: Mapping[TickerMinute, Reason]) -> list[list[object]]:
    return _transpose([(ticker, ts, reason) for (ticker, ts), reason in failure_reasons.items()])


def _transpose(rows: Sequence[tuple[object, object, object]]) -> list[list[object]]:
    return [[row[column] for row in rows] for column in range(3)]
