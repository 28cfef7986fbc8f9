"""Answers read from a real streaming replica: never too old, never kept where they lack something, and never missing."""

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

from db import embedded, migrate
from db.embedded import Server
from db.pool import Database, open_database
from db.queries import write_lock
from graph.settings import Settings
from tests import replicas
from tests.graph.conftest import Api, serving
from tests.graph.test_live import listening
from tests.stored import MINUTE, row, store, track
from tests.waiting import until

pytestmark = pytest.mark.slow

BEHIND_MOST_S = 4.0
LATEST = '{ latest(ticker: "btc_usd") { ts } }'


@dataclass(frozen=True)
class Pair:
    """A primary that somebody writes to, and its replica."""

    primary: Server
    replica: Server
    db: Database


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Server]:
    with embedded.postgres(tmp_path / "primary", durable=False) as server:
        yield server


@pytest.fixture
async def pair(primary: Server, tmp_path: Path) -> AsyncIterator[Pair]:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    await asyncio.to_thread(replicas.copied, primary, tmp_path)
    with replicas.following(tmp_path) as replica:
        async with open_database(primary.url, application_name="tests") as db:
            await track(db, "btc_usd")
            await store(db, [row("btc_usd", MINUTE)])
            yield Pair(primary, replica, db)


def _reading(pair: Pair, **settings: Any) -> contextlib.AbstractAsyncContextManager[Api]:
    urls: Any = {"database_url": pair.primary.url, "database_read_url": pair.replica.url}
    return serving(Settings(**{"replica_behind_most_s": BEHIND_MOST_S, **urls, **settings}))


def _read_by(server: str) -> float:
    return REGISTRY.get_sample_value("tickgraph_reads_by_server_total", {"server": server}) or 0.0


async def _latest(api: Api, number: int) -> int:
    """The newest minute, asked for in another way each time."""
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


async def _is_read(api: Api, server: str) -> bool:
    """Whether an answer is read there and nowhere else."""
    before = _read_by("replica"), _read_by("primary")
    await api.data("{ tickers { name ageS } }")
    grown = {"replica": _read_by("replica") > before[0], "primary": _read_by("primary") > before[1]}
    return [name for name, has_grown in grown.items() if has_grown] == [server]


async def _replay(pair: Pair, verb: str) -> None:
    connection = await asyncpg.connect(pair.replica.url)
    await connection.execute(f"SELECT pg_wal_replay_{verb}()")
    await connection.close()


async def test_an_answer_is_never_older_than_the_bound_and_is_kept_only_where_it_lacks_nothing(pair: Pair) -> None:
    async with _reading(pair) as api:
        await until(lambda: _is_read(api, "replica"))
        await until(lambda: _is(api, MINUTE))
        await _replay(pair, "pause")
        await store(pair.db, [row("btc_usd", MINUTE + 60)])
        stored_at = time.monotonic()
        old = 0
        for number in itertools.count():
            asked_at = time.monotonic()
            if await _latest(api, number) == MINUTE + 60:
                break
            assert asked_at < stored_at + BEHIND_MOST_S
            old += 1
        assert old, "the replica is behind, and is read"
        await until(lambda: _is_read(api, "primary"))
        for number in range(6):
            assert await _latest(api, number) == MINUTE + 60
        await _replay(pair, "resume")
        await until(lambda: _is_read(api, "replica"))
        for number in range(6):
            assert await _latest(api, number) == MINUTE + 60


async def _is(api: Api, minute: int) -> bool:
    return await _latest(api, 0) == minute


async def test_a_replica_that_is_killed_is_not_missed(pair: Pair) -> None:
    async with _reading(pair, answer_cache_mb=0) as api:
        await until(lambda: _is_read(api, "replica"))
        asking = [asyncio.create_task(_ask_until(api, MINUTE + 60)) for _ in range(4)]
        await asyncio.sleep(0)
        pair.replica.process.kill()
        await until(lambda: _is_read(api, "primary"))
        await store(pair.db, [row("btc_usd", MINUTE + 60)])
        assert await asyncio.gather(*asking)


async def _ask_until(api: Api, minute: int) -> int:
    """Fails where a question gets no answer; how many there were."""
    for number in itertools.count():
        if await _latest(api, number) == minute:
            return number + 1
    raise AssertionError


