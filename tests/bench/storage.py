"""The cost of storing a minute, and the gain of stored candles, compared with PostgreSQL without them."""

import functools
import statistics
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal

import asyncpg
from rich.table import Table

from db import times
from db.pool import Database, open_database
from db.queries import candles, coverage, digests, prices, summaries, version, write_lock
from db.queries.candles import Interval
from db.queries.digests import DayDigest
from db.queries.shapes import Shape
from db.queries.snapshots import Snapshot
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


async def measure_snapshots(url: str, ticker: str, begin: int, minutes: int) -> Table:
    """Measures queries as of an earlier data version, compared with the newest one.

    If candles have moved on since the version, they are computed from minutes. The worst case is that all have.
    """
    table = Table("as of a data version", "newest, ms", "candles valid, ms", "candles moved on, ms")
    end, month = begin + 60 * minutes, begin + 30 * times.DAY
    async with open_database(url, application_name="bench") as db:
        newest = Snapshot(await version.current(db), end)

        def candles_until(high: int, interval: Interval, snapshot: Snapshot | None) -> Awaitable[object]:
            return candles.fetch_json(db, interval, CANDLE, ticker, begin, high, end, snapshot=snapshot)

        queries: dict[str, Callable[[Snapshot | None], Awaitable[object]]] = {
            "series of a day": lambda snapshot: summaries.series(db, ticker, begin, begin + times.DAY, snapshot),
            "hours of a month": lambda snapshot: candles_until(month, Interval.ONE_HOUR, snapshot),
            "days of all": lambda snapshot: candles_until(end, Interval.ONE_DAY, snapshot),
            "summary of all": lambda snapshot: summaries.summary(db, ticker, begin, end, snapshot),
            "coverage of a month": lambda snapshot: coverage.count(db, ticker, begin, month, end, snapshot),
        }
        medians: dict[str, list[float]] = {name: [] for name in queries}
        for snapshot, statement in (
            (None, "SELECT"),
            (newest, "SELECT"),
            (newest, "UPDATE candle SET last_id = last_id + 1000000000000"),
            (None, "UPDATE candle SET last_id = last_id - 1000000000000"),
        ):
            await db.execute(statement)
            for name, query in queries.items():
                medians[name].append(
                    statistics.median([await _time(functools.partial(query, snapshot)) for _ in range(ROUNDS)])
                )
        for name, seconds in medians.items():
            table.add_row(name, *(f"{1000 * second:.2f}" for second in seconds[:3]))
    return table


async def measure_digests(url: str, ticker: str, begin: int, days: int) -> Table:
    """Measures appending the digests of days, in transactions like those of the worker, and verifying them."""
    table = Table("digests", "a day of a ticker, ms", "a day of 200 tickers, s")
    async with open_database(url, application_name="bench") as db:
        appending = []
        for day in range(begin, begin + days * times.DAY, times.DAY):
            started_at = time.perf_counter()
            async with write_lock.write_transaction(db) as connection:
                await digests.append(connection, [(ticker, day)])
            appending.append(time.perf_counter() - started_at)
        verifying = []
        for entry in await digests.newest_of_days(db, ticker, begin, begin + days * times.DAY):
            started_at = time.perf_counter()
            found = DayDigest.of_file(await digests.read_day_file(db, ticker, entry.day, entry.as_of), entry.day)
            verifying.append(time.perf_counter() - started_at)
            if found != entry.digest:
                raise RuntimeError(f"the digest of {times.iso(entry.day)} differs")
    for name, seconds in (("append", appending), ("verify", verifying)):
        median = statistics.median(seconds)
        table.add_row(name, f"{1000 * median:.2f}", f"{200 * median:.2f}")
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
