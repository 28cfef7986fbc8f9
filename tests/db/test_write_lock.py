"""Writers hold the write lock one at a time."""

import asyncio

import asyncpg

from db.pool import Database
from db.queries import prices, write_lock
from tests.sample_data import START_TS, row, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

IS_LOCK_AWAITED = """
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
            await prices.store(connection, [row("btc_usd", START_TS, "1")])
            first_wrote.set()
            await second_began.wait()
            await wait_until(lambda: db.fetchval(IS_LOCK_AWAITED))

    async def second() -> None:
        await first_wrote.wait()
        second_began.set()
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, [row("btc_usd", START_TS, "2"), row("btc_usd", START_TS + 60, "2")])

    await asyncio.gather(first(), second())
    stored = await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)
    assert [(r["ts"], str(r["price"])) for r in stored] == [(START_TS, "1"), (START_TS + 60, "2")]
    assert stored[0]["id"] < stored[1]["id"]


async def test_listeners_are_notified_by_a_commit_and_not_by_a_rollback(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    notifications: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(dsn)
    try:
        await listener.add_listener(write_lock.CHANNEL, lambda *event: notifications.put_nowait(event[2]))
        try:
            async with write_lock.write_transaction(db):
                raise RuntimeError("rolled back")  # noqa: TRY301  that is the point
        except RuntimeError:
            pass
        async with write_lock.write_transaction(db) as connection:
            await prices.store(connection, [row("btc_usd", START_TS)])
        await asyncio.wait_for(notifications.get(), WAIT_TIMEOUT_S)
        await listener.execute("SELECT 1")
        assert notifications.empty(), "the transaction that was rolled back sent no notification"
    finally:
        await listener.close()
