"""Retention: deletes minutes before a ticker's horizon. Their hourly and daily candles remain.

Callers pass as `now` the earliest time among the clocks that agree.
"""

from typing import Final

from db.pool import Database, Executor, Record, Transaction
from db.queries import write_lock

BATCH_ROWS: Final = 10_000
"""Maximum number of rows that one transaction deletes from a table."""

valid_horizon_sql: Final = "CASE WHEN horizon <= extract(epoch FROM now())::bigint THEN horizon END"
"""SQL expression for the horizon of a ticker. A horizon in the future comes from a wrong clock and is ignored until `reset`."""

valid_window_sql: Final = f"""(
    SELECT int8multirange(int8range(low, greatest(low, $3::bigint)))
      FROM (SELECT greatest($2::bigint, {valid_horizon_sql}) AS low FROM ticker WHERE name = $1) AS bounds)"""  # noqa: S608  constants
"""SQL expression for the part of the window [$2, $3) that is not before the horizon of the ticker $1, as a multirange."""

# The horizon of a ticker advances to the day $1, but never past the day of its newest price. The step is measured from the day
# of the oldest minute, or from the previous horizon. A ticker without complete candles is skipped, because candles cannot be
# built from deleted minutes.
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

ADVANCE_HORIZONS: Final = f"""
WITH next AS ({_NEXT}
), moved AS (
    UPDATE ticker SET horizon = next.to_ts FROM next WHERE next.name = ticker.name AND next.step <= $3::bigint
    RETURNING ticker.name, ticker.horizon
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'horizon', name, horizon, horizon FROM moved ORDER BY name
RETURNING ticker
"""  # noqa: S608  inserts a constant

TICKERS_WITH_EXPIRED_ROWS: Final = """
SELECT name, horizon FROM ticker
 WHERE horizon <= $1::bigint
   AND (EXISTS (SELECT FROM price WHERE price.ticker = name AND price.ts < horizon)
        OR EXISTS (SELECT FROM gap WHERE gap.ticker = name AND gap.ts < horizon)
        OR EXISTS (SELECT FROM minute_range WHERE minute_range.ticker = name AND minute_range.ts < horizon)
        OR EXISTS (SELECT FROM past_row AS past
                    WHERE kind IN ('gap', 'minute_range') AND past.ticker = name AND past.ts < horizon))
 ORDER BY name
"""

DELETE_EXPIRED: Final = [
    f"""
DELETE FROM {table}
 WHERE ticker = $1 AND ts < $2 AND {condition}
   AND ts <= (SELECT max(ts) FROM (SELECT ts FROM {table} WHERE ticker = $1 AND ts < $2 AND {condition} ORDER BY ts LIMIT $3)
                                   AS oldest)
"""  # noqa: S608  inserts constants
    for table, condition in (
        ("price", "true"),
        ("minute_range", "true"),
        ("delivery_estimate", "true"),
        ("gap", "true"),
        ("past_row", "kind IN ('minute_range', 'gap')"),  # after `gap`, whose rows it receives
    )
]

HORIZONS: Final = f"""
SELECT name, {valid_horizon_sql} AS horizon FROM ticker WHERE {valid_horizon_sql} IS NOT NULL
"""  # noqa: S608  inserts a constant

FUTURE_HORIZONS: Final = """
SELECT name, horizon FROM ticker WHERE horizon > greatest(extract(epoch FROM now())::bigint, $1::bigint) ORDER BY name
"""

# Resets the horizon to the oldest stored minute, and the watermark, so that later minutes are checked for gaps again.
RESET: Final = """
WITH base AS (
    SELECT name, coalesce((SELECT min(ts) FROM price WHERE price.ticker = name), $1::bigint / 60 * 60) AS ts
      FROM ticker WHERE horizon > $1::bigint
), moved AS (
    UPDATE ticker SET horizon = base.ts, checked_until = least(checked_until, base.ts) FROM base WHERE base.name = ticker.name
    RETURNING ticker.name, ticker.horizon
)
INSERT INTO change (kind, ticker, from_ts, to_ts) SELECT 'horizon', name, horizon, horizon FROM moved ORDER BY name
RETURNING ticker, from_ts
"""


async def list_horizon_steps(db: Executor, horizon: int, now: int) -> list[Record]:
    """Returns the tickers whose horizon would advance, at most to the UTC day `horizon`.

    The columns are name, horizon (the current one), to_ts (the next one) and step (seconds that it would delete).
    """
    return await db.fetch(STEPS, horizon, now)


async def advance_horizons(db: Transaction, horizon: int, now: int, max_step_s: int) -> list[str]:
    """Advances the horizons whose step is at most `max_step_s`, and returns their tickers. Requires a write transaction."""
    return [row["ticker"] for row in await db.fetch(ADVANCE_HORIZONS, horizon, now, max_step_s)]


async def tickers_with_expired_rows(db: Executor, now: int) -> list[Record]:
    """Returns the tickers with rows before their horizon: name, horizon. Horizons in the future are ignored."""
    return await db.fetch(TICKERS_WITH_EXPIRED_ROWS, now)


async def delete_expired(db: Database, now: int, max_transactions: int | None = None) -> int:
    """Deletes minutes before horizons that are not after `now`, in at most `max_transactions`. Returns the number of rows."""
    deleted_count = transaction_count = 0
    for ticker in await tickers_with_expired_rows(db, now):
        while transaction_count != max_transactions:
            transaction_count += 1
            async with write_lock.write_transaction(db) as connection:
                found = await _delete_expired_batch(connection, ticker["name"], ticker["horizon"])
            deleted_count += found
            if found < BATCH_ROWS:
                break
    return deleted_count


async def _delete_expired_batch(db: Transaction, ticker: str, horizon: int) -> int:
    """Deletes a batch of the oldest prices, ranges and gaps before the horizon. Returns the number of rows.

    Requires a write transaction.
    """
    statuses = [await db.execute(statement, ticker, horizon, BATCH_ROWS) for statement in DELETE_EXPIRED]
    return sum(int(status.rpartition(" ")[2]) for status in statuses)


async def horizons(db: Executor) -> dict[str, int]:
    """Returns the horizon of each ticker that has one. Horizons in the future are ignored."""
    return {row["name"]: row["horizon"] for row in await db.fetch(HORIZONS)}


async def future_horizons(db: Executor, now: int) -> dict[str, int]:
    """Returns the horizons later than the clock of the database and `now`."""
    return {row["name"]: row["horizon"] for row in await db.fetch(FUTURE_HORIZONS, now)}


async def reset(db: Transaction, now: int) -> dict[str, int]:
    """Resets horizons in the future to the oldest stored minute. Returns the new horizons. Requires a write transaction."""
    return {row["ticker"]: row["from_ts"] for row in await db.fetch(RESET, now)}
