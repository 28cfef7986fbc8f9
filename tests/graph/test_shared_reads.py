"""Requests of one turn of the event loop share a statement; none waits for another one or is cancelled with it."""

import asyncio
from typing import Any

import pytest

from db.errors import DatabaseError, StatementTimeoutError
from db.pool import Database, open_database
from db.queries import prices
from db.queries.shapes import Shape
from graph.engine.shared_reads import SharedReads
from tests.sample_data import START_TS, lock_price_table, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

TS = Shape((("ts", prices.JSON_COLUMNS["ts"]),))
NOW = START_TS + 600.0


class CountedDatabase:
    """Executes statements and counts them."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        self.count += 1
        return getattr(self._db, name)


@pytest.fixture
async def counted(db: Database) -> Any:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS), row("btc_usd", START_TS + 60), row("eth_usd", START_TS + 60)])
    return CountedDatabase(db)


async def test_the_newest_prices_of_one_turn_are_read_by_one_statement(counted: Any) -> None:
    reads = SharedReads()
    names = ["btc_usd", "eth_usd", "none_usd", "btc_usd"]
    found = await asyncio.gather(*(reads.latest_json(counted, TS, [name], NOW) for name in names))
    expected = {"btc_usd": f'{{"ts":{START_TS + 60}}}', "eth_usd": f'{{"ts":{START_TS + 60}}}'}
    assert [texts.get(name) for name, texts in zip(names, found, strict=True)] == [expected.get(name) for name in names]
    assert counted.count == 1
    await reads.latest_json(counted, TS, ["btc_usd"], NOW)
    assert counted.count == 2, "a later request reads again"


async def test_only_identical_windows_share_a_statement(counted: Any) -> None:
    reads = SharedReads()
    windows = [(START_TS, START_TS + 60), (START_TS, START_TS + 60), (START_TS, START_TS + 120)]
    texts = await asyncio.gather(
        *(reads.window_json(counted, TS, "btc_usd", low, high, newest_first=False) for low, high in windows)
    )
    assert [text.count(b"ts") for text in texts] == [1, 1, 2]
    assert counted.count == 2
    pages = await asyncio.gather(
        *(reads.fetch_page(counted, TS, "btc_usd", 0, 2**40, newest_first=order, limit=1) for order in (True, True, False))
    )
    assert [page.low for page in pages] == [START_TS + 60, START_TS + 60, START_TS]
    assert counted.count == 4


async def test_a_cancelled_request_cancels_no_other_one_and_the_last_one_ends_the_statement(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    reads = SharedReads()
    async with open_database(dsn, application_name="shared") as reader:

        async def count_statements() -> int:
            statement = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shared' AND state = 'active'"
            found: int = await db.fetchval(statement)
            return found

        async def is_running() -> bool:
            return await count_statements() == 1

        async with lock_price_table(dsn):
            first, second = (asyncio.create_task(reads.latest_json(reader, TS, ["btc_usd"], NOW)) for _ in range(2))
            await wait_until(is_running)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await count_statements() == 1
        assert await second == {"btc_usd": f'{{"ts":{START_TS}}}'}
        async with lock_price_table(dsn):
            waiting = [asyncio.create_task(reads.latest_json(reader, TS, ["btc_usd"], NOW)) for _ in range(5)]
            await wait_until(is_running)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            assert await count_statements() == 0
        assert await reads.latest_json(reader, TS, ["btc_usd"], NOW)


async def test_an_error_reaches_each_request(dsn: str, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.pool.COMMAND_TIMEOUT_GRACE_S", WAIT_TIMEOUT_S)  # PostgreSQL ends the statement, not the client
    await track(db, "btc_usd")
    reads = SharedReads()
    async with open_database(dsn, application_name="shared", statement_timeout_s=0.2) as reader, lock_price_table(dsn):
        requests = (reads.latest_json(reader, TS, ["btc_usd"], NOW) for _ in range(3))
        results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(result) for result in results] == [StatementTimeoutError] * 3
    assert issubclass(StatementTimeoutError, DatabaseError)
