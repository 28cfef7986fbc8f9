"""Sample rows for tests, written by the statements of the product."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg

from db.pool import Database, Executor
from db.queries import bulk_import, prices, ranges, tickers, tracking, write_lock
from db.rows import PriceRow, RangeRow, Source

START_TS = 1_705_318_800
"""2024-01-15T11:40:00Z, the first minute of most samples."""


def row(ticker: str, ts: int, price: str = "100", *, at_s: float | None = 1.0, source: Source = Source.LIVE) -> PriceRow:
    """Returns a price row that was observed `at_s` seconds into its minute."""
    observed_at = None if at_s is None else int((ts + at_s) * 10**6)
    return PriceRow.model_validate(
        {"ticker": ticker, "ts": ts, "price": Decimal(price), "observed_at": observed_at, "source": source}
    )


async def set_tracked_tickers(db: Executor, names: Iterable[str], minute: int) -> tuple[list[str], list[str]]:
    """Tracks exactly these tickers; call it in a write transaction. Returns the tickers whose
    tracking periods started, and those whose periods ended.
    """
    requested = list(names)
    ended = await tracking.end_periods(db, [name for name in await tickers.list_tracked(db) if name not in requested], minute)
    return list(await tracking.begin_periods(db, dict.fromkeys(requested, minute))), ended


async def track(db: Database, *names: str, since: int = START_TS) -> None:
    """Tracks exactly these tickers, in a write transaction of its own."""
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, names, since)


async def store(db: Database, rows: Iterable[PriceRow]) -> None:
    async with write_lock.write_transaction(db) as connection:
        await prices.store(connection, list(rows))


def range_row(
    ticker: str, ts: int, low: str = "90", high: str = "110", *, watched_s: int = 60, twap: str | None = None
) -> RangeRow:
    """Returns a range that opens low and closes high."""
    return RangeRow.model_validate(
        {
            "ticker": ticker,
            "ts": ts,
            "open": low,
            "high": high,
            "low": low,
            "close": high,
            "opened_ms": 0,
            "closed_ms": 59_000,
            "twap": twap or low,
            "ticks": 60,
            "watched_s": watched_s,
            "source": Source.LIVE,
            "longest_silence_ms": 1_000 if watched_s == 60 else 30_500,
        }
    )


async def store_ranges(db: Database, rows: Iterable[RangeRow]) -> None:
    async with write_lock.write_transaction(db) as connection:
        await ranges.store(connection, list(rows), {})


async def import_range(db: Database, ticker: str, ts: int, low: str = "90", high: str = "110") -> None:
    """Stores a range as an import does: it opens low and closes high."""
    async with write_lock.write_transaction(db) as connection:
        await bulk_import.merge(connection, ticker, [(ts, high, None, None, f"{low},{high},{low},{high}")])
        await bulk_import.merge_ranges(connection, ticker, [(ts, high, None, None, f"{low},{high},{low},{high}")])


async def minutes(db: Database, ticker: str) -> list[int]:
    """Returns the stored minutes of the ticker in ascending order."""
    return [r["ts"] for r in await prices.window(db, ticker, 0, 2**40, newest_first=False)]


@asynccontextmanager
async def lock_price_table(dsn: str) -> AsyncIterator[None]:
    """Locks the table price: every statement that reads prices waits."""
    async with _open_transaction(dsn, "LOCK TABLE price"):
        yield


@asynccontextmanager
async def hold_writer_lock(dsn: str) -> AsyncIterator[None]:
    """Holds the writer lock: every write transaction waits. Unlike in the product, nothing limits how long."""
    async with _open_transaction(dsn, write_lock.ACQUIRE_WRITER_LOCK):
        yield


@asynccontextmanager
async def _open_transaction(dsn: str, statement: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()
