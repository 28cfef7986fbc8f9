"""Drills of restores, upgrades and lost hosts with real servers. `make drill-…` prints the figures."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from db import migrate
from db.errors import CommandLineError
from db.pool import Database, open_database
from db.queries import candles, coverage, digests, version
from db.runtime import backup, embedded
from ingest.deribit.client import open_deribit
from ingest.jobs.digests import update_digests
from ingest.jobs.reconcile import reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import open_outbox
from ingest.settings import Settings
from ingest.simulator.server import Simulator, serve
from tests.chaos.environment import TICKERS, Stack, run_environment
from tests.e2e.conftest import run_verb
from tests.sample_data import row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow

DAY = 86_400
NAMES = ["btc_usd", "eth_usd", "sol_usd", "avax_usdc"]


async def test_restore_into_another_server_and_catch_up(
    simulator: Simulator, rpc_url: str, redis_url: str, tmp_path: Path
) -> None:
    now = int(time.time()) // 60 * 60
    begin, lost_at, back_at = now - DAY, now - 3 * 3_600, now
    file = tmp_path / "prices.dump"
    with embedded.postgres(tmp_path / "lost") as server:
        await asyncio.to_thread(migrate.upgrade, server.url)
        async with open_database(server.url, application_name="drill") as db:
            await track(db, *NAMES, since=begin)
            for name in NAMES:
                await store(db, [row(name, ts, f"{ts % 1_000 + 1}") for ts in range(begin, lost_at, 60)])
            await update_digests(now + 900, db)
            last = await version.current(db)
        started_at = time.perf_counter()
        status, _, err = await run_verb(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=server.url)
        assert status == 0, err
        print(f"\nbacked up in {time.perf_counter() - started_at:.1f} s: {err.strip()}")
    with embedded.postgres(tmp_path / "other") as server:
        started_at = time.perf_counter()
        status, _, err = await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=server.url)
        assert status == 0, err
        print(f"restored in {time.perf_counter() - started_at:.1f} s")
        assert (await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=server.url))[2].endswith(
            "or restore into a new DATA_DIR\n"
        )
        simulator.clock.set(at=back_at + 2)
        async with (
            open_database(server.url, application_name="drill") as db,
            open_deribit(Settings(deribit_rpc_url=rpc_url)) as source,
            open_outbox(redis_url, 10_000) as outbox,
        ):
            started_at = time.perf_counter()
            caught_up = await reconcile(back_at, watchlist=Watchlist(NAMES), source=source, db=db, outbox=outbox)
            print(f"caught up in {time.perf_counter() - started_at:.1f} s: {caught_up.backfilled}")
            for name in NAMES:
                counts = await coverage.count(db, name, begin, back_at, back_at)
                gaps = await db.fetchval("SELECT count(*) FROM gap WHERE ticker = $1 AND filled_at IS NULL", name)
                print(f"{name}: {counts.stored} of {counts.expected} stored, {gaps} are gaps")
                assert counts.stored + gaps == counts.expected == DAY // 60
                assert gaps <= 1, "at most the minute at the edge of a chart window, which a later run fills or gives up"
                assert await candles.find_differences(db, name, 0) == []
            assert await db.fetchval("SELECT min(id) FROM price WHERE ts >= $1", lost_at) > last
            await update_digests(now + 2 * DAY, db)
            status, out, err = await run_verb(tmp_path, "db", "verify", DATABASE_URL=server.url)
            assert status == 0, out + err
            print(f"verified: {out}")
            # The digests of the days that the backup contained are still the first entries of the chain.
            assert (await digests.entries_after(db, 0, 1))[0].as_of <= last


async def test_a_file_that_is_no_backup_is_refused(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "no.dump"
    file.write_text("nothing")
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=dsn)
    assert (status, "is not a backup" in err) == (1, True), err
    async with open_database(dsn, application_name="drill") as db:
        assert await db.fetchval("SELECT count(*) FROM price") == 0, "nothing was deleted"
    status, _, err = await run_verb(tmp_path, "db", "restore", "nowhere.dump", DATABASE_URL=empty_dsn)
    assert (status, err) == (1, "nowhere.dump does not exist\n")


async def test_restore_into_a_migrated_empty_database_and_a_new_data_dir(
    dsn: str, db: Database, empty_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.dump"
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", DAY)])
    status, _, err = await run_verb(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert status == 0, err
    status, _, err = await run_verb(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert (status, "already exists" in err) == (1, True), err
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=dsn)
    assert (status, "is not empty" in err) == (1, True), err
    # A migrated and empty database, as after a first start.
    await asyncio.to_thread(migrate.upgrade, empty_dsn)
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=empty_dsn)
    assert status == 0, err
    async with open_database(empty_dsn, application_name="drill") as migrated_db:
        assert await migrated_db.fetchval("SELECT price FROM price") == 100
    # A DATA_DIR that does not exist yet. `make up` uses it afterwards.
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file))
    assert status == 0, err
    with embedded.postgres(tmp_path / "data" / "postgres") as server:
        async with open_database(server.url, application_name="drill") as restored:
            assert await restored.fetchval("SELECT price FROM price") == 100


async def test_dropping_the_empty_schema_deletes_nothing_that_is_committed_meanwhile(dsn: str, db: Database) -> None:
    writer = await asyncpg.connect(dsn)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    clearing = asyncio.create_task(backup.drop_empty_schema(dsn))
    await wait_until(lambda: db.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))
    await transaction.commit()
    with pytest.raises(CommandLineError, match="is not empty"):
        await clearing
    assert await db.fetchval("SELECT name FROM ticker") == "btc_usd"
    await writer.close()


FILL = """
INSERT INTO price (ticker, ts, price, source)
SELECT name, $1::bigint + 60 * minute, 100 + minute % 7, 'LIVE' FROM ticker, generate_series(0, $2::bigint - 1) AS minute
"""
LOCK_TIMEOUT_MS = "60000"
"""Ends the drill if the migration never releases a lock. On an idle machine none waits for a second."""
MINUTES_PER_TICKER = 60_000
"""Minutes per ticker: some hundred thousand rows in total."""


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
async def test_upgrade_while_others_read_and_write(empty_dsn: str, revision: str, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_dsn, revision)
    begin = int(time.time()) // DAY * DAY - 60 * MINUTES_PER_TICKER
    admin = await asyncpg.connect(empty_dsn)
    await admin.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in NAMES])
    await admin.executemany("INSERT INTO tracking (ticker, since) VALUES ($1, $2)", [(name, begin) for name in NAMES])
    await admin.execute(FILL, begin, MINUTES_PER_TICKER)
    max_wait_s: dict[str, float] = {"reading": 0.0, "writing": 0.0}
    written_minutes = 0
    done = asyncio.Event()

    async def read() -> None:
        connection = await asyncpg.connect(empty_dsn, server_settings={"lock_timeout": LOCK_TIMEOUT_MS})
        while not done.is_set():
            started_at = time.perf_counter()
            await connection.fetch("SELECT ts, price FROM price WHERE ticker = 'btc_usd' ORDER BY ts DESC LIMIT 100")
            max_wait_s["reading"] = max(max_wait_s["reading"], time.perf_counter() - started_at)
        await connection.close()

    async def write() -> None:
        nonlocal written_minutes
        connection = await asyncpg.connect(empty_dsn, server_settings={"lock_timeout": LOCK_TIMEOUT_MS})
        while not done.is_set():
            started_at = time.perf_counter()
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(7235421)")
                ts = begin + 60 * (MINUTES_PER_TICKER + written_minutes)
                await connection.execute(
                    "INSERT INTO price (ticker, ts, price, source) SELECT name, $1, 1, 'LIVE' FROM ticker", ts
                )
            written_minutes += 1
            max_wait_s["writing"] = max(max_wait_s["writing"], time.perf_counter() - started_at)
        await connection.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        tasks.create_task(write())
        status, _, err = await run_verb(tmp_path, "db", "migrate", DATABASE_URL=empty_dsn)
        done.set()
    assert status == 0, err
    longest = ", ".join(f"{name} at most {1000 * seconds:.0f} ms" for name, seconds in max_wait_s.items())
    print(
        f"\nfrom {revision} with {MINUTES_PER_TICKER * len(NAMES):,} rows: {longest}; "
        f"{written_minutes} minutes written meanwhile"
    )
    assert await admin.fetchval("SELECT count(*) FROM price") == (MINUTES_PER_TICKER + written_minutes) * len(NAMES)
    await admin.close()
    async with open_database(empty_dsn, application_name="drill") as db:
        building = await candles.pending_builds(db)
        for name in NAMES:
            assert await candles.find_differences(db, name, building.get(name, 0)) == []


OUTAGE_MINUTES = 30


async def test_worker_host_is_lost_and_another_takes_over(tmp_path: Path) -> None:
    simulator = Simulator()
    begin = minute = int(time.time()) // 60 * 60 - 60 * (OUTAGE_MINUTES + 20)
    simulator.clock.set(at=begin + 2)
    rng = random.Random(0)  # noqa: S311  no fault is drawn
    async with serve(simulator) as rpc_url, run_environment(tmp_path, simulator, rpc_url, {}, rng) as environment:
        lost_stack = environment.stack

        async def collect_minute(stack: Stack) -> None:
            """Publishes the minute and waits until each ticker's price is stored."""
            simulator.clock.set(at=minute + 2)
            await stack.publish(minute)
            assert await stack.until(is_stored, WAIT_TIMEOUT_S)

        async def is_stored() -> bool:
            return await environment.stored(minute) == set(TICKERS)

        async def others_are_stored() -> bool:
            return await environment.stored(minute) >= set(TICKERS[1:])

        async def no_gap_is_open() -> bool:
            async with environment.sql() as connection:
                return not await connection.fetchval("SELECT EXISTS (SELECT FROM gap WHERE filled_at IS NULL)")

        await lost_stack.start_worker()
        for _ in range(3):
            await collect_minute(lost_stack)
            minute += 60
        simulator.clock.set(at=minute + 2)
        simulator.fail("hang", index=TICKERS[0], method="get_index_price")
        await lost_stack.publish(minute)
        assert await lost_stack.until(others_are_stored, WAIT_TIMEOUT_S)
        await lost_stack.kill_worker()
        simulator.clear_faults()
        print(f"\nthe host is lost with {len(await environment.stored(minute))} of {len(TICKERS)} prices of its minute stored")

        minute += 60 * OUTAGE_MINUTES
        simulator.clock.set(at=minute + 2)
        (tmp_path / "elsewhere").mkdir()
        new_stack = Stack("elsewhere", tmp_path / "elsewhere", lost_stack.settings, lost_stack.valkey)
        try:
            started_at = time.perf_counter()
            await new_stack.start_worker()
            await collect_minute(new_stack)
            elapsed_s = time.perf_counter() - started_at
            print(f"{OUTAGE_MINUTES} minutes later another worker starts: its first minute is stored after {elapsed_s:.1f} s")
            while await environment.checked_until() < minute or not await no_gap_is_open():
                assert time.perf_counter() < started_at + 5 * WAIT_TIMEOUT_S
                minute += 60
                await collect_minute(new_stack)
            print(f"all earlier minutes are stored or gaps after {time.perf_counter() - started_at:.1f} s")
        finally:
            await new_stack.stop_worker()
        async with environment.sql() as connection:
            found = await connection.fetch("SELECT source FROM price WHERE ts BETWEEN $1 AND $2", begin, minute)
            sources = Counter(row["source"] for row in found)
        print(f"{(minute - begin) // 60 + 1} minutes of {len(TICKERS)} tickers: {dict(sources)}")
        assert sources.total() == ((minute - begin) // 60 + 1) * len(TICKERS)


async def test_simulated_prices_of_a_backup_do_not_mix_with_real_ones(
    dsn: str, db: Database, empty_dsn: str, tmp_path: Path
) -> None:
    await track(db, "btc_usd")
    await backup.mark_as_demo(dsn)
    file = tmp_path / "demo.dump"
    status, _, err = await run_verb(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert status == 0
    assert err.startswith("backing up postgresql://tickgraph:***@127.0.0.1:")
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file), DATABASE_URL=empty_dsn)
    assert (status, "is a backup of the demo, whose prices are simulated" in err) == (1, True), err
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file))
    assert (status, "is a backup of the demo" in err) == (1, True), err
    assert not (tmp_path / "data").exists(), "a rejected backup creates no database"
    status, _, err = await run_verb(tmp_path, "db", "restore", str(file), "--force", DATABASE_URL=empty_dsn)
    assert status == 0, err


async def test_no_backup_is_restored_into_a_running_data_dir(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.dump"
    assert (await run_verb(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn))[0] == 0
    for folder in (tmp_path / "data", tmp_path / "data" / "demo"):
        with embedded.lock_data_dir(folder):
            status, _, err = await run_verb(tmp_path, "db", "restore", str(file))
        assert (status, f"{folder} is in use. Stop the process that uses it" in err) == (1, True), err
