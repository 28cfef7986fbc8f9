"""Prices: read by ticker and minute, written once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from db import times
from db.pool import Executor, Record
from db.queries import shapes
from db.queries.shapes import Column, Shape, Statement, instant
from db.tables import PriceRow

has_begun_sql: Final = "ts <= greatest(extract(epoch FROM now())::bigint, {now}::bigint)"
"""SQL: whether a minute has begun by the database's clock or by `{now}`. A row ahead of both never counts as the latest."""

LATEST: Final = f"""
SELECT id, ticker, ts, price, observed_at, source
  FROM price
 WHERE ticker = $1 AND {has_begun_sql.format(now="$2")}
 ORDER BY ts DESC
 LIMIT 1
"""  # noqa: S608  a constant of ours

LATEST_OF_EACH: Final = f"""
SELECT p.*
  FROM unnest($1::text[]) WITH ORDINALITY AS asked (ticker, place)
 CROSS JOIN LATERAL (
       SELECT id, ticker, ts, price, observed_at, source
         FROM price
        WHERE price.ticker = asked.ticker AND {has_begun_sql.format(now="$2")}
        ORDER BY ts DESC
        LIMIT 1) AS p
 ORDER BY asked.place
"""  # noqa: S608  a constant of ours

OLDEST_FIRST: Final = """
SELECT id, ticker, ts, price, observed_at, source
  FROM price
 WHERE ticker = $1 AND ts >= $2 AND ts < $3
 ORDER BY ts
 LIMIT $4 OFFSET $5
"""

NEWEST_FIRST: Final = """
SELECT id, ticker, ts, price, observed_at, source
  FROM price
 WHERE ticker = $1 AND ts >= $2 AND ts < $3
 ORDER BY ts DESC
 LIMIT $4 OFFSET $5
"""

COUNT_IN: Final = """
SELECT count(*) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

ANY_IN: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3)
"""

# Where only the minute is known, its price counts as observed at the minute's very end: never seen too early.
LAST_OBSERVED: Final = """
SELECT id, ticker, ts, price, observed_at, source
  FROM (SELECT *, coalesce(observed_at, (ts + 60) * 1000000) AS seen_at
          FROM price
         WHERE ticker = $1 AND ts > $2::bigint - $3::bigint - 120 AND ts <= $2::bigint) AS near
 WHERE seen_at <= $2::bigint * 1000000 AND seen_at >= ($2::bigint - $3::bigint) * 1000000
 ORDER BY ts DESC
 LIMIT 1
"""

# The CHECKs of the table keep names and prices such that nothing has to be escaped or normalised.
_SECOND = instant("observed_at / 1000000")
_MICROSECOND = f"{_SECOND} || '.' || lpad((observed_at % 1000000)::text, 6, '0')"
observed_sql: Final = f"{_MICROSECOND} || 'Z'"
"""SQL: the instant of a price as ISO 8601 with microseconds, or null."""
AS_TEXT: Final[Mapping[str, Column]] = {
    "id": Column("id::text", '"'),
    "ticker": Column("ticker", '"'),
    "ts": Column("ts::text"),
    "time": Column(instant("ts") + " || 'Z'", '"'),
    "price": Column("price::text", '"'),
    "observed_at": Column(
        f"CASE WHEN observed_at IS NULL THEN 'null' WHEN observed_at % 1000000 = 0 THEN '\"' || {_SECOND} || 'Z\"' "
        f"ELSE '\"' || {_MICROSECOND} || 'Z\"' END"
    ),
    "observed_us": Column(f"coalesce('\"' || {_MICROSECOND} || 'Z\"', 'null')"),
    "source": Column("source", '"'),
}
"""Values as clients read them. `observed_us` always shows microseconds, `observed_at` only where there are some."""

STORED_AT: Final = """
SELECT ticker FROM price WHERE ticker = ANY ($1::text[]) AND ts = $2
"""

MANY: Final = 1_000
"""More backfilled or imported rows of a ticker than this in one transaction are told as one `history` change."""

# One statement, so that no writer can forget the rest: the gaps of the minutes it stores are closed, and readers are told.
STORE: Final = f"""
WITH stored AS (
    INSERT INTO price (ticker, ts, price, observed_at, source)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::bigint[], $5::text[])
        ON CONFLICT (ticker, ts) DO NOTHING
    RETURNING id, ticker, ts, price, observed_at, source
), filled AS (
    UPDATE gap SET filled_at = extract(epoch FROM now())::bigint
      FROM stored
     WHERE gap.ticker = stored.ticker AND gap.ts = stored.ts AND gap.filled_at IS NULL
    RETURNING gap.ticker, gap.ts
), told AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count, first_id, last_id)
    SELECT 'gap_closed', ticker, min(ts), max(ts) + 60, count(*), NULL, NULL FROM filled GROUP BY ticker
     UNION ALL
    SELECT 'history', ticker, min(ts), max(ts) + 60, count(*), min(id), max(id)
      FROM stored WHERE source <> 'LIVE' GROUP BY ticker HAVING count(*) > {MANY}
)
SELECT id, ticker, ts, price, observed_at, source FROM stored
"""  # noqa: S608  a constant of ours


