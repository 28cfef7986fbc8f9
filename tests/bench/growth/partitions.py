"""Compares today's table `price` with a table partitioned by month of `ts`: reads, writes, retention and size.

python -m tests.bench.growth.partitions                          # 100 million rows, half an hour, 40 GB of disk
python -m tests.bench.growth.partitions --rows 13000000          # five minutes; at least three months are loaded
python -m tests.bench.growth.partitions --markdown table.md      # also writes the table to a file

Two databases of one server hold the same rows, ids and candles: 95 tickers over the whole history, which begins with a month,
and 105 tickers over its last three days. Each query alternates between both, so other load on the machine affects both.
`shared_buffers` is 4 GB; the rows that the queries read are in memory. Constraints and indexes are created after the rows. The
table `minute_range` is empty.
"""

import argparse
import asyncio
import functools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg

from db import migrate
from db.pool import Database, open_database
from db.queries import bulk_import, candles, coverage, events, history_export, prices, retention, summaries, version, write_lock
from db.queries.candles import Interval
from db.queries.history_export import ExportFormat, ExportShape
from db.queries.shapes import Shape
from db.rows import PriceRow, Source
from db.runtime import embedded
from db.times import DAY
from tests.bench import storage

END = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp())
"""End of the history."""
OLD_TICKERS = 95
NEW_TICKERS = 105
NEW_TICKER_DAYS = 3
MIN_DAYS = 92
LOADERS = 2
BATCH_MINUTES = 2_000
"""Minutes of all tickers that are loaded per statement."""
MAX_RUNS = 300
MAX_MEASURE_S = 8.0
"""A query runs MAX_RUNS times in each variant, or both for this long."""
MINUTES_BEFORE_ANALYZE = 30
PRICE = Shape(tuple((name, prices.JSON_COLUMNS[name]) for name in ("id", "ts", "price", "observed_at", "source")))
SERVER_SETTINGS = {
    "shared_buffers": "4GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
LOADER_SETTINGS = {"synchronous_commit": "off", "maintenance_work_mem": "1GB"}

_BASE = "6000000 + ((({ts} / 3600 * 200 + number) * 2654435761 >> 16) & 65535)"
"""The lowest price of an hour in hundredths, different for each ticker and hour."""

# LATERAL with OFFSET 0 inserts all tickers of a minute before the next minute, in the order of a live installation.
LOAD = f"""
INSERT INTO price (ticker, ts, id, price, observed_at, source)
SELECT minute.name, m.ts, (m.ts - $3) / 60 * 200 + number + 1,
       trim_scale(({_BASE.format(ts="m.ts")} + m.ts / 60 % 60 * 37 % 60 * 10) * 0.01), m.ts * 1000000 + 1250000, 'LIVE'
  FROM generate_series($1::bigint, $2::bigint - 60, 60) AS m (ts)
 CROSS JOIN LATERAL (SELECT name, number FROM bench_ticker WHERE since <= m.ts OFFSET 0) AS minute
"""  # noqa: S608  inserts a constant

# The prices of an hour are 0, 370, 140, … above its lowest price, so the candles need not read them.
HOURS = f"""
INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
SELECT name, 3600, h.ts, trim_scale(base * 0.01), trim_scale((base + 590) * 0.01), trim_scale(base * 0.01),
       trim_scale((base + 230) * 0.01), 60, trim_scale((60 * base + 17700) * 0.01)
  FROM generate_series($1::bigint, $2::bigint - 3600, 3600) AS h (ts)
 CROSS JOIN LATERAL (SELECT name, {_BASE.format(ts="h.ts")} AS base FROM bench_ticker WHERE since <= h.ts OFFSET 0) AS hour
"""  # noqa: S608  inserts a constant

DAYS = """
INSERT INTO candle (ticker, span, ts, open, high, low, close, count, sum)
SELECT ticker, 86400, ts - ts % 86400, (min(ARRAY[ts, open]))[2], max(high), min(low), (max(ARRAY[ts, close]))[2],
       sum(count), sum(sum)
  FROM candle WHERE span = 3600 GROUP BY ticker, ts - ts % 86400
"""

DROP_CONSTRAINTS = (
    "ALTER TABLE price DISABLE TRIGGER USER",
    "ALTER TABLE price DROP CONSTRAINT fk_price_ticker, DROP CONSTRAINT pk_price, DROP CONSTRAINT uq_price_id",
)
ADD_CONSTRAINTS = (
    "ALTER TABLE price ADD CONSTRAINT pk_price PRIMARY KEY (ticker, ts)",
    "ALTER TABLE price ADD CONSTRAINT uq_price_id UNIQUE ({unique})",
    "ALTER TABLE price ADD CONSTRAINT fk_price_ticker FOREIGN KEY (ticker) REFERENCES ticker (name)",
    "ALTER TABLE price ENABLE TRIGGER USER",
)
PARTITION = (
    "ALTER TABLE price RENAME TO whole",
    "CREATE TABLE price (LIKE whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS) PARTITION BY RANGE (ts)",
    "DROP TABLE whole",
    "CREATE TRIGGER price_takes_lock BEFORE INSERT ON price FOR EACH STATEMENT EXECUTE FUNCTION take_writers_lock()",
    (
        "CREATE TRIGGER price_keeps_candles AFTER INSERT ON price REFERENCING NEW TABLE AS stored "
        "FOR EACH STATEMENT EXECUTE FUNCTION keep_candles()"
    ),
    "CREATE TRIGGER price_empties_candles AFTER TRUNCATE ON price FOR EACH STATEMENT EXECUTE FUNCTION empty_candles()",
    "ALTER TABLE price DISABLE TRIGGER USER",
)
SIZES = """
SELECT sum(pg_table_size(oid)) AS rows, sum(pg_indexes_size(oid)) AS indexes
  FROM pg_class WHERE relkind = 'r' AND relname ~ '^price(_[0-9_]+)?$'
"""
EXPIRED_ROWS = "SELECT count(*) FROM price WHERE ts < $1"
VACUUM = "VACUUM (INDEX_CLEANUP ON) price"
WAL_POSITION = "SELECT pg_current_wal_insert_lsn()"
DROPPED = "the next month by DROP TABLE of its partition, ms"
DROPPED_WAL = "WAL of DROP TABLE, MB"


@dataclass(frozen=True)
class History:
    """The minutes that both variants hold."""

    start: int
    """The first minute of the old tickers, the start of a month, in UNIX seconds."""

    @property
    def rows(self) -> int:
        """The number of prices."""
        return 1_440 * (OLD_TICKERS * (END - self.start) // DAY + NEW_TICKERS * NEW_TICKER_DAYS)

    def partitions(self) -> Iterator[tuple[str, int, int]]:
        """Yields name, start and end of each month of the history, and of the two months after it."""
        start = self.start
        while start < END + 32 * DAY:
            end = Interval.ONE_MONTH.ceil(start + DAY)
            yield f"price_{datetime.fromtimestamp(start, UTC):%Y_%m}", start, end
            start = end


def names() -> list[str]:
    """Returns the tickers, the old ones first."""
    return [f"t{number:03}_usd" for number in range(OLD_TICKERS + NEW_TICKERS)]


@dataclass
class Variant:
    """A database with one of the schemas, and its results by name, formatted."""

    name: str
    url: str
    is_partitioned: bool
    figures: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Records a figure and prints it."""
        self.figures[name] = value
        print(f"    {self.name}: {name}: {value}", flush=True)


Pair = tuple[tuple[Variant, Database], tuple[Variant, Database]]
"""Both variants, each with its connection pool."""


def main() -> None:
    """Measures both variants and prints their figures as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000, help="rows of each variant (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    days = max(MIN_DAYS, options.rows // (1_440 * OLD_TICKERS))
    history = History(Interval.ONE_MONTH.ceil(END - days * DAY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "postgres"
        with embedded.postgres(folder) as server:
            asyncio.run(_configure(server.url))
        with embedded.postgres(folder) as server:
            base = server.url.rpartition("/")[0]
            one_table = Variant("one table", f"{base}/one_table", is_partitioned=False)
            partitioned = Variant("partitions", f"{base}/partitions", is_partitioned=True)
            for variant in (one_table, partitioned):
                migrate.upgrade(variant.url)
                asyncio.run(_load(variant, history))
            asyncio.run(_measure(one_table, partitioned, history))
    table = _markdown(history, one_table, partitioned)
    print(f"\n{table}")
    if options.markdown:
        options.markdown.write_text(table)


def _markdown(history: History, one_table: Variant, partitioned: Variant) -> str:
    lines = [f"| {history.rows:,} rows | one table | {len(list(history.partitions()))} partitions |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {partitioned.figures[name]} |" for name, value in one_table.figures.items()]
    return "\n".join(lines) + "\n"


async def _configure(url: str) -> None:
    connection = await asyncpg.connect(url)
    for name, value in SERVER_SETTINGS.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    for name in ("one_table", "partitions"):
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


async def _load(variant: Variant, history: History) -> None:
    print(f"{variant.name}, {history.rows:,} rows", flush=True)
    started_at = time.perf_counter()
    connection = await asyncpg.connect(variant.url, server_settings=LOADER_SETTINGS)
    await connection.execute("CREATE TABLE bench_ticker (name text, number bigint, since bigint)")
    new_since = END - NEW_TICKER_DAYS * DAY
    rows = [(name, number, history.start if number < OLD_TICKERS else new_since) for number, name in enumerate(names())]
    await connection.copy_records_to_table("bench_ticker", records=rows)
    await connection.execute("INSERT INTO ticker (name) SELECT name FROM bench_ticker")
    await connection.execute("INSERT INTO tracking (ticker, since) SELECT name, since FROM bench_ticker")
    await connection.execute("ANALYZE ticker, bench_ticker")
    for statement in PARTITION if variant.is_partitioned else DROP_CONSTRAINTS:
        await connection.execute(statement)
    for name, start, end in history.partitions() if variant.is_partitioned else ():
        await connection.execute(f"CREATE TABLE {name} PARTITION OF price FOR VALUES FROM ({start}) TO ({end})")
    await _load_rows(variant.url, history)
    for statement in ADD_CONSTRAINTS:
        await connection.execute(statement.format(unique="id, ts" if variant.is_partitioned else "id"))
        print(f"    {time.perf_counter() - started_at:,.0f} s: {statement[:60]}", flush=True)
    await connection.execute(HOURS, history.start, END)
    await connection.execute(DAYS)
    await connection.execute("SELECT setval('data_version', $1)", (END - history.start) // 60 * 200 + 1_000)
    await connection.execute("VACUUM (FREEZE, ANALYZE)")
    await connection.execute("CHECKPOINT")
    print(f"    {time.perf_counter() - started_at:,.0f} s: loaded", flush=True)
    size = await connection.fetchrow(SIZES)
    assert size is not None
    variant.add("rows on disk, bytes per price", f"{size['rows'] / history.rows:.1f}")
    variant.add("indexes on disk, bytes per price", f"{size['indexes'] / history.rows:.1f}")
    await connection.close()


async def _measure(one_table: Variant, partitioned: Variant, history: History) -> None:
    async with (
        open_database(one_table.url, application_name="bench") as first,
        open_database(partitioned.url, application_name="bench") as second,
    ):
        pair = ((one_table, first), (partitioned, second))
        await _measure_reads(pair, history)
        await _measure_writes(pair, history)
        for variant, db in pair:
            assert await candles.find_differences(db, names()[1], END - 2 * DAY) == []
            await _measure_retention(variant, db, history)
            assert await candles.find_differences(db, names()[1], END - 2 * DAY) == []


async def _load_rows(url: str, history: History) -> None:
    starts = list(range(history.start, END, 60 * BATCH_MINUTES))
    total, started_at = len(starts), time.perf_counter()
    starts.reverse()

    async def load() -> None:
        connection = await asyncpg.connect(url, server_settings=LOADER_SETTINGS)
        while starts:
            start = starts.pop()
            await connection.execute(LOAD, start, min(END, start + 60 * BATCH_MINUTES), history.start)
            done = total - len(starts)
            if done % 40 == 0 or not starts:
                elapsed_s = time.perf_counter() - started_at
                rate = history.rows * done / total / elapsed_s
                print(f"    {100 * done / total:5.1f} %  {rate:,.0f} rows a second", flush=True)
        await connection.close()

    await asyncio.gather(*(load() for _ in range(LOADERS)))


async def _measure_reads(pair: Pair, history: History) -> None:
    queries = [_queries(db, history) for _, db in pair]
    for name in queries[0]:
        medians = await _medians([runs[name] for runs in queries])
        for (variant, _), median in zip(pair, medians, strict=True):
            variant.add(f"{name}, ms", f"{1_000 * median:.2f}")
    connections = [await asyncpg.connect(variant.url, statement_cache_size=0) for variant, _ in pair]
    medians = await _medians([_latest_unprepared(connection) for connection in connections])
    for (variant, _), connection, median in zip(pair, connections, medians, strict=True):
        variant.add("latest through a pooler (planned each time), ms", f"{1_000 * median:.2f}")
        await connection.close()


def _queries(db: Database, history: History) -> dict[str, Callable[[], Awaitable[object]]]:
    ticker, now = names()[10], END
    month, year = Interval.ONE_MONTH.floor(END - 40 * DAY), max(history.start, END - 365 * DAY)
    last_id = (END - history.start) // 60 * 200
    export = ExportShape(ExportFormat.CSV)

    async def export_month() -> None:
        async for _ in history_export.slices(db, export, ticker, month, month + 30 * DAY):
            pass

    def page_of(low: int, high: int) -> Awaitable[object]:
        return prices.fetch_page(db, PRICE, ticker, low, high, newest_first=True, limit=100)

    def candles_of(interval: Interval, low: int, high: int) -> Awaitable[object]:
        return candles.fetch_json(db, interval, storage.CANDLE, ticker, low, high, now)

    return {
        "latest": lambda: prices.latest_json(db, PRICE, [ticker], now),
        "latest of 200": lambda: prices.latest_json(db, PRICE, names(), now),
        "the last 100": lambda: page_of(0, END),
        "a page of 100 a year ago": lambda: page_of(0, year + 40 * DAY),
        "range of a day": lambda: prices.window_json(db, PRICE, ticker, END - DAY, END, newest_first=False),
        "priceAt": lambda: prices.last_observed(db, ticker, END - 90 * DAY + 17, 600),
        "candles 15m of a day": lambda: candles_of(Interval.FIFTEEN_MINUTES, END - DAY, END),
        "candles 1h of a month": lambda: candles_of(Interval.ONE_HOUR, month, month + 30 * DAY),
        "candles 1d of a year": lambda: candles_of(Interval.ONE_DAY, year, END),
        "summary of a year": lambda: summaries.summary(db, ticker, year + 60, END),
        "series of 50,000": lambda: summaries.series(db, ticker, END - 50_000 * 60, END),
        "coverage of a month": lambda: coverage.count(db, ticker, month, month + 30 * DAY, now),
        "export of a month": export_month,
        "events after an id, the newest 200": lambda: events.read_events_after(db, last_id - 200, events.MAX_ID),
        "events after an id, a page of 2,000": lambda: events.read_events_after(db, last_id - 288_000, events.MAX_ID),
        "events after the last id": lambda: events.read_events_after(db, last_id + 100, events.MAX_ID),
        "data version": lambda: version.current(db),
        "last commit (each second with a replica)": lambda: version.read_last_commit(db),
        "steps of retention": lambda: retention.list_horizon_steps(db, history.start + 31 * DAY, END),
    }


def _latest_unprepared(connection: asyncpg.Connection) -> Callable[[], Awaitable[object]]:
    return lambda: connection.fetch(prices.LATEST, names()[10], END)


async def _measure_writes(pair: Pair, history: History) -> None:
    """Measures minutes of all tickers after the history, and imports of new minutes in the middle of it.

    The first minutes are the first ones of a month. Their partition has no statistics, and plans are cached while it is empty.
    """
    first_minutes = await _store_minutes(pair, range(MINUTES_BEFORE_ANALYZE))
    for _, db in pair:
        await db.execute("ANALYZE price")
    minutes = await _store_minutes(pair, range(MINUTES_BEFORE_ANALYZE, MINUTES_BEFORE_ANALYZE + 60))
    imports: list[list[float]] = [[], []]
    middle = (history.start + END) // 2 // DAY * DAY
    for number in range(10):
        low = middle + number * 10_000 * 60
        imported: list[bulk_import.Row] = [(low + 60 * n, f"{60000 + n}.5", None, "LIVE", None) for n in range(10_000)]
        for (_, db), found in zip(pair, imports, strict=True):
            found.append(await _time(functools.partial(_import, db, imported)))
    for number, (variant, _) in enumerate(pair):
        variant.add("a minute of 200 tickers stored, ms", f"{1_000 * statistics.median(minutes[number]):.1f}")
        variant.add("the same in the first half hour of a month, ms", f"{1_000 * statistics.median(first_minutes[number]):.1f}")
        variant.add("10,000 old rows imported, ms", f"{1_000 * statistics.median(imports[number]):.0f}")


async def _store_minutes(pair: Pair, numbers: range) -> list[list[float]]:
    """Stores minutes of all tickers after the history. Returns the durations of each variant in seconds."""
    durations: list[list[float]] = [[], []]
    for number in numbers:
        ts = END + 60 * number
        rows = [
            PriceRow(ticker=name, ts=ts, price=Decimal("60000.5"), observed_at=ts * 1_000_000 + 1, source=Source.LIVE)
            for name in names()
        ]
        for (_, db), found in zip(pair, durations, strict=True):
            found.append(await _time(functools.partial(_store, db, rows)))
    return durations


async def _store(db: Database, rows: Sequence[PriceRow]) -> None:
    async with write_lock.write_transaction(db) as connection:
        await prices.store(connection, rows)


async def _import(db: Database, rows: Sequence[bulk_import.Row]) -> None:
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, names()[-1], rows)


async def _measure_retention(variant: Variant, db: Database, history: History) -> None:
    """Measures how a month of all tickers expires: by DELETE, then the next one by dropping its partition."""
    connection = await asyncpg.connect(variant.url)
    horizon = Interval.ONE_MONTH.ceil(history.start + DAY)
    row_count = await connection.fetchval(EXPIRED_ROWS, horizon)
    await connection.execute("UPDATE ticker SET horizon = $1", horizon)
    await connection.execute("CHECKPOINT")
    position = await connection.fetchval(WAL_POSITION)
    deleted_s = await _time(lambda: retention.delete_expired(db, END))
    vacuumed_s = await _time(lambda: connection.execute(VACUUM))
    variant.add("rows of a month of all tickers", f"{row_count:,}")
    variant.add("the month deleted in batches of 10,000, s", f"{deleted_s:.1f}")
    variant.add("VACUUM afterwards, s", f"{vacuumed_s:.1f}")
    variant.add("WAL of the deletion and VACUUM, MB", f"{await _wal_mb(connection, position):,.0f}")
    assert await connection.fetchval(EXPIRED_ROWS, horizon) == 0
    if variant.is_partitioned:
        name = f"price_{datetime.fromtimestamp(horizon, UTC):%Y_%m}"
        await connection.execute("CHECKPOINT")
        position = await connection.fetchval(WAL_POSITION)
        dropped_s = await _time(lambda: _drop(db, name))
        variant.add(DROPPED, f"{1_000 * dropped_s:.0f}")
        variant.add(DROPPED_WAL, f"{await _wal_mb(connection, position):.2f}")
    else:
        variant.add(DROPPED, "not possible")
        variant.add(DROPPED_WAL, "")
    await connection.close()


async def _wal_mb(connection: asyncpg.Connection, position: str) -> float:
    written: Decimal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", position)
    return float(written) / 2**20


async def _drop(db: Database, partition: str) -> None:
    async with write_lock.write_transaction(db) as connection:
        await connection.execute(f"DROP TABLE {partition}")


async def _time(run: Callable[[], Awaitable[object]]) -> float:
    started_at = time.perf_counter()
    await run()
    return time.perf_counter() - started_at


async def _medians(runs: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    """Returns the median duration of each query in seconds. The queries alternate; ten rounds are not counted."""
    times_s: list[list[float]] = [[] for _ in runs]
    started_at = time.perf_counter()
    for number in range(-10, MAX_RUNS):
        for run, found in zip(runs, times_s, strict=True):
            duration_s = await _time(run)
            if number >= 0:
                found.append(duration_s)
        if number >= 5 and time.perf_counter() - started_at > MAX_MEASURE_S:
            break
    return [statistics.median(found) for found in times_s]


if __name__ == "__main__":
    main()
