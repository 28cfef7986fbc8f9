"""The cost of storing a minute, and the gain of stored candles, compared with PostgreSQL without them."""

import functools
import statistics
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

import asyncpg
from rich.table import Table

from db.pool import Database, open_database
from db.queries import candles, prices, write_lock
from db.queries.candles import Interval
from db.queries.shapes import Shape
from db.rows import PriceRow, Source

ROUNDS = 5
CANDLE = Shape(tuple((name, candles.JSON_COLUMNS[name]) for name in ("ts", "open", "high", "low", "close", "count")))

PLAIN = """
INSERT INTO plain (ticker, ts, price, observed_at, source)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::bigint[], $5::text[]) ON CONFLICT DO NOTHING
"""

# The fastest known query that aggregates candles from minutes.
AGGREGATE = """
SELECT string_agg('{"ts":' || ts || ',"open":"' || open || '","high":"' || high || '","low":"' || low || '","close":"' || close
                  || '","count":' || count || '}', ',')
  FROM (SELECT {bucket} AS ts, (min(ARRAY[ts, price]))[2] AS open, max(price) AS high, min(price) AS low,
               (max(ARRAY[ts, price]))[2] AS close, count(*) AS count
          FROM price WHERE ticker = $1 AND ts >= $2 AND ts < $3 GROUP BY 1 ORDER BY 1) AS candle
"""


async def measure_store(url: str, names: list[str], begin: int) -> Table:
    """Measures storing a minute of all tickers with both candles, compared with a plain insert without candles."""
    table = Table("a minute of 200 tickers", "plain, ms", "with candles, ms", "ratio", "wanted")
    async with open_database(url, application_name="bench") as db:
        await db.execute("CREATE TABLE IF NOT EXISTS plain (LIKE price INCLUDING ALL)")
        plain, with_candles = [], []
        for number in range(40):
            rows = [
                PriceRow(ticker=name, ts=begin + 60 * number, price=Decimal(f"{number + 1}.5"), source=Source.LIVE)
                for name in names
            ]
            columns = [
                list(column) for column in zip(*((r.ticker, r.ts, r.price, r.observed_at, r.source) for r in rows), strict=True)
            ]
            plain.append(await _time(_plain_insert(db, columns)))
            with_candles.append(await _time(_store_with_candles(db, rows)))
    baseline, measured = statistics.median(plain), statistics.median(with_candles)
    table.add_row("", f"{1000 * baseline:.1f}", f"{1000 * measured:.1f}", f"{measured / baseline:.2f}", "at most 2.5")
    return table


def _plain_insert(db: Database, columns: list[list[object]]) -> Callable[[], Awaitable[object]]:
    async def run() -> None:
        async with write_lock.write_transaction(db) as connection:
            await connection.execute(PLAIN, *columns)

    return run


def _store_with_candles(db: Database, rows: list[PriceRow]) -> Callable[[], Awaitable[object]]:
    async def run() -> None:
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, rows)

    return run


async def measure_candles(url: str, ticker: str, begin: int, minutes: int) -> Table:
    """Measures reading stored candles, compared with aggregating minutes."""
    table = Table("candles", "from minutes, ms", "stored, ms", "times faster", "wanted")
    end = begin + 60 * minutes
    async with open_database(url, application_name="bench") as db:
        for interval, window, target in (
            (Interval.ONE_DAY, (begin, end), 200),
            (Interval.ONE_WEEK, (begin, end), 300),
            (Interval.ONE_HOUR, (begin, begin + 30 * 86_400), 10),
        ):
            sql = AGGREGATE.replace("{bucket}", interval.start_sql)
            slow, fast = [], []
            for _ in range(ROUNDS):
                slow.append(await _time(functools.partial(db.fetchval, sql, ticker, *window)))
                fast.append(await _time(functools.partial(candles.fetch_json, db, interval, CANDLE, ticker, *window, end)))
            baseline, measured = statistics.median(slow), statistics.median(fast)
            table.add_row(
                interval.name, f"{1000 * baseline:.1f}", f"{1000 * measured:.2f}", f"{baseline / measured:.0f}", f"{target}"
            )
    return table


async def _time(run: Callable[[], Awaitable[object]]) -> float:
    started_at = time.perf_counter()
    await run()
    return time.perf_counter() - started_at


async def measure_row_size(url: str) -> tuple[int, float]:
    """Returns the rows of `price`, and the bytes per row with indexes and candles."""
    connection = await asyncpg.connect(url)
    rows: int = await connection.fetchval("SELECT count(*) FROM price")
    size: int = await connection.fetchval("SELECT pg_total_relation_size('price') + pg_total_relation_size('candle')")
    await connection.close()
    return rows, size / rows
