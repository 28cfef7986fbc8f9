"""Queries for prices. A stored price is never changed. With a `snapshot`, a query reads the prices as of its data version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from db import times
from db.pool import Executor, Record
from db.queries import shapes
from db.queries.retention import valid_horizon_sql
from db.queries.shapes import Column, Shape, Statement, iso_time_sql
from db.queries.snapshots import Snapshot, rewrite
from db.rows import PriceRow

has_begun_sql: Final = "ts <= greatest(extract(epoch FROM now())::bigint, {now}::bigint)"
"""SQL condition: the minute has begun by the clock of the database or by `{now}`. Later rows never count as the latest."""

LATEST: Final = f"""
SELECT id, ticker, ts, price, observed_at, source, original_source, peer
  FROM price
 WHERE ticker = $1 AND {has_begun_sql.format(now="$2")}
 ORDER BY ts DESC
 LIMIT 1
"""  # noqa: S608  inserts a constant

LATEST_OF_EACH: Final = f"""
SELECT p.*
  FROM unnest($1::text[]) WITH ORDINALITY AS names (ticker, position)
 CROSS JOIN LATERAL (
       SELECT id, ticker, ts, price, observed_at, source, original_source, peer
         FROM price
        WHERE price.ticker = names.ticker AND {has_begun_sql.format(now="$2")}
        ORDER BY ts DESC
        LIMIT 1) AS p
 ORDER BY names.position
"""  # noqa: S608  inserts a constant

OLDEST_FIRST: Final = """
SELECT id, ticker, ts, price, observed_at, source, original_source, peer
  FROM price
 WHERE ticker = $1 AND ts >= $2 AND ts < $3
 ORDER BY ts
 LIMIT $4 OFFSET $5
"""

NEWEST_FIRST: Final = """
SELECT id, ticker, ts, price, observed_at, source, original_source, peer
  FROM price
 WHERE ticker = $1 AND ts >= $2 AND ts < $3
 ORDER BY ts DESC
 LIMIT $4 OFFSET $5
"""

COUNT_IN: Final = """
SELECT count(*) FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3
"""

FIRST_MINUTE: Final = """
SELECT min(ts) FROM price WHERE ticker = $1
"""

DECIMALS: Final = """
SELECT coalesce(max(scale(price)), 2)
  FROM (SELECT price FROM price WHERE ticker = $1 ORDER BY ts DESC LIMIT 1000) AS newest
"""

HAS_ANY: Final = """
SELECT EXISTS (SELECT FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3)
"""

# A price without `observed_at` counts as observed at the end of its minute, so that it is never returned too early.
LAST_OBSERVED: Final = """
SELECT id, ticker, ts, price, observed_at, source, original_source, peer
  FROM (SELECT *, coalesce(observed_at, (ts + 60) * 1000000) AS seen_at
          FROM price
         WHERE ticker = $1 AND ts > $2::bigint - $3::bigint - 120 AND ts <= $2::bigint) AS near
 WHERE seen_at <= $2::bigint * 1000000 AND seen_at >= ($2::bigint - $3::bigint) * 1000000
 ORDER BY ts DESC
 LIMIT 1
"""

LAST_OBSERVED_OF_EACH: Final = """
SELECT instants.position, found.*
  FROM unnest($2::bigint[]) WITH ORDINALITY AS instants (at, position)
 CROSS JOIN LATERAL (
       SELECT id, ticker, ts, price, observed_at, source, original_source, peer
         FROM (SELECT *, coalesce(observed_at, (ts + 60) * 1000000) AS seen_at
                 FROM price
                WHERE ticker = $1 AND ts > instants.at - $3::bigint - 120 AND ts <= instants.at) AS near
        WHERE seen_at <= instants.at * 1000000 AND seen_at >= (instants.at - $3::bigint) * 1000000
        ORDER BY ts DESC
        LIMIT 1) AS found