async def test_an_answer_of_several_statements_is_whole_when_the_replica_dies(pair: Pair) -> None:
    async with _reading(pair) as api:
        await until(lambda: _is_read(api, "replica"))
        writer = await asyncpg.connect(pair.primary.url)
        async with writer.transaction():
            await writer.execute("LOCK TABLE ticker")  # the replica's is locked with it
            await until(lambda: _reads_wait(pair, 0))
            asking = asyncio.create_task(api.data('{ a: ticker(name: "btc_usd") { name } b: tickers { name } }'))
            await until(lambda: _reads_wait(pair, 2))
            pair.replica.process.kill()
        assert await asking == {"a": {"name": "btc_usd"}, "b": [{"name": "btc_usd"}]}
        await writer.close()


async def _reads_wait(pair: Pair, count: int) -> bool:
    """Whether so many statements wait on the replica for a lock that it has heard of."""
    connection = await asyncpg.connect(pair.replica.url)
    held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'ticker'::regclass AND granted"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    found = await connection.fetchval(held), await connection.fetchval(waiting)
    await connection.close()
    return found == (1, count)


async def test_while_the_primary_is_away_answers_go_on_until_the_bound(pair: Pair, primary: Server) -> None:
    async with _reading(pair, answer_cache_mb=0, replica_behind_most_s=300) as api:
        await until(lambda: _is_read(api, "replica"))
        primary.process.kill()
        await asyncio.to_thread(primary.process.wait)
        for _ in range(10):
            assert await _latest(api, 0) == MINUTE
            await asyncio.sleep(0.2)  # some looks


async def test_what_is_forgotten_without_a_new_id_is_waited_for(pair: Pair) -> None:
    async with _reading(pair) as api:
        await until(lambda: _is_read(api, "replica"))
        await store(pair.db, [row("btc_usd", MINUTE + 60)])
        await until(lambda: _is(api, MINUTE + 60))
        await _replay(pair, "pause")
        async with write_lock.write_transaction(pair.db) as connection:
            await connection.execute("DELETE FROM price WHERE ts = $1", MINUTE)
        await until(lambda: _is_read(api, "primary"))
        assert (await api.data(f'{{ range(ticker: "btc_usd", from: {MINUTE}, to: {MINUTE + 120}) {{ ts }} }}'))["range"] == [
            {"ts": MINUTE + 60}
        ]


async def test_the_primary_is_no_replica(primary: Server, caplog: pytest.LogCaptureFixture) -> None:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    async with serving(Settings(database_url=primary.url, database_read_url=primary.url)) as api:
        await until(lambda: "it follows no other server" in caplog.text)
        assert await _is_read(api, "primary")


async def test_subscriptions_are_told_by_the_primary(pair: Pair) -> None:
    async with _reading(pair) as api:
        await until(lambda: _is_read(api, "replica"))
        await _replay(pair, "pause")
        async with listening(api, "subscription { priceAdded(after: 0) { ts } }") as told:
            assert await told.events(1) == [{"ts": MINUTE}]
            await store(pair.db, [row("btc_usd", MINUTE + 60)])
            assert await told.events(1) == [{"ts": MINUTE + 60}]


@contextlib.asynccontextmanager
async def _first_to_one_then_to_another(one: str, other: str) -> AsyncIterator[str]:
    """The address of a proxy that passes its first connection on to one server, and the others to another."""
    ports = itertools.chain([urlsplit(one).port], itertools.repeat(urlsplit(other).port))

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(ports))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pipe(there, writer))
            tasks.create_task(pipe(reader, back))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
        yield one.replace(str(urlsplit(one).port), str(server.sockets[0].getsockname()[1]))


async def test_several_servers_behind_one_address_are_not_read(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        _first_to_one_then_to_another(pair.replica.url, pair.primary.url) as url,
        serving(Settings(database_url=pair.primary.url, database_read_url=url, answer_cache_mb=0)) as api,
    ):

        async def is_told() -> bool:
            assert await _latest(api, 0) == MINUTE
            return "it leads to more than one server" in caplog.text

        await until(is_told)


async def test_a_server_of_another_history_is_never_read(primary: Server, dsn: str) -> None:
    await asyncio.to_thread(migrate.upgrade, primary.url)
    async with (
        open_database(primary.url, application_name="tests") as db,
        open_database(dsn, application_name="tests") as other,
    ):
        await track(db, "btc_usd")
        await track(other, "btc_usd")
        await store(db, [row("btc_usd", MINUTE)])
        await store(other, [row("btc_usd", MINUTE + 60 * number, "7") for number in range(9)])
        async with serving(Settings(database_url=primary.url, database_read_url=dsn)) as api:
            before = _read_by("replica")
            for number in range(20):
                assert await _latest(api, number) == MINUTE
                await asyncio.sleep(0.05)
            assert _read_by("replica") == before
