"""The drill of a failover that loses commits: `make drill-failover` prints the figures."""

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import asyncpg
import pytest

from db import embedded, migrate
from db.errors import DatabaseError
from db.pool import Database, open_database
from tests import replicas
from tests.graph.stand import Stand, api_process
from tests.stored import row, store, track
from tests.waiting import until

pytestmark = pytest.mark.slow

TICKER = "btc_usd"
SUBSCRIBERS, READERS = 10, 4
LOST_AT_LEAST = 50
SUBSCRIBE = "subscription ($after: ID) { priceAdded(after: $after) { id ts price } }"
ALL = "SELECT id, ts, price::text AS price FROM price ORDER BY id"
PATIENCE_S = 5.0
"""How long a client waits for whatever comes next, before it comes again."""


@dataclass
class Switch:
    """The one address of a cluster: a TCP proxy that leads to one server, and later to another."""

    target: int
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Passes connections on as long as the block runs."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self._cut()

    def turn(self, target: int) -> None:
        """Leads elsewhere from now on, and cuts what led to the other one."""
        self.target = target
        self._cut()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, back}
            async with asyncio.TaskGroup() as both:
                both.create_task(pipe(reader, back))
                both.create_task(pipe(there, writer))
            self._writers -= {writer, back}
        writer.transport.abort()


@dataclass
class Subscriber:
    """Keeps a copy of what is stored, by the rules of docs/api.md."""

    stand: Stand
    copy: dict[int, tuple[int, str]] = field(default_factory=dict)
    """By id, minute and price."""
    dropped: int = 0
    told_at: float | None = None
    """When it was told that the history is another one, by the monotonic clock."""

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, TypeError):
                await self._listen()
            await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        async with self.stand.session.ws_connect(f"{self.stand.url}/graphql", protocols=("graphql-transport-ws",)) as socket:
            await socket.send_json({"type": "connection_init"})
            await socket.receive_json(timeout=PATIENCE_S)
            after = str(max(self.copy, default=0))
            payload = {"query": SUBSCRIBE, "variables": {"after": after}}
            await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
            while True:
                message = await socket.receive_json()
                if message["type"] == "next":
                    price = message["payload"]["data"]["priceAdded"]
                    assert int(price["id"]) not in self.copy, "no id is given twice"
                    self.copy[int(price["id"])] = (price["ts"], price["price"])
                elif message["type"] == "error":
                    self._obey(message["payload"][0]["extensions"])
                    return

    def _obey(self, extensions: dict[str, Any]) -> None:
        if extensions["code"] == "HISTORY_CHANGED":
            lost = [key for key in self.copy if key > int(extensions["resumeFrom"])]
            for key in lost:
                del self.copy[key]
            self.dropped += len(lost)
            self.told_at = self.told_at or time.monotonic()


@dataclass
class Reader:
    """Asks for the same again and again, with the tag of what it has."""

    stand: Stand
    path: str
    body: str = ""
    tag: str = ""
    unchanged: int = 0
    away: int = 0

    async def read(self) -> None:
        while True:
            await self.once()
            await asyncio.sleep(0.005)

    async def once(self) -> None:
        headers = {"If-None-Match": self.tag} if self.tag else {}
        try:
            async with self.stand.session.get(f"{self.stand.url}{self.path}", headers=headers) as response:
                if response.status == 200:
                    self.body, self.tag = await response.text(), response.headers["ETag"]
                self.unchanged += response.status == 304
                self.away += response.status == 503
                assert response.status in (200, 304, 503), await response.text()
        except aiohttp.ClientError:
            self.away += 1


async def _write(address: str) -> None:
    """A minute every 30 ms, on whichever server the address leads to, each with a price of its own."""
    prices = itertools.count(1)
    async with open_database(address, application_name="drill", max_connections=1, statement_timeout_s=2) as db:
        while True:
            with contextlib.suppress(DatabaseError):
                newest = await db.fetchval("SELECT max(ts) FROM price")
                await store(db, [row(TICKER, newest + 60, str(next(prices)))])
            await asyncio.sleep(0.03)


async def _stop_streaming(replica: asyncpg.Connection) -> None:
    await replica.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await replica.execute("SELECT pg_reload_conf()")

    async def stopped() -> bool:
        return not await replica.fetchval("SELECT count(*) FROM pg_stat_wal_receiver")

    await until(stopped)