async def latest(db: Executor, ticker: str, now: float) -> Record | None:
    """The ticker's newest price of a minute that has begun by `now` or by the database's clock, None where there is none."""
    return await db.fetchrow(LATEST, ticker, int(now))


async def latest_of_each(db: Executor, tickers: Sequence[str], now: float) -> list[Record]:
    """Like `latest`, of each ticker that has one, in the order asked for."""
    return await db.fetch(LATEST_OF_EACH, list(tickers), int(now))


async def window(
    db: Executor, ticker: str, low: int, high: int, *, newest_first: bool, limit: int | None = None, offset: int = 0
) -> list[Record]:
    """The prices of minutes in [low, high), at most `limit` of them after leaving out `offset`."""
    return await db.fetch(NEWEST_FIRST if newest_first else OLDEST_FIRST, ticker, low, high, limit, offset)


@dataclass(frozen=True)
class Listed:
    """Prices as the JSON text of a list."""

    text: str
    low: int | None
    """The earliest minute in it; None where it is empty."""
    high: int | None
    """The latest."""
    more: bool
    """Whether the window holds more behind the last of them."""


async def listed(
    db: Executor,
    shape: Shape,
    ticker: str,
    low: int,
    high: int,
    *,
    newest_first: bool,
    limit: int | None = None,
    offset: int = 0,
) -> Listed:
    """Like `window`, as JSON."""
    statement = listed_statement(shape, newest_first=newest_first)
    (row,) = await db.fetch(statement.sql, ticker, low, high, limit, offset, *statement.constants)
    return Listed(**row)


async def window_text(db: Executor, shape: Shape, ticker: str, low: int, high: int, *, newest_first: bool) -> bytes:
    """Like `window`, all of it, as JSON: `[]` where there is none. (As bytes: a text would be decoded, and encoded again.)"""
    statement = window_statement(shape, newest_first=newest_first)
    text: bytes = await db.fetchval(statement.sql, ticker, low, high, *statement.constants)
    return text


async def latest_text(db: Executor, shape: Shape, ticker: str, now: float) -> str | None:
    """Like `latest`, as JSON."""
    statement = latest_statement(shape)
    text: str | None = await db.fetchval(statement.sql, ticker, int(now), *statement.constants)
    return text


@lru_cache(256)
def listed_statement(shape: Shape, *, newest_first: bool) -> Statement:
    """The statement of `listed`; after its five parameters it takes the constants."""
    window = NEWEST_FIRST if newest_first else OLDEST_FIRST
    beyond = "ts >= $2 AND ts < page.low" if newest_first else "ts > page.high AND ts < $3"
    return shapes.rows(
        shape,
        6,
        lambda text: (
            f"SELECT text, low, high, EXISTS (SELECT FROM price WHERE ticker = $1 AND {beyond}) AS more "  # noqa: S608
            f"FROM (SELECT {text} AS text, min(ts) AS low, max(ts) AS high FROM ({window}) AS price) AS page"
        ),
    )


@lru_cache(256)
def window_statement(shape: Shape, *, newest_first: bool) -> Statement:
    """The statement of `window_text`; after its three parameters it takes the constants."""
    window = (NEWEST_FIRST if newest_first else OLDEST_FIRST).partition("LIMIT")[0]
    return shapes.rows(shape, 4, lambda text: f"SELECT convert_to({text}, 'UTF8') FROM ({window}) AS price")  # noqa: S608  of the catalogue


@lru_cache(256)
def latest_statement(shape: Shape) -> Statement:
    """The statement of `latest_text`; after its two parameters it takes the constants."""
    return shapes.one(shape, 3, lambda text: f"SELECT {text} FROM ({LATEST}) AS price")  # noqa: S608  of the catalogue


async def count_in(db: Executor, ticker: str, low: int, high: int) -> int:
    """How many prices are stored for minutes in [low, high)."""
    found: int = await db.fetchval(COUNT_IN, ticker, low, high)
    return found


async def any_in(db: Executor, ticker: str, low: int, high: int) -> bool:
    """Whether a price is stored for a minute in [low, high)."""
    found: bool = await db.fetchval(ANY_IN, ticker, low, high)
    return found


async def last_observed(db: Executor, ticker: str, at: int, max_age_s: int) -> Record | None:
    """The last price observed at or before the second `at`, if it is at most `max_age_s` older."""
    return await db.fetchrow(LAST_OBSERVED, ticker, at, min(max_age_s, times.END))


async def stored_at(db: Executor, tickers: Sequence[str], ts: int) -> set[str]:
    """Those of the tickers whose price of the minute `ts` is stored."""
    return {row["ticker"] for row in await db.fetch(STORED_AT, list(tickers), ts)}


async def store(db: Executor, rows: Sequence[PriceRow]) -> list[Record]:
    """Stores the rows whose minute is not stored yet, closes their gaps and returns them. Belongs into a writer's turn.

    Raises RowRefusedError where one of them breaks a rule of the table.
    """
    columns = zip(*((r.ticker, r.ts, r.price, r.observed_at, r.source) for r in rows), strict=True)
    return await db.fetch(STORE, *map(list, columns))
