"""Drills: what an operator hopes never to need, done for real. `make drill-…` prints the figures."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from db import backup, embedded, migrate
from db.errors import ServerError
from db.pool import Database, open_database
from db.queries import candles, coverage, version
from ingest.deribit.client import open_deribit
from ingest.jobs.reconcile import reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import open_outbox
from ingest.settings import Settings
from ingest.simulator.server import Simulator, serve
from tests.chaos.stand import TICKERS, Stack, standing
from tests.e2e.test_verbs import run
from tests.stored import row, store, track
from tests.waiting import until

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
            last = await version.current(db)
        began = time.perf_counter()
        status, _, said = await run(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=server.url)
        assert status == 0, said
        print(f"\nbacked up in {time.perf_counter() - began:.1f} s: {said.strip()}")
    with embedded.postgres(tmp_path / "other") as server:
        began = time.perf_counter()
        status, _, said = await run(tmp_path, "db", "restore", str(file), DATABASE_URL=server.url)
        assert status == 0, said
        print(f"restored in {time.perf_counter() - began:.1f} s")
        assert (await run(tmp_path, "db", "restore", str(file), DATABASE_URL=server.url))[2].endswith(
            "or restore into a new DATA_DIR\n"
        )
        simulator.clock.set(at=back_at + 2)
        async with (
            open_database(server.url, application_name="drill") as db,
            open_deribit(Settings(deribit_rpc_url=rpc_url)) as source,
            open_outbox(redis_url, 10_000) as outbox,
        ):
            began = time.perf_counter()
            caught_up = await reconcile(back_at, watchlist=Watchlist(NAMES), source=source, db=db, outbox=outbox)
            print(f"caught up in {time.perf_counter() - began:.1f} s: {caught_up.backfilled}")
            for name in NAMES:
                counted = await coverage.count(db, name, begin, back_at, back_at)
                gaps = await db.fetchval("SELECT count(*) FROM gap WHERE ticker = $1 AND filled_at IS NULL", name)
                print(f"{name}: {counted.stored} of {counted.expected} stored, {gaps} explained")
                assert counted.stored + gaps == counted.expected == DAY // 60
                assert gaps <= 1, "at most the one at the edge of a window; a later run knows"
                assert await candles.find_differences(db, name, 0) == []
            assert await db.fetchval("SELECT min(id) FROM price WHERE ts >= $1", lost_at) > last


async def test_what_is_no_backup_is_refused(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "no.dump"
    file.write_text("nothing")
    status, _, said = await run(tmp_path, "db", "restore", str(file), DATABASE_URL=dsn)
    assert (status, "is not a backup" in said) == (1, True), said
    async with open_database(dsn, application_name="drill") as db:
        assert await db.fetchval("SELECT count(*) FROM price") == 0, "nothing was taken away"
    status, _, said = await run(tmp_path, "db", "restore", "nowhere.dump", DATABASE_URL=empty_dsn)
    assert (status, said) == (1, "nowhere.dump does not exist\n")


async def test_restore_into_what_make_up_begins_with(dsn: str, db: Database, empty_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.dump"
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", DAY)])
    status, _, said = await run(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert status == 0, said
    status, _, said = await run(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert (status, "already exists" in said) == (1, True), said
    status, _, said = await run(tmp_path, "db", "restore", str(file), DATABASE_URL=dsn)
    assert (status, "is not empty" in said) == (1, True), said
    # A database that is migrated and empty, as one where something was started once.
    await asyncio.to_thread(migrate.upgrade, empty_dsn)
    status, _, said = await run(tmp_path, "db", "restore", str(file), DATABASE_URL=empty_dsn)
    assert status == 0, said
    async with open_database(empty_dsn, application_name="drill") as other:
        assert await other.fetchval("SELECT price FROM price") == 100
    # A DATA_DIR that is not there yet, which `make up` takes over then.
    status, _, said = await run(tmp_path, "db", "restore", str(file))
    assert status == 0, said
    with embedded.postgres(tmp_path / "data" / "postgres") as server:
        async with open_database(server.url, application_name="drill") as restored:
            assert await restored.fetchval("SELECT price FROM price") == 100


async def test_restoring_takes_nothing_away_that_is_stored_in_the_same_moment(dsn: str, db: Database) -> None:
    writer = await asyncpg.connect(dsn)
    stored = writer.transaction()
    await stored.start()
    await writer.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    clearing = asyncio.create_task(backup.drop_empty_schema(dsn))
    await until(lambda: db.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))
    await stored.commit()
    with pytest.raises(ServerError, match="is not empty"):
        await clearing
    assert await db.fetchval("SELECT name FROM ticker") == "btc_usd"
    await writer.close()


FILL = """
INSERT INTO price (ticker, ts, price, source)
SELECT name, $1::bigint + 60 * minute, 100 + minute % 7, 'LIVE' FROM ticker, generate_series(0, $2::bigint - 1) AS minute
"""
MINUTES = 60_000
"""Of each ticker: some hundred thousand rows."""


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
async def test_upgrade_while_others_read_and_write(empty_dsn: str, revision: str, tmp_path: Path) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_dsn, revision)
    begin = int(time.time()) // DAY * DAY - 60 * MINUTES
    admin = await asyncpg.connect(empty_dsn)
    await admin.executemany("INSERT INTO ticker (name) VALUES ($1)", [(name,) for name in NAMES])
    await admin.executemany("INSERT INTO tracking (ticker, since) VALUES ($1, $2)", [(name, begin) for name in NAMES])
    await admin.execute(FILL, begin, MINUTES)
    waits: dict[str, float] = {"reading": 0.0, "writing": 0.0}
    written = 0
    done = asyncio.Event()

    async def read() -> None:
        # Whoever waits for a lock longer than that fails.
        connection = await asyncpg.connect(empty_dsn, server_settings={"lock_timeout": "1000"})
        while not done.is_set():
            began = time.perf_counter()
            await connection.fetch("SELECT ts, price FROM price WHERE ticker = 'btc_usd' ORDER BY ts DESC LIMIT 100")
            waits["reading"] = max(waits["reading"], time.perf_counter() - began)
        await connection.close()

    async def write() -> None:
        nonlocal written
        connection = await asyncpg.connect(empty_dsn, server_settings={"lock_timeout": "1000"})
        while not done.is_set():
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(7235421)")
                ts = begin + 60 * (MINUTES + written)
                await connection.execute(
                    "INSERT INTO price (ticker, ts, price, source) SELECT name, $1, 1, 'LIVE' FROM ticker", ts
                )
            written += 1
            waits["writing"] = max(waits["writing"], time.perf_counter() - began)
        await connection.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        tasks.create_task(write())
        status, _, said = await run(tmp_path, "db", "migrate", DATABASE_URL=empty_dsn)
        done.set()
    assert status == 0, said
    longest = ", ".join(f"{name} at most {1000 * seconds:.0f} ms" for name, seconds in waits.items())
    print(f"\nfrom {revision} with {MINUTES * len(NAMES):,} rows: {longest}, {written} minutes written meanwhile")
    assert await admin.fetchval("SELECT count(*) FROM price") == (MINUTES + written) * len(NAMES)
    await admin.close()
    async with open_database(empty_dsn, application_name="drill") as db:
        building = await candles.pending_builds(db)
        for name in NAMES:
            assert await candles.find_differences(db, name, building.get(name, 0)) == []


GONE_MINUTES = 30


async def test_worker_host_is_lost_and_another_takes_over(tmp_path: Path) -> None:
    simulator = Simulator()
    begin = minute = int(time.time()) // 60 * 60 - 60 * (GONE_MINUTES + 20)
    simulator.clock.set(at=begin + 2)
    draw = random.Random(0)  # noqa: S311  nothing is drawn
    async with serve(simulator) as rpc_url, standing(tmp_path, simulator, rpc_url, {}, draw) as stand:
        lost = stand.stack

        async def collected(by: Stack) -> None:
            """Each ticker's price of the minute is stored."""
            simulator.clock.set(at=minute + 2)
            await by.publish(minute)
            assert await by.until(is_stored, 20)

        async def is_stored() -> bool:
            return await stand.stored(minute) == set(TICKERS)

        async def others_are_stored() -> bool:
            return await stand.stored(minute) >= set(TICKERS[1:])

        async def nothing_is_open() -> bool:
            async with stand.sql() as connection:
                return not await connection.fetchval("SELECT EXISTS (SELECT FROM gap WHERE filled_at IS NULL)")

        await lost.start_worker()
        for _ in range(3):
            await collected(lost)
            minute += 60
        simulator.clock.set(at=minute + 2)
        simulator.fail("hang", index=TICKERS[0], method="get_index_price")
        await lost.publish(minute)
        assert await lost.until(others_are_stored, 20)
        await lost.kill_worker()
        simulator.clear_faults()
        print(f"\nthe host is lost with {len(await stand.stored(minute))} of {len(TICKERS)} prices of its minute stored")

        minute += 60 * GONE_MINUTES
        simulator.clock.set(at=minute + 2)
        (tmp_path / "elsewhere").mkdir()
        other = Stack("elsewhere", tmp_path / "elsewhere", lost.settings, lost.valkey)
        try:
            began = time.perf_counter()
            await other.start_worker()
            await collected(other)
            took = time.perf_counter() - began
            print(f"{GONE_MINUTES} minutes later another starts: its first minute is stored after {took:.1f} s")
            while await stand.walked() < minute or not await nothing_is_open():
                assert time.perf_counter() < began + 60
                minute += 60
                await collected(other)
            print(f"everything before is explained after {time.perf_counter() - began:.1f} s")
        finally:
            await other.stop_worker()
        async with stand.sql() as connection:
            found = await connection.fetch("SELECT source FROM price WHERE ts BETWEEN $1 AND $2", begin, minute)
            sources = Counter(row["source"] for row in found)
        print(f"{(minute - begin) // 60 + 1} minutes of {len(TICKERS)} tickers: {dict(sources)}")
        assert sources.total() == ((minute - begin) // 60 + 1) * len(TICKERS)


async def test_simulated_prices_do_not_get_among_real_ones(dsn: str, db: Database, empty_dsn: str, tmp_path: Path) -> None:
    await track(db, "btc_usd")
    await backup.mark_as_demo(dsn)
    file = tmp_path / "demo.dump"
    status, _, said = await run(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn)
    assert status == 0
    assert said.startswith("backing up postgresql://tickgraph:***@127.0.0.1:")
    status, _, said = await run(tmp_path, "db", "restore", str(file), DATABASE_URL=empty_dsn)
    assert (status, "is a backup of the demo, whose prices are simulated" in said) == (1, True), said
    status, _, said = await run(tmp_path, "db", "restore", str(file), "--force", DATABASE_URL=empty_dsn)
    assert status == 0, said


async def test_nothing_is_restored_beside_what_runs(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.dump"
    assert (await run(tmp_path, "db", "backup", "--output", str(file), DATABASE_URL=dsn))[0] == 0
    for folder in (tmp_path / "data", tmp_path / "data" / "demo"):
        with embedded.lock_data_dir(folder):
            status, _, said = await run(tmp_path, "db", "restore", str(file))
        assert (status, f"{folder} is in use. Stop the process that uses it" in said) == (1, True), said