async def test_a_replica_that_lacks_the_last_commits_is_promoted_under_subscribers_and_readers(tmp_path: Path) -> None:
    begin = (int(time.time()) - 30 * 86_400) // 60 * 60
    with contextlib.ExitStack() as servers:
        primary = servers.enter_context(embedded.postgres(tmp_path / "primary"))
        await asyncio.to_thread(migrate.upgrade, primary.url)
        async with open_database(primary.url, application_name="drill") as db:
            await track(db, TICKER, since=begin)
            await store(db, [row(TICKER, begin)])
        replicas.copied(primary, tmp_path)
        replica = servers.enter_context(replicas.following(tmp_path))
        switch = Switch(_port(primary.url))
        async with switch.serving(), contextlib.AsyncExitStack() as stack:
            address = primary.url.replace(f":{_port(primary.url)}/", f":{switch.port}/")
            stand = await stack.enter_async_context(api_process(address, tmp_path, MAX_SOCKETS_PER_CLIENT="100"))
            followers = [Subscriber(stand) for _ in range(SUBSCRIBERS)]
            window = f'ticker: "{TICKER}", from: {begin}, to: {begin + 86_400}'
            questions = [f'{{ latest(ticker: "{TICKER}") {{ ts price }} }}', f"{{ range({window}) {{ ts price }} }}"]
            paths = [f"/graphql?{urlencode({'query': question})}" for question in questions]
            readers = [Reader(stand, path) for path, _ in zip(itertools.cycle(paths), range(READERS), strict=False)]
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(_write(address))
                others = [
                    *(tasks.create_task(one.follow()) for one in followers),
                    *(tasks.create_task(one.read()) for one in readers),
                ]
                await until(lambda: all(len(one.copy) > 50 for one in followers))
                standby = await asyncpg.connect(replica.url)
                await _stop_streaming(standby)
                held = max(followers[0].copy)
                await until(lambda: all(len([key for key in one.copy if key > held]) > LOST_AT_LEAST + 10 for one in followers))
                async with open_database(primary.url, application_name="drill") as db:
                    before = await _rows(db)
                primary.process.send_signal(signal.SIGKILL)
                failed_at = time.monotonic()
                await standby.execute("SELECT pg_promote()")
                await standby.close()
                switch.turn(_port(replica.url))
                await until(lambda: all(one.told_at is not None for one in followers), patience_s=60)
                async with open_database(replica.url, application_name="drill") as db:
                    count = len(await _rows(db))

                    async def grown() -> bool:
                        return len(await _rows(db)) > count + 100

                    await until(grown)
                    writing.cancel()
                    now = await _rows(db)
                await until(lambda: all(one.copy == now for one in followers), otherwise=lambda: _differences(followers, now))
                for one in others:
                    one.cancel()
            await _account(before, now, followers, readers, failed_at)


async def _account(
    before: dict[int, tuple[int, str]],
    now: dict[int, tuple[int, str]],
    followers: list[Subscriber],
    readers: list[Reader],
    failed_at: float,
) -> None:
    """What was lost was lost for everybody: nobody holds a row of it, or an answer."""
    lost = {key for key, value in before.items() if now.get(key) != value}
    assert len(lost) > LOST_AT_LEAST
    assert not lost & set(now), "no id of a lost commit is given again"
    assert min(one.dropped for one in followers) > LOST_AT_LEAST
    for reader in readers:
        fresh = Reader(reader.stand, reader.path)
        await reader.once()
        await fresh.once()
        assert reader.body == fresh.body, "a tag of the lost history is valid for nothing"
    since, slowest_s = len(now) - len(before) + len(lost), max(one.told_at or 0 for one in followers) - failed_at
    unchanged, away = sum(one.unchanged for one in readers), sum(one.away for one in readers)
    print(f"\n{len(before):,} commits, of which the promoted replica lacks {len(lost):,}; {since:,} since")
    print(f"all {SUBSCRIBERS} subscribers were told after {slowest_s:.1f} s; each holds the {len(now):,} rows of the table")
    print(f"of the answers {unchanged:,} were 304 and {away:,} were 503 or none; each tag gives what is stored")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def _rows(db: Database) -> dict[int, tuple[int, str]]:
    return {one["id"]: (one["ts"], one["price"]) for one in await db.fetch(ALL)}


def _differences(followers: list[Subscriber], now: dict[int, tuple[int, str]]) -> str:
    return str([(len(one.copy), sorted(one.copy.items() ^ now.items())[:6]) for one in followers if one.copy != now][:3])
