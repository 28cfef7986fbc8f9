"""Ids of lost commits are never reused, and ids follow commit order for every client that inserts."""

import asyncio

import asyncpg
import pytest

from db.pool import Database
from db.queries import version, write_lock
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track
from tests.wait import wait_until

INSERT = "INSERT INTO price (ticker, ts, price, source) VALUES ('btc_usd', $1, 1, 'LIVE') RETURNING id"
CHANGE_IDENTITY = "UPDATE epoch SET identity = 'before the restore'"


async def _ids(db: Database) -> list[int]:
    return [record["id"] for record in await db.fetch("SELECT id FROM price ORDER BY ts")]


async def test_a_new_database_is_in_its_first_epoch_and_stays_there(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    history = await version.history(db)
    assert (history.epoch, history.forked_at) == (1, 0)
    assert max(await _ids(db)) < 100


async def test_ids_after_a_restore_or_a_failover_were_never_used_before(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS), row("btc_usd", START_TS + 60)])
    last = await version.current(db)
    await db.execute(CHANGE_IDENTITY)
    await store(db, [row("btc_usd", START_TS + 120)])
    await store(db, [row("btc_usd", START_TS + 180)])
    history = await version.history(db)
    ids = await _ids(db)
    assert ids == sorted(ids)
    assert ids[2] > history.epoch - 1 > 10**15
    assert ids[3] < 2**53, "a JSON number that JavaScript reads exactly"
    assert history.forked_at == last
    assert await version.fork_of(db, last) is None
    assert await version.fork_of(db, last + 1) == last, "an id that was assigned after the backup and lost"
    assert await version.fork_of(db, ids[2]) is None
    assert await db.fetchval("SELECT count(*) FROM epoch") == 2


async def test_each_fork_of_the_history_is_distinguished(db: Database) -> None:
    await track(db, "btc_usd")
    forks = []
    for number in range(3):
        await store(db, [row("btc_usd", START_TS + 60 * number)])
        forks.append(await version.current(db))
        await db.execute(CHANGE_IDENTITY)
    await store(db, [row("btc_usd", START_TS + 600)])
    for fork in forks:
        assert await version.fork_of(db, fork) is None
        assert await version.fork_of(db, fork + 1) == fork


async def test_a_change_without_prices_starts_a_new_epoch(db: Database) -> None:
    await track(db, "btc_usd")
    await db.execute(CHANGE_IDENTITY)
    await track(db, "btc_usd", "eth_usd")
    assert (await version.history(db)).version > 10**15


async def test_every_role_that_writes_sees_the_same_identity(dsn: str, db: Database) -> None:
    role = f"writer_{dsn.rpartition('_')[2]}"
    await db.execute(f"CREATE ROLE {role}")
    await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    await db.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    await track(db, "btc_usd")
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"SET ROLE {role}")
        await connection.execute(INSERT, START_TS)
        assert await connection.fetchval("SELECT count(*) FROM epoch") == 1
    finally:
        await connection.close()
        await db.execute(f"DROP OWNED BY {role}")
        await db.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("manual_is_first", [True, False])
async def test_ids_follow_commit_order_for_manual_inserts(dsn: str, db: Database, *, manual_is_first: bool) -> None:
    """A transaction that waits for the lock must not have drawn its id yet."""
    await track(db, "btc_usd")
    manual_connection = await asyncpg.connect(dsn)
    try:
        if manual_is_first:
            transaction = manual_connection.transaction()
            await transaction.start()
            first = await manual_connection.fetchval(INSERT, START_TS)
            storing = asyncio.create_task(store(db, [row("btc_usd", START_TS + 60)]))
            await _wait_for_blocked_session(db)
            await transaction.commit()
            await storing
            second = (await _ids(db))[1]
        else:
            async with write_lock.write_transaction(db) as connection:
                inserting = asyncio.create_task(manual_connection.fetchval(INSERT, START_TS + 60))
                await _wait_for_blocked_session(db)
                first = await connection.fetchval(INSERT, START_TS)
            second = await inserting
    finally:
        await manual_connection.close()
    assert first < second


async def _wait_for_blocked_session(db: Database) -> None:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"

    async def is_blocked() -> bool:
        return bool(await db.fetchval(query))

    await wait_until(is_blocked)


async def test_the_ids_of_ranges_belong_to_the_history_that_a_restore_continues(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    await store_ranges(db, [range_row("btc_usd", START_TS)])
    last = await version.current(db)
    await db.execute(CHANGE_IDENTITY)
    await store_ranges(db, [range_row("btc_usd", START_TS + 60)])
    assert (await version.history(db)).forked_at == last
    assert await version.fork_of(db, last) is None
