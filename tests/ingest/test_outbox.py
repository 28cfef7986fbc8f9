"""The outbox queues prices, and draining stores them in the database."""

import asyncio
from typing import Any

import asyncpg
import pytest
import redis.asyncio

from db.errors import DatabaseError
from db.pool import Database, open_database
from db.queries import prices, rejects, write_lock
from db.rows import Reason
from ingest.errors import OutboxError, OutboxFullError
from ingest.jobs.drain import drain, log_backlog
from ingest.jobs.store import store
from ingest.outbox import FAILURES, PRICES, Outbox, Report, open_outbox
from tests.conftest import Servers
from tests.sample_data import START_TS, minutes, row, track


async def test_the_first_queued_price_is_never_overwritten(outbox: Outbox) -> None:
    await outbox.put([row("btc_usd", START_TS, "1"), row("eth_usd", START_TS, "2")])
    await outbox.put([row("btc_usd", START_TS, "3"), row("btc_usd", START_TS + 60, "4")])
    batch = await outbox.prices.read(await outbox.prices.fields())
    assert [(one.ticker, one.ts, str(one.price)) for one in batch.values] == [
        ("btc_usd", START_TS, "1"),
        ("eth_usd", START_TS, "2"),
        ("btc_usd", START_TS + 60, "4"),
    ]


async def test_a_price_keeps_its_digits_and_its_instant(outbox: Outbox) -> None:
    put = row("btc_usd", START_TS, "0.000000000000000001", at_s=59.999999)
    await outbox.put([put])
    assert (await outbox.prices.read(await outbox.prices.fields())).values == [put]


async def test_the_outbox_is_bounded_and_keeps_the_oldest_entries(outbox: Outbox) -> None:
    outbox.max_prices = 3
    await outbox.put([row("btc_usd", START_TS + 60 * i) for i in range(3)])
    with pytest.raises(OutboxFullError, match="at most 3 prices"):
        await outbox.put([row("btc_usd", START_TS + 180)])
    assert await outbox.pending_minutes() == {("btc_usd", START_TS + 60 * i) for i in range(3)}


async def test_without_redis_every_call_raises_outbox_error() -> None:
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as unavailable:
        for call in (
            unavailable.put([row("btc_usd", START_TS)]),
            unavailable.prices.fields(),
            unavailable.pending_minutes(),
            unavailable.read_failures(),
            unavailable.read_report(),
        ):
            with pytest.raises(OutboxError, match="Redis failed: "):
                await call


async def test_connections_from_before_a_restart_of_redis_do_not_fail(redis_url: str, outbox: Outbox) -> None:
    assert await outbox.prices.depth() == 0
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.client_kill_filter(_type="normal", skipme=True)
    assert await outbox.prices.depth() == 0


async def test_failures_are_stored_until_they_are_deleted(outbox: Outbox) -> None:
    await outbox.record_failures({("btc_usd", START_TS): Reason.TIMEOUT, ("drbfix-btc_usdc", START_TS): Reason.CLOCK})
    await outbox.delete_failures([("btc_usd", START_TS)])
    assert await outbox.read_failures() == {("drbfix-btc_usdc", START_TS): Reason.CLOCK}


async def test_invalid_failure_entries_do_not_hide_valid_ones(redis_url: str, outbox: Outbox) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hset(FAILURES, mapping={"nonsense": "timeout", f"btc_usd|{START_TS}": "bad luck", b"\xff|1": "clock"})
    await outbox.record_failures({("btc_usd", START_TS + 60): Reason.TIMEOUT})
    assert (await outbox.read_failures())[("btc_usd", START_TS + 60)] is Reason.TIMEOUT


async def test_the_last_report_of_the_workers_is_read(outbox: Outbox) -> None:
    assert await outbox.read_report() == Report()
    await outbox.write_report(Report(0.25, {"btc_usd": "one", "eth_usd": "two"}))
    await outbox.write_report(Report(-1.5, {"btc_usd": "three"}))
    assert await outbox.read_report() == Report(-1.5, {"btc_usd": "three", "eth_usd": "two"})


