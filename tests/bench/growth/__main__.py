"""Whether queries take longer as the history grows: the same queries at a million rows and at many more.

python -m tests.bench.growth                     # 50 million rows, more than half an hour
python -m tests.bench.growth --rows 10000000
"""

import argparse
import asyncio
import functools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

from db import migrate
from db.pool import Database, open_database
from db.queries import candles, prices
from db.queries.candles import Interval
from db.queries.shapes import Shape
from db.runtime import embedded
from tests.bench import storage

SMALL_ROW_COUNT = 1_000_000
TICKERS = 200
START_TS = 1_600_000_020 // 86_400 * 86_400
PRICE = Shape((("ts", prices.JSON_COLUMNS["ts"]), ("price", prices.JSON_COLUMNS["price"])))
BATCH = 5_000
"""Minutes of all tickers that are loaded per statement."""

LOAD = """
INSERT INTO price (ticker, ts, price, source)
SELECT name, $1::bigint + 60 * m, trim_scale(round((60000 + 1000 * random())::numeric, 2)), 'LIVE'
  FROM generate_series($2::bigint, $3::bigint - 1) AS m, ticker
"""

CANDLES = """
INSERT INTO candle
SELECT ticker, span, ts - ts % span, (min(ARRAY[ts, price]))[2], max(price), min(price), (max(ARRAY[ts, price]))[2],
       count(*), sum(price)
  FROM price, unnest(ARRAY[3600, 86400]) AS span WHERE ts >= $1 AND ts < $2 GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING
"""


def main() -> None:
    """Prints the medians at both sizes, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        medians = asyncio.run(_run(server.url, options.rows, console))
    table = Table("ms, medians", f"{SMALL_ROW_COUNT:,} rows", f"{options.rows:,} rows", "ratio", "target")
    for name, (before, after) in medians.items():
        table.add_row(name, f"{1000 * before:.2f}", f"{1000 * after:.2f}", f"{after / before:.2f}", "at most 1.3")
    console.print(table)


async def _run(url: str, rows: int, console: Console) -> dict[str, tuple[float, float]]:
    names = [f"t{number:03}_usd" for number in range(TICKERS)]
    connection = await asyncpg.connect(url)
    await connection.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in names])
    first = await _load_rows(url, connection, 0, SMALL_ROW_COUNT // TICKERS, console)
    last = await _load_rows(url, connection, SMALL_ROW_COUNT // TICKERS, rows // TICKERS, console)
    size = await connection.fetchval("SELECT pg_total_relation_size('price') + pg_total_relation_size('candle')")
    console.print(f"{size / rows:.0f} bytes a row with indexes and candles")
    console.print(await storage.measure_store(url, names, START_TS + 60 * (rows // TICKERS)))
    await connection.close()
    return {name: (first[name], last[name]) for name in first}


async def _load_rows(url: str, connection: asyncpg.Connection, low: int, high: int, console: Console) -> dict[str, float]:
    started_at = time.perf_counter()
    await connection.execute("ALTER TABLE price DISABLE TRIGGER USER")
    for start in range(low, high, BATCH):
        end = min(high, start + BATCH)
        await connection.execute(LOAD, START_TS, start, end)
        await connection.execute(CANDLES, START_TS + 60 * start, START_TS + 60 * end)
        done = TICKERS * end
        console.print(f"{done:>12,} rows  {TICKERS * (end - low) / (time.perf_counter() - started_at):,.0f} a second", end="\r")
    await connection.execute("ALTER TABLE price ENABLE TRIGGER USER")
    console.print()
    await connection.execute("VACUUM ANALYZE")
    async with open_database(url, application_name="bench") as db:
        return {name: await _median(run) for name, run in _queries(db, START_TS + 60 * high).items()}


def _queries(db: Database, end: int) -> dict[str, Callable[[], Awaitable[object]]]:
    name = "t100_usd"
    day = functools.partial(candles.fetch_json, db, Interval.ONE_HOUR, storage.CANDLE, name, end - 86_400, end, end)
    return {
        "latest": lambda: prices.latest_json(db, PRICE, [name], end),
        "last 100": functools.partial(prices.fetch_page, db, PRICE, name, 0, end, newest_first=True, limit=100),
        "range 1,440": functools.partial(prices.window_json, db, PRICE, name, end - 86_400, end, newest_first=False),
        "hours of a day": day,
    }


async def _median(run: Callable[[], Awaitable[object]]) -> float:
    times_s = []
    for _ in range(300):
        started_at = time.perf_counter()
        await run()
        times_s.append(time.perf_counter() - started_at)
    return statistics.median(times_s)


if __name__ == "__main__":
    main()