"""

# The CHECKs of the table guarantee that no name or price needs escaping or normalization.
_SECOND = iso_time_sql("observed_at / 1000000")
_MICROSECOND = f"{_SECOND} || '.' || lpad((observed_at % 1000000)::text, 6, '0')"
observed_sql: Final = f"{_MICROSECOND} || 'Z'"
"""SQL expression for `observed_at` as ISO 8601 with microseconds, or null."""
JSON_COLUMNS: Final[Mapping[str, Column]] = {
    "id": Column("id::text", '"'),
    "ticker": Column("ticker", '"'),
    "ts": Column("ts::text"),
    "time": Column(iso_time_sql("ts") + " || 'Z'", '"'),
    "price": Column("price::text", '"'),
    "observed_at": Column(
        f"CASE WHEN observed_at IS NULL THEN 'null' WHEN observed_at % 1000000 = 0 THEN '\"' || {_SECOND} || 'Z\"' "
        f"ELSE '\"' || {_MICROSECOND} || 'Z\"' END"
    ),
    "observed_us": Column(f"coalesce('\"' || {_MICROSECOND} || 'Z\"', 'null')"),
    "source": Column("source", '"'),
    "original_source": Column("coalesce('\"' || original_source || '\"', 'null')"),
    "peer": Column("coalesce(to_json(peer)::text, 'null')"),
}
"""SQL expressions of the JSON values of a price. `observed_us` always has microseconds, `observed_at` only if not zero."""

STORED_AT: Final = """
SELECT ticker FROM price WHERE ticker = ANY ($1::text[]) AND ts = $2
"""

HISTORY_EVENT_THRESHOLD: Final = 1_000
"""If one transaction stores more backfilled or imported rows of a ticker than this, a `history` event replaces their events."""

# One statement stores prices, closes their gaps and inserts the change events, so that no caller can omit a part. A minute
# before the horizon of its ticker is not stored: its hour has only its candle left, which a single minute must not replace.
STORE: Final = f"""
WITH stored AS (
    INSERT INTO price (ticker, ts, price, observed_at, source, peer)
    SELECT ticker, ts, price, observed_at, source, peer
      FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::bigint[], $5::text[], $7::text[])
           WITH ORDINALITY AS given (ticker, ts, price, observed_at, source, peer, position)
     WHERE NOT EXISTS (SELECT FROM ticker WHERE name = given.ticker AND given.ts < {valid_horizon_sql})
     ORDER BY position
        ON CONFLICT (ticker, ts) DO NOTHING
    RETURNING id, ticker, ts, price, observed_at, source
), estimated AS (
    INSERT INTO delivery_estimate (ticker, ts, price)
    SELECT ticker, ts, given.estimate
      FROM unnest($1::text[], $2::bigint[], $6::numeric[]) AS given (ticker, ts, estimate) JOIN stored USING (ticker, ts)
     WHERE given.estimate IS NOT NULL
        ON CONFLICT (ticker, ts) DO NOTHING
), filled AS (
    UPDATE gap SET filled_at = extract(epoch FROM now())::bigint
      FROM stored
     WHERE gap.ticker = stored.ticker AND gap.ts = stored.ts AND gap.filled_at IS NULL
    RETURNING gap.ticker, gap.ts
), inserted_changes AS (
    INSERT INTO change (kind, ticker, from_ts, to_ts, count, first_id, last_id)
    SELECT 'gap_closed', ticker, min(ts), max(ts) + 60, count(*), NULL, NULL FROM filled GROUP BY ticker
     UNION ALL
    SELECT 'history', ticker, min(ts), max(ts) + 60, count(*), min(id), max(id)
      FROM stored WHERE source <> 'LIVE' GROUP BY ticker HAVING count(*) > {HISTORY_EVENT_THRESHOLD}
)
SELECT id, ticker, ts, price, observed_at, source FROM stored
"""  # noqa: S608  inserts a constant


async def latest(db: Executor, ticker: str, now: float, snapshot: Snapshot | None = None) -> Record | None:
    """Returns the newest price of a minute that has begun by `now` or by the clock of the database, or None."""
    return await db.fetchrow(*rewrite(snapshot, LATEST, ticker, int(now)))


async def latest_of_each(db: Executor, tickers: Sequence[str], now: float) -> list[Record]:
    """Returns `latest` of each ticker that has a price, in the order of `tickers`."""
    return await db.fetch(LATEST_OF_EACH, list(tickers), int(now))


async def window(
    db: Executor,
    ticker: str,
    low: int,
    high: int,
    *,
    newest_first: bool,
    limit: int | None = None,
    offset: int = 0,
    snapshot: Snapshot | None = None,
) -> list[Record]:
    """Returns the prices of the minutes in [low, high), at most `limit` after skipping `offset`."""
    statement = NEWEST_FIRST if newest_first else OLDEST_FIRST
    return await db.fetch(*rewrite(snapshot, statement, ticker, low, high, limit, offset))


@dataclass(frozen=True)
class PricePage:
    """A page of prices as the text of a JSON list."""

    text: str
    low: int | None
    """The earliest minute of the page; None if it is empty."""
    high: int | None
    """The latest minute of the page; None if it is empty."""
    has_more: bool
    """Whether the window has prices after this page; if it was read backwards, before this page."""


async def fetch_page(
    db: Executor,
    shape: Shape,
    ticker: str,
    low: int,
    high: int,
    *,
    newest_first: bool,
    backwards: bool = False,
    limit: int | None = None,
    offset: int = 0,
    snapshot: Snapshot | None = None,
) -> PricePage:
    """Returns the prices of `window` as JSON. A page that is read `backwards` is the last one of the list, in its order."""
    statement = page_statement(shape, newest_first=newest_first, backwards=backwards)
    (row,) = await db.fetch(*rewrite(snapshot, statement.sql, ticker, low, high, limit, offset, *statement.constants))
    return PricePage(**row)


async def window_json(
    db: Executor, shape: Shape, ticker: str, low: int, high: int, *, newest_first: bool, snapshot: Snapshot | None = None
) -> bytes:
    """Returns all prices of `window` as a JSON list. The type is bytes, because text would be decoded and encoded again."""
    statement = window_statement(shape, newest_first=newest_first)
    text: bytes = await db.fetchval(*rewrite(snapshot, statement.sql, ticker, low, high, *statement.constants))
    return text


async def latest_json(
    db: Executor, shape: Shape, tickers: Sequence[str], now: float, snapshot: Snapshot | None = None
) -> dict[str, str]:
    """Returns `latest` of each ticker that has a price, as JSON."""
    statement = latest_statement(shape)
    rows = await db.fetch(*rewrite(snapshot, statement.sql, tickers, int(now), *statement.constants))
    return {row[0]: row[1] for row in rows}


@lru_cache(256)
def page_statement(shape: Shape, *, newest_first: bool, backwards: bool = False) -> Statement:
    """Builds the statement of `fetch_page`. Its five parameters precede the constants."""
    reads_newest_first = newest_first != backwards
    window = NEWEST_FIRST if reads_newest_first else OLDEST_FIRST
    remaining = "ts >= $2 AND ts < page.low" if reads_newest_first else "ts > page.high AND ts < $3"
    if backwards:
        window = f"SELECT * FROM ({window}) AS part ORDER BY ts {'DESC' if newest_first else 'ASC'}"  # noqa: S608  constants
    return shapes.build_list_statement(
        shape,
        6,
        lambda text: (
            f"SELECT text, low, high, EXISTS (SELECT FROM price WHERE ticker = $1 AND {remaining}) AS has_more "  # noqa: S608
            f"FROM (SELECT {text} AS text, min(ts) AS low, max(ts) AS high FROM ({window}) AS price) AS page"
        ),
    )


@lru_cache(256)
def window_statement(shape: Shape, *, newest_first: bool) -> Statement:
    """Builds the statement of `window_json`. Its three parameters precede the constants."""
    window = (NEWEST_FIRST if newest_first else OLDEST_FIRST).partition("LIMIT")[0]
    return shapes.build_list_statement(shape, 4, lambda text: f"SELECT convert_to({text}, 'UTF8') FROM ({window}) AS price")  # noqa: S608  constants


@lru_cache(256)
def latest_statement(shape: Shape) -> Statement:
    """Builds the statement of `latest_json`. Its two parameters precede the constants."""
    latest = LATEST.replace("ticker = $1", "price.ticker = names.ticker")
    return shapes.build_object_statement(
        shape,
        3,
        lambda text: (
            "SELECT names.ticker, text FROM unnest($1::text[]) AS names (ticker) "  # noqa: S608  constants
            f"CROSS JOIN LATERAL (SELECT {text} AS text FROM ({latest}) AS price) AS found"
        ),
    )


async def count_in(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> int:
    """Returns the number of stored prices of minutes in [low, high)."""
    found: int = await db.fetchval(*rewrite(snapshot, COUNT_IN, ticker, low, high))
    return found


async def first_minute(db: Executor, ticker: str) -> int | None:
    """Returns the first stored minute of the ticker, or None if it has none."""
    found: int | None = await db.fetchval(FIRST_MINUTE, ticker)
    return found


async def decimals(db: Executor, ticker: str) -> int:
    """Returns the largest number of decimals of the last 1,000 prices; 2 if there are none."""
    found: int = await db.fetchval(DECIMALS, ticker)
    return found


async def has_any(db: Executor, ticker: str, low: int, high: int, snapshot: Snapshot | None = None) -> bool:
    """Whether the price of a minute in [low, high) is stored."""
    found: bool = await db.fetchval(*rewrite(snapshot, HAS_ANY, ticker, low, high))
    return found


async def last_observed(db: Executor, ticker: str, at: int, max_age_s: int, snapshot: Snapshot | None = None) -> Record | None:
    """Returns the last price observed at or before the second `at`, or None if it is older than `max_age_s` seconds."""
    return await db.fetchrow(*rewrite(snapshot, LAST_OBSERVED, ticker, at, min(max_age_s, times.END)))


async def last_observed_of_each(
    db: Executor, ticker: str, instants: Sequence[int], max_age_s: int, snapshot: Snapshot | None = None
) -> list[Record | None]:
    """Returns `last_observed` of each instant, in their order."""
    arguments = ticker, list(instants), min(max_age_s, times.END)
    rows = await db.fetch(*rewrite(snapshot, LAST_OBSERVED_OF_EACH, *arguments))
    found = {row["position"]: row for row in rows}
    return [found.get(position) for position in range(1, len(instants) + 1)]


async def tickers_stored_at(db: Executor, tickers: Sequence[str], ts: int) -> set[str]:
    """Returns the tickers whose price of the minute `ts` is stored."""
    return {row["ticker"] for row in await db.fetch(STORED_AT, list(tickers), ts)}


async def store(db: Executor, rows: Sequence[PriceRow]) -> list[Record]:
    """Stores the rows whose minute is neither stored nor before the horizon, closes their gaps, and returns the stored rows.

    Requires a write transaction. Raises RowRejectedError if a row violates a constraint of the table.
    """
    values = ((r.ticker, r.ts, r.price, r.observed_at, r.source, r.estimated_delivery_price, r.peer) for r in rows)
    columns = zip(*values, strict=True)
    return await db.fetch(STORE, *map(list, columns))