async def test_draining_stores_all_prices_in_minute_order_and_empties_the_outbox(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await outbox.put([row("btc_usd", START_TS + 60 * i) for i in reversed(range(2500))])
    drained = await drain(outbox, db)
    assert (drained.new, await outbox.prices.depth()) == (2500, 0)
    found = await db.fetch("SELECT ts FROM price ORDER BY id")
    assert [record["ts"] for record in found] == [START_TS + 60 * i for i in range(2500)]


async def test_two_concurrent_drains_store_each_price_once(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await outbox.put([row("btc_usd", START_TS + 60 * i) for i in range(1500)])
    both = await asyncio.gather(drain(outbox, db), drain(outbox, db))
    assert sum(drained.new for drained in both) == 1500
    assert await outbox.prices.depth() == 0


async def test_nothing_leaves_the_outbox_before_it_is_committed(servers: Servers, dsn: str, outbox: Outbox) -> None:
    await outbox.put([row("btc_usd", START_TS)])
    async with open_database(servers.dsn_of("nowhere"), application_name="tests") as unavailable:
        with pytest.raises(DatabaseError):
            await drain(outbox, unavailable)
    assert await outbox.prices.depth() == 1
    async with open_database(dsn, application_name="tests") as db, write_lock.write_transaction(db):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await drain(outbox, db)
    assert await outbox.prices.depth() == 1


async def test_a_backlog_is_logged_as_an_error_long_before_the_limit(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    outbox.max_prices = 100
    for count, level in ((9, "WARNING"), (10, "ERROR")):
        caplog.clear()
        await outbox.put([row("btc_usd", START_TS + 60 * i) for i in range(count)])
        await log_backlog(outbox, DatabaseError("the database is unavailable"))
        (backlog_record,) = [record for record in caplog.records if "queued in the outbox, which holds 100" in record.message]
        assert backlog_record.levelname == level


async def test_an_entry_that_was_replaced_after_reading_is_not_removed(redis_url: str, outbox: Outbox) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hset(PRICES, f"btc_usd|{START_TS}", "rubbish")
        batch = await outbox.prices.read(await outbox.prices.fields())
        await client.hdel(PRICES, f"btc_usd|{START_TS}")
    await outbox.put([row("btc_usd", START_TS)])
    await outbox.prices.remove(batch.entries)
    assert await outbox.pending_minutes() == {("btc_usd", START_TS)}


async def test_an_invalid_entry_is_rejected_with_its_reason_and_blocks_no_other(
    redis_url: str, db: Database, outbox: Outbox
) -> None:
    await track(db, "btc_usd")
    await outbox.put([row("btc_usd", START_TS)])
    valid_entry = row("btc_usd", START_TS + 60).model_dump_json()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        invalid_entries: dict[Any, Any] = {
            "rubbish": "{",
            f"btc_usd|{START_TS + 120}": '{"price": "NaN"}',
            f"btc_usd|{START_TS + 180}": valid_entry,
            b"\xff\x00|1": b"\x00\xff",
            "btc_usd|99999999999999999999": "rubbish",
            "btc_usd|" + "9" * 5000: "rubbish",
        }
        await client.hset(PRICES, mapping=invalid_entries)
    drained = await drain(outbox, db)
    assert (drained.new, drained.rejected, await outbox.prices.depth()) == (1, 6, 0)
    found = await rejects.newest(db, 10)
    assert {(record["ticker"], record["ts"]) for record in found} >= {(None, None), ("btc_usd", START_TS + 120)}
    assert any("its hash field is btc_usd" in record["reason"] for record in found)


async def test_a_row_that_violates_a_constraint_is_rejected_alone(dsn: str, db: Database) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE price ADD CONSTRAINT unlucky CHECK (price <> 13)")
    await connection.close()
    await track(db, "btc_usd")
    rows = [row("btc_usd", START_TS + 60 * i, "13" if i in (3, 400) else "1") for i in range(500)]
    stored = await store(db, rows)
    assert (stored.new, stored.rejected) == (498, 2)
    assert len(await minutes(db, "btc_usd")) == 498
    assert [record["ts"] for record in await rejects.newest(db, 10)] == [START_TS + 400 * 60, START_TS + 3 * 60]
    assert "unlucky" in (await rejects.newest(db, 1))[0]["reason"]


async def test_an_unknown_ticker_is_inserted_with_its_first_price(db: Database) -> None:
    stored = await store(db, [row("btc_usd", START_TS)])
    assert stored.new == 1
    assert await prices.latest(db, "btc_usd", 0) is not None
