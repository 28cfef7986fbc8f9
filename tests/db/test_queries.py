"""Each statement is valid SQL and returns what its docstring says."""

import importlib
import pkgutil

import asyncpg
import pytest

from db import queries
from db.pool import Database
from db.queries import bulk_import, prices, tickers, tracking, write_lock
from db.rows import Source
from tests.sample_data import START_TS, row, set_tracked_tickers, store, track

STATEMENTS = {
    f"{module.name}.{name}": value
    for module in pkgutil.iter_modules(queries.__path__)
    for name, value in vars(importlib.import_module(f"db.queries.{module.name}")).items()
    if name[0].isalpha() and name.isupper() and isinstance(value, str) and len(value.split()) > 1
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_every_statement_can_be_prepared(dsn: str, name: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            if name.startswith("bulk_import.MERGE"):
                await connection.execute(bulk_import.STAGE)
            await connection.prepare(STATEMENTS[name])
    finally:
        await connection.close()


def test_there_are_statements_to_prepare() -> None:
    assert {"prices.LATEST", "prices.STORE", "tracking.BEGIN_PERIODS", "write_lock.ACQUIRE_WRITER_LOCK", "tickers.ALL"} <= set(
        STATEMENTS
    )


async def test_a_window_is_half_open_and_reads_from_either_end(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(5)])
    found = await prices.window(db, "btc_usd", START_TS + 60, START_TS + 240, newest_first=False)
    assert [r["ts"] for r in found] == [START_TS + 60, START_TS + 120, START_TS + 180]
    found = await prices.window(db, "btc_usd", START_TS, START_TS + 300, newest_first=True, limit=2)
    assert [r["ts"] for r in found] == [START_TS + 240, START_TS + 180]


async def test_the_first_stored_price_is_never_overwritten(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "1")])
    async with write_lock.write_transaction(db) as connection:
        stored = await prices.store(connection, [row("btc_usd", START_TS, "2"), row("btc_usd", START_TS + 60, "3")])
    assert [r["ts"] for r in stored] == [START_TS + 60]
    assert [str(r["price"]) for r in await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)] == ["1", "3"]


@pytest.mark.parametrize(
    ("at", "max_age_s", "found"),
    [
        (START_TS + 10, 300, None),  # the price of this minute was observed 20 s later
        (START_TS + 30, 300, START_TS),
        (START_TS + 30, 0, START_TS),
        (START_TS + 95, 300, START_TS),  # the next price has no observed_at, so it counts from the end of its minute
        (START_TS + 119, 300, START_TS),
        (START_TS + 120, 300, START_TS + 60),
        (START_TS + 120 + 300, 300, START_TS + 60),
        (START_TS + 120 + 301, 300, None),
    ],
)
async def test_the_last_observed_price_is_never_from_the_future_nor_too_old(
    db: Database, at: int, max_age_s: int, found: int | None
) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, at_s=30), row("btc_usd", START_TS + 60, at_s=None, source=Source.IMPORT)])
    record = await prices.last_observed(db, "btc_usd", at, max_age_s)
    assert (record and record["ts"]) == found


async def test_tickers_are_listed_with_their_last_period_and_newest_price(db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS), row("btc_usd", START_TS + 60)])
    await track(db, "btc_usd", since=START_TS + 120)
    found = {r["name"]: (r["since"], r["tracked"], r["ts"]) for r in await tickers.list_tickers(db, 0)}
    assert found == {"btc_usd": (START_TS, True, START_TS + 60), "eth_usd": (START_TS, False, None)}


async def test_tracking_periods_follow_the_list_of_tickers(db: Database) -> None:
    async def set_tickers(names: list[str], minute: int) -> tuple[list[str], list[str]]:
        async with write_lock.write_transaction(db) as connection:
            return await set_tracked_tickers(connection, names, minute)

    assert await set_tickers(["a", "b"], 600) == (["a", "b"], [])
    assert await set_tickers(["a", "b"], 660) == ([], []), "a restart with the same list changes nothing"
    assert await set_tickers(["a"], 720) == ([], ["b"])
    assert await set_tickers(["a", "b"], 780) == (["b"], [])
    assert await set_tickers(["a"], 780) == ([], []), "a period that ends in its first minute is removed"
    assert await set_tickers(["a", "b"], 60) == (["b"], []), "a clock that was set back does not make periods overlap"
    rows = await db.fetch("SELECT ticker, since, until FROM tracking ORDER BY ticker, since")
    assert [tuple(r) for r in rows] == [("a", 600, None), ("b", 600, 720), ("b", 720, None)]


async def test_removing_an_unknown_ticker_deletes_its_rows_unless_it_had_prices(db: Database) -> None:
    await track(db, "typo_usd", "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    async with write_lock.write_transaction(db) as connection:
        await tracking.remove_unknown_ticker(connection, "typo_usd", START_TS + 60)
        await tracking.remove_unknown_ticker(connection, "btc_usd", START_TS + 60)
    rows = await db.fetch("SELECT name, since, until FROM ticker LEFT JOIN tracking ON ticker = name")
    assert [tuple(r) for r in rows] == [("btc_usd", START_TS, START_TS + 60)]
