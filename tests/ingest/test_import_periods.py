"""Minutes that an import lacks are gaps. A history exported by another Tickgraph keeps its provenance when imported."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database, open_database
from db.queries import coverage, gaps, history_export, write_lock
from db.queries.history_export import ExportFormat
from db.rows import Source
from ingest.imports.file_reader import RawRow, open_price_file
from ingest.jobs.import_history import import_prices
from tests.conftest import Databases, Servers
from tests.sample_data import START_TS, row, set_tracked_tickers, store

NOW = START_TS + 86_400
STATES = ("OPEN", "GIVEN_UP", "FILLED")


def _minute_at(number: int) -> int:
    return START_TS + 60 * number


async def _import(db: Database, minutes: Sequence[int], price: str = "1") -> None:
    async def batches() -> AsyncIterator[list[RawRow]]:
        yield [RawRow(line, str(_minute_at(number)), price) for line, number in enumerate(minutes, 1)]

    await import_prices(batches(), "btc_usd", db, now=NOW, on_reject=lambda *_: None, progress=lambda _: None)


async def _coverage(db: Database, low: int, high: int) -> tuple[int, int, int, list[tuple[int, int, str]]]:
    """Returns expected, stored and extra minutes of a window, and its gaps as (begin, end, reason), in numbers of minutes."""
    counts = await coverage.count(db, "btc_usd", _minute_at(low), _minute_at(high), NOW)
    found = await gaps.periods(db, "btc_usd", _minute_at(low), _minute_at(high), STATES, 1_000)
    numbers = [((one["low"] - START_TS) // 60, (one["high"] - START_TS) // 60, one["reason"]) for one in found]
    return counts.expected, counts.stored, counts.extra, numbers


async def test_minutes_that_an_import_lacks_are_gaps(db: Database) -> None:
    await _import(db, [0, 1, 4, 9])
    holes = [(2, 4, "not_imported"), (5, 9, "not_imported")]
    assert await _coverage(db, -5, 20) == (10, 4, 0, holes)
    assert await _coverage(db, 3, 6) == (3, 1, 0, [(3, 4, "not_imported"), (5, 6, "not_imported")])
    assert (await gaps.periods(db, "btc_usd", _minute_at(0), _minute_at(20), ["OPEN", "FILLED"], 10)) == []


async def test_an_import_that_is_run_again_fills_holes_and_joins_periods(db: Database) -> None:
    await _import(db, [0, 2])
    await _import(db, [6, 7])
    assert await _coverage(db, 0, 20) == (5, 4, 0, [(1, 2, "not_imported")])
    await _import(db, [1, 3, 4, 5])
    assert await _coverage(db, 0, 20) == (8, 8, 0, [])
    assert await db.fetchval("SELECT count(*) FROM import_period") == 1
    changes = await db.fetchval("SELECT count(*) FROM change WHERE kind = 'tracking'")
    await _import(db, [1, 3])
    assert await db.fetchval("SELECT count(*) FROM change WHERE kind = 'tracking'") == changes, "nothing changed"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    imports=st.lists(st.sets(st.integers(0, 25), min_size=1), max_size=3),
    tracked=st.lists(st.integers(0, 25), max_size=4, unique=True).map(sorted),
    live=st.sets(st.integers(0, 25)),
    horizon=st.one_of(st.none(), st.integers(0, 25)),
    window=st.tuples(st.integers(-2, 27), st.integers(-2, 27)),
)
async def test_every_expected_minute_is_stored_or_a_gap(
    db: Database,
    imports: list[set[int]],
    tracked: list[int],
    live: set[int],
    horizon: int | None,
    window: tuple[int, int],
) -> None:
    await db.execute("TRUNCATE price, gap, tracking, import_period, ticker CASCADE")
    for index, border in enumerate(tracked):
        async with write_lock.write_transaction(db) as connection:
            await set_tracked_tickers(connection, [] if index % 2 else ["btc_usd"], _minute_at(border))
    for minutes in imports:
        await _import(db, sorted(minutes))
    await db.execute("INSERT INTO ticker (name) VALUES ('btc_usd') ON CONFLICT DO NOTHING")
    if horizon is not None:
        await db.execute("UPDATE ticker SET horizon = $1", _minute_at(horizon))
        await db.execute("DELETE FROM price WHERE ts < $1", _minute_at(horizon))
    if rows := [row("btc_usd", _minute_at(number)) for number in live if horizon is None or number >= horizon]:
        await store(db, rows)
    async with write_lock.write_transaction(db) as connection:
        await gaps.detect_gaps(connection, {"btc_usd": (_minute_at(-2), _minute_at(27))}, {})

    low, high = min(window), max(window)
    borders = [*tracked, 27] if len(tracked) % 2 else tracked
    tracked_minutes = {n for begin, end in zip(borders[::2], borders[1::2], strict=True) for n in range(begin, end)}
    imported = {n for span in _import_spans(imports) for n in span}
    expected = {n for n in tracked_minutes | imported if low <= n < high and (horizon is None or n >= horizon)}
    stored = {(ts - START_TS) // 60 for (ts,) in await db.fetch("SELECT ts FROM price")}
    found = await _coverage(db, low, high)
    assert found[:2] == (len(expected), len(expected & stored))
    missing = {n: reason for begin, end, reason in found[3] for n in range(begin, end)}
    assert set(missing) == expected - stored
    assert all((reason == "not_imported") == (n not in tracked_minutes) for n, reason in missing.items())


def _import_spans(imports: list[set[int]]) -> list[range]:
    return [range(min(minutes), max(minutes) + 1) for minutes in imports]


SOURCES = st.sampled_from([Source.LIVE, Source.BACKFILL, Source.IMPORT])
ARCHIVE = st.dictionaries(
    st.integers(0, 40),
    st.tuples(
        SOURCES,
        st.one_of(st.none(), st.just(0), st.integers(0, 59_999_999)),
        st.decimals("0.000001", "1000000", places=6).filter(lambda price: price > 0),
    ),
    min_size=1,
)


@pytest.fixture
async def other_db(servers: Servers, databases: Databases) -> AsyncIterator[Database]:
    """The database of a second Tickgraph."""
    name = await databases.acquire()
    async with open_database(servers.dsn_of(name), application_name="tests") as database:
        yield database
    await databases.release(name)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(archive=ARCHIVE, export_format=st.sampled_from([ExportFormat.CSV, ExportFormat.JSONL]))
async def test_an_export_can_be_imported_elsewhere_without_loss(
    db: Database, other_db: Database, tmp_path: Path, archive: dict[int, Any], export_format: ExportFormat
) -> None:
    for database in (db, other_db):
        await database.execute("TRUNCATE price, gap, tracking, import_period, ticker CASCADE")
    await db.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    await store(
        db,
        [
            row("btc_usd", _minute_at(n), str(price), source=source, at_s=None if at is None else at / 10**6)
            for n, (source, at, price) in archive.items()
        ],
    )
    written = await _copy(db, other_db, export_format, tmp_path / f"history.{export_format}")
    rows = "SELECT ts, price, observed_at, coalesce(original_source::text, source) FROM price ORDER BY ts"
    assert await other_db.fetch(rows) == await db.fetch(rows)
    assert {one["source"] for one in await other_db.fetch("SELECT source FROM price")} == {"IMPORT"}, (
        "the target stores each row as imported"
    )

    export_query = "SELECT ticker, ts, price, observed_at, source, original_source FROM price ORDER BY ts"
    first_copy = await other_db.fetch(export_query)
    await db.execute("TRUNCATE price, import_period CASCADE")
    assert await _copy(other_db, db, export_format, tmp_path / f"copy.{export_format}") != written
    assert await db.fetch(export_query) == first_copy, "a copy of a copy has the provenance of the first archive"


async def _copy(source: Database, target: Database, export_format: ExportFormat, file: Path) -> bytes:
    """Exports the history to the file, imports it into the other database, and returns the content of the file."""
    written = b"".join(
        [
            lines
            async for _, lines in history_export.slices(source, history_export.ExportShape(export_format), "btc_usd", 0, NOW)
        ]
    )
    rows = await asyncio.to_thread(_read, file, written)

    async def batches() -> AsyncIterator[list[RawRow]]:
        yield rows

    result = await import_prices(batches(), "btc_usd", target, now=NOW, on_reject=lambda *_: None, progress=lambda _: None)
    assert result.rejected == 0
    return written


def _read(file: Path, content: bytes) -> list[RawRow]:
    file.write_bytes(content)
    with open_price_file(file, "btc_usd") as opened:
        return list(opened.rows)
