"""Writers take turns."""

import asyncio

import asyncpg

from db.pool import Database
from db.queries import prices, write_lock
from tests.stored import MINUTE, row, track
from tests.waiting import PATIENCE_S, until

SOMEBODY_WAITS = """
SELECT EXISTS (
       SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND NOT granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


async def test_two_overlapping_transactions_on_one_ticker_store_each_minute_once_in_commit_order(db: Database) -> None:
    await track(db, "btc_usd")
    first_wrote, second_began = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, [row("btc_usd", MINUTE, "1")])
            first_wrote.set()
            await second_began.wait()
            await until(lambda: db.fetchval(SOMEBODY_WAITS))

    async def second() -> None:
        await first_wrote.wait()
        second_began.set()
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, [row("btc_usd", MINUTE, "2"), row("btc_usd", MINUTE + 60, "2")])

    await asyncio.gather(first(), second())
    stored = await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)
    assert [(r["ts"], str(r["price"])) for r in stored] == [(MINUTE, "1"), (MINUTE + 60, "2")]
    assert stored[0]["id"] < stored[1]["id"]


async def test_listeners_are_woken_by_the_commit_and_not_by_a_rollback(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(dsn)
    try:
        await listener.add_listener(write_lock.CHANNEL, lambda *event: heard.put_nowait(event[2]))
        try:
            async with write_lock.write_transaction(db):
                raise RuntimeError("rolled back")  # noqa: TRY301  that is the point
        except RuntimeError:
            pass
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, [row("btc_usd", MINUTE)])
        await asyncio.wait_for(heard.get(), PATIENCE_S)
        await listener.execute("SELECT 1")
        assert heard.empty(), "the transaction that was rolled back told nobody"
    finally:
        await listener.close()
