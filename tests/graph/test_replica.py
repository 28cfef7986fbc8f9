"""Reads from a real streaming replica: no response exceeds the maximum lag, is cached while stale, or fails."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client import REGISTRY

from db import migrate
from db.pool import Database, open_database
from db.queries import write_lock
from db.runtime import embedded
from db.runtime.embedded import Server
from graph.settings import Settings
from tests import replicas
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import subscribe
from tests.sample_data import START_TS, row, store, track
from tests.wait import wait_until

pytestmark = pytest.mark.slow

MAX_LAG_S = 4.0
LATEST = '{ latest(ticker: "btc_usd") { ts } }'


@dataclass(frozen=True)
class ReplicationPair:
    """A primary with a database connection for writes, and its replica."""

    primary: Server
    replica: Server
    db: Database


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Server]:
    with embedded.postgres(tmp_path / "primary", durable=False) as server:
        yield server


@pytest.fixture
async def pair(primary: Server, tmp_path: Path) -> AsyncIterator[ReplicationPair]:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    await asyncio.to_thread(replicas.copy_primary, primary, tmp_path)
    with replicas.run_replica(tmp_path) as replica:
        async with open_database(primary.url, application_name="tests") as db:
            await track(db, "btc_usd")
            await store(db, [row("btc_usd", START_TS)])
            yield ReplicationPair(primary, replica, db)


def _run_api_with_replica(pair: ReplicationPair, **settings: Any) -> contextlib.AbstractAsyncContextManager[Api]:
    urls: Any = {"database_url": pair.primary.url, "database_read_url": pair.replica.url}
    return run_api(Settings(**{"replica_behind_most_s": MAX_LAG_S, **urls, **settings}))


def _read_count(server: str) -> float:
    return REGISTRY.get_sample_value("tickgraph_reads_by_server_total", {"server": server}) or 0.0


async def _latest(api: Api, number: int) -> int:
    """Returns the newest minute; `number` chooses GraphQL by POST, REST, or GraphQL by GET."""
    match number % 3:
        case 0:
            ts = (await api.data(LATEST))["latest"]["ts"]
        case 1:
            async with api.session.get(f"{api.url}/prices/last?ticker=btc_usd") as response:
                ts = (await response.json())["ts"]
        case _:
            async with api.session.get(f"{api.url}/graphql", params={"query": LATEST}) as response:
                ts = (await response.json())["data"]["latest"]["ts"]
    return int(ts)


async def _reads_only_from(api: Api, server: str) -> bool:
    """Returns whether a request reads from this server and from no other."""
    previous = _read_count("replica"), _read_count("primary")
    await api.data("{ tickers { name ageS } }")
    increased = {"replica": _read_count("replica") > previous[0], "primary": _read_count("primary") > previous[1]}
    return [name for name, has_grown in increased.items() if has_grown] == [server]


async def _replay(pair: ReplicationPair, verb: str) -> None:
    connection = await asyncpg.connect(pair.replica.url)
    await connection.execute(f"SELECT pg_wal_replay_{verb}()")
    await connection.close()


async def test_responses_are_never_older_than_the_maximum_lag_and_cached_only_when_current(pair: ReplicationPair) -> None:
    async with _run_api_with_replica(pair) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        await wait_until(lambda: _is_latest(api, START_TS))
        await _replay(pair, "pause")
        await store(pair.db, [row("btc_usd", START_TS + 60)])
        stored_at = time.monotonic()
        stale_count = 0
        for number in itertools.count():
            requested_at = time.monotonic()
            if await _latest(api, number) == START_TS + 60:
                break
            assert requested_at < stored_at + MAX_LAG_S
            stale_count += 1
        assert stale_count, "no request read from the lagging replica"
        await wait_until(lambda: _reads_only_from(api, "primary"))
        for number in range(6):
            assert await _latest(api, number) == START_TS + 60
        await _replay(pair, "resume")
        await wait_until(lambda: _reads_only_from(api, "replica"))
        for number in range(6):
            assert await _latest(api, number) == START_TS + 60


async def _is_latest(api: Api, minute: int) -> bool:
    return await _latest(api, 0) == minute


async def test_requests_succeed_when_the_replica_is_killed(pair: ReplicationPair) -> None:
    async with _run_api_with_replica(pair, answer_cache_mb=0) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        pending = [asyncio.create_task(_request_until(api, START_TS + 60)) for _ in range(4)]
        await asyncio.sleep(0)
        pair.replica.process.kill()
        await wait_until(lambda: _reads_only_from(api, "primary"))
        await store(pair.db, [row("btc_usd", START_TS + 60)])
        assert await asyncio.gather(*pending)


async def _request_until(api: Api, minute: int) -> int:
    """Sends requests until one returns the minute; returns their count. Fails if a request fails."""
    for number in itertools.count():
        if await _latest(api, number) == minute:
            return number + 1
    raise AssertionError


async def test_a_response_of_several_statements_is_complete_when_the_replica_dies(pair: ReplicationPair) -> None:
    async with _run_api_with_replica(pair) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        writer = await asyncpg.connect(pair.primary.url)
        async with writer.transaction():
            await writer.execute("LOCK TABLE ticker")  # locks the table on the replica, too
            await wait_until(lambda: _reads_wait(pair, 0))
            pending = asyncio.create_task(api.data('{ a: ticker(name: "btc_usd") { name } b: tickers { name } }'))
            await wait_until(lambda: _reads_wait(pair, 2))
            pair.replica.process.kill()
        assert await pending == {"a": {"name": "btc_usd"}, "b": [{"name": "btc_usd"}]}
        await writer.close()


async def _reads_wait(pair: ReplicationPair, count: int) -> bool:
    """Returns whether `count` statements wait on the replica for the lock that it has replayed."""
    connection = await asyncpg.connect(pair.replica.url)
    lock_query = (
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'ticker'::regclass AND granted"
    )
    waiting_query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    found = await connection.fetchval(lock_query), await connection.fetchval(waiting_query)
    await connection.close()
    return found == (1, count)


async def test_the_replica_serves_reads_while_the_primary_is_down(pair: ReplicationPair, primary: Server) -> None:
    async with _run_api_with_replica(pair, answer_cache_mb=0, replica_behind_most_s=300) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        primary.process.kill()
        await asyncio.to_thread(primary.process.wait)
        for _ in range(10):
            assert await _latest(api, 0) == START_TS
            await asyncio.sleep(0.2)  # several checks of the lag


async def test_the_primary_serves_reads_until_the_replica_has_replayed_a_deletion(pair: ReplicationPair) -> None:
    async with _run_api_with_replica(pair) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        await store(pair.db, [row("btc_usd", START_TS + 60)])
        await wait_until(lambda: _is_latest(api, START_TS + 60))
        await _replay(pair, "pause")
        async with write_lock.write_transaction(pair.db) as connection:
            await connection.execute("DELETE FROM price WHERE ts = $1", START_TS)
        await wait_until(lambda: _reads_only_from(api, "primary"))
        assert (await api.data(f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 120}) {{ ts }} }}'))[
            "range"
        ] == [{"ts": START_TS + 60}]


async def test_the_primary_is_not_used_as_a_replica(primary: Server, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    async with run_api(Settings(database_url=primary.url, database_read_url=primary.url)) as api:
        await wait_until(lambda: "it follows no other server" in caplog.text)
        assert await _reads_only_from(api, "primary")


async def test_subscriptions_read_from_the_primary(pair: ReplicationPair) -> None:
    async with _run_api_with_replica(pair) as api:
        await wait_until(lambda: _reads_only_from(api, "replica"))
        await _replay(pair, "pause")
        async with subscribe(api, "subscription { priceAdded(after: 0) { ts } }") as subscriber:
            assert await subscriber.events(1) == [{"ts": START_TS}]
            await store(pair.db, [row("btc_usd", START_TS + 60)])
            assert await subscriber.events(1) == [{"ts": START_TS + 60}]


@contextlib.asynccontextmanager
async def _run_switching_proxy(first_url: str, second_url: str) -> AsyncIterator[str]:
    """Runs a proxy that forwards its first connection to one server and the others to a second one; yields its URL."""
    ports = itertools.chain([urlsplit(first_url).port], itertools.repeat(urlsplit(second_url).port))

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", next(ports))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pipe(upstream_reader, writer))
            tasks.create_task(pipe(reader, upstream_writer))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield first_url.replace(str(urlsplit(first_url).port), str(server.sockets[0].getsockname()[1]))


async def test_a_url_that_leads_to_several_servers_is_not_used_as_a_replica(
    pair: ReplicationPair, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        _run_switching_proxy(pair.replica.url, pair.primary.url) as url,
        run_api(Settings(database_url=pair.primary.url, database_read_url=url, answer_cache_mb=0)) as api,
    ):

        async def is_logged() -> bool:
            assert await _latest(api, 0) == START_TS
            return "it leads to more than one server" in caplog.text

        await wait_until(is_logged)


async def test_a_server_with_another_history_is_never_used_as_a_replica(primary: Server, dsn: str) -> None:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    async with (
        open_database(primary.url, application_name="tests") as db,
        open_database(dsn, application_name="tests") as other_db,
    ):
        await track(db, "btc_usd")
        await track(other_db, "btc_usd")
        await store(db, [row("btc_usd", START_TS)])
        await store(other_db, [row("btc_usd", START_TS + 60 * number, "7") for number in range(9)])
        async with run_api(Settings(database_url=primary.url, database_read_url=dsn)) as api:
            previous = _read_count("replica")
            for number in range(20):
                assert await _latest(api, number) == START_TS
                await asyncio.sleep(0.05)
            assert _read_count("replica") == previous
