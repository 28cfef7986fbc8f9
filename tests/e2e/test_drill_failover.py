"""The drill of a failover that loses commits: `make drill-failover` prints the figures."""

import asyncio
import contextlib
import itertools
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import asyncpg
import pytest

from db import migrate
from db.errors import DatabaseError
from db.pool import Database, open_database
from db.runtime import embedded
from tests import replicas
from tests.graph.api_server import ApiProcess, run_api_process
from tests.proxy import TcpProxy
from tests.sample_data import row, store, track
from tests.wait import wait_until

pytestmark = pytest.mark.slow

TICKER = "btc_usd"
SUBSCRIBER_COUNT, READER_COUNT = 10, 4
MIN_LOST_COMMITS = 50
SUBSCRIBE = "subscription ($after: ID) { priceAdded(after: $after) { id ts price } }"
STORED_PRICES = "SELECT id, ts, price::text AS price FROM price ORDER BY id"
RECEIVE_TIMEOUT_S = 5.0
"""Seconds a client waits for the next message before it reconnects."""


@dataclass
class MirroringSubscriber:
    """Maintains a copy of the stored prices, by the documented rules for subscribers."""

    stand: ApiProcess
    copy: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Minute and price, by id."""
    dropped_count: int = 0
    history_changed_at: float | None = None
    """When HISTORY_CHANGED arrived, by the monotonic clock."""

    async def follow(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, TypeError):
                await self._listen()
            await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        async with self.stand.session.ws_connect(f"{self.stand.url}/graphql", protocols=("graphql-transport-ws",)) as socket:
            await socket.send_json({"type": "connection_init"})
            await socket.receive_json(timeout=RECEIVE_TIMEOUT_S)
            after = str(max(self.copy, default=0))
            payload = {"query": SUBSCRIBE, "variables": {"after": after}}
            await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
            while True:
                message = await socket.receive_json()
                if message["type"] == "next":
                    price = message["payload"]["data"]["priceAdded"]
                    assert int(price["id"]) not in self.copy, "each id is delivered once"
                    self.copy[int(price["id"])] = (price["ts"], price["price"])
                elif message["type"] == "error":
                    self._handle_error(message["payload"][0]["extensions"])
                    return

    def _handle_error(self, extensions: dict[str, Any]) -> None:
        if extensions["code"] == "HISTORY_CHANGED":
            lost = [key for key in self.copy if key > int(extensions["resumeFrom"])]
            for key in lost:
                del self.copy[key]
            self.dropped_count += len(lost)
            self.history_changed_at = self.history_changed_at or time.monotonic()


@dataclass
class Reader:
    """Repeats a request with the ETag of its last response."""

    stand: ApiProcess
    path: str
    body: str = ""
    etag: str = ""
    not_modified_count: int = 0
    unavailable_count: int = 0

    async def read(self) -> None:
        while True:
            await self.read_once()
            await asyncio.sleep(0.005)

    async def read_once(self) -> None:
        headers = {"If-None-Match": self.etag} if self.etag else {}
        try:
            async with self.stand.session.get(f"{self.stand.url}{self.path}", headers=headers) as response:
                body = await response.text()
                assert response.status in (200, 304, 503, 504), body
                # The server may be killed between the statements of one request: GraphQL reports that in the body.
                is_unavailable = response.status in (503, 504) or '"code":"UNAVAILABLE"' in body
                if response.status == 200 and not is_unavailable:
                    self.body, self.etag = body, response.headers["ETag"]
                self.not_modified_count += response.status == 304
                self.unavailable_count += is_unavailable
        except (aiohttp.ClientError, TimeoutError):
            self.unavailable_count += 1


async def _write(address: str, is_done: asyncio.Event) -> None:
    """Stores a minute every 30 ms through the proxy, each with a different price, until `is_done`."""
    prices = itertools.count(1)
    async with open_database(address, application_name="drill", max_connections=1, statement_timeout_s=2) as db:
        while not is_done.is_set():
            with contextlib.suppress(DatabaseError):
                newest = await db.fetchval("SELECT max(ts) FROM price")
                await store(db, [row(TICKER, newest + 60, str(next(prices)))])
            await asyncio.sleep(0.03)


async def _stop_streaming(replica: asyncpg.Connection) -> None:
    await replica.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await replica.execute("SELECT pg_reload_conf()")

    async def is_stopped() -> bool:
        return not await replica.fetchval("SELECT count(*) FROM pg_stat_wal_receiver")

    await wait_until(is_stopped)


async def test_a_replica_that_lacks_the_last_commits_is_promoted_under_subscribers_and_readers(tmp_path: Path) -> None:
    begin = (int(time.time()) - 30 * 86_400) // 60 * 60
    with contextlib.ExitStack() as servers:
        primary = servers.enter_context(embedded.postgres(tmp_path / "primary"))
        await asyncio.to_thread(migrate.upgrade, primary.url)
        async with open_database(primary.url, application_name="drill") as db:
            await track(db, TICKER, since=begin)
            await store(db, [row(TICKER, begin)])
        replicas.copy_primary(primary, tmp_path)
        replica = servers.enter_context(replicas.run_replica(tmp_path))
        proxy = TcpProxy(_port(primary.url))
        async with proxy.serve(), contextlib.AsyncExitStack() as stack:
            address = primary.url.replace(f":{_port(primary.url)}/", f":{proxy.port}/")
            stand = await stack.enter_async_context(run_api_process(address, tmp_path, MAX_SOCKETS_PER_CLIENT="100"))
            subscribers = [MirroringSubscriber(stand) for _ in range(SUBSCRIBER_COUNT)]
            window = f'ticker: "{TICKER}", from: {begin}, to: {begin + 86_400}'
            queries = [f'{{ latest(ticker: "{TICKER}") {{ ts price }} }}', f"{{ range({window}) {{ ts price }} }}"]
            paths = [f"/graphql?{urlencode({'query': query})}" for query in queries]
            readers = [Reader(stand, path) for path, _ in zip(itertools.cycle(paths), range(READER_COUNT), strict=False)]
            is_done = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                writer_task = tasks.create_task(_write(address, is_done))
                client_tasks = [
                    *(tasks.create_task(one.follow()) for one in subscribers),
                    *(tasks.create_task(one.read()) for one in readers),
                ]
                await wait_until(lambda: all(len(one.copy) > 50 for one in subscribers))
                standby = await asyncpg.connect(replica.url)
                await _stop_streaming(standby)
                last_replicated_id = max(subscribers[0].copy)
                await wait_until(
                    lambda: all(
                        len([key for key in one.copy if key > last_replicated_id]) > MIN_LOST_COMMITS + 10
                        for one in subscribers
                    )
                )
                async with open_database(primary.url, application_name="drill") as db:
                    old_rows = await _rows(db)
                primary.process.send_signal(signal.SIGKILL)
                failed_at = time.monotonic()
                await standby.execute("SELECT pg_promote()")
                await standby.close()
                proxy.switch_to(_port(replica.url))
                await wait_until(lambda: all(one.history_changed_at is not None for one in subscribers))
                async with open_database(replica.url, application_name="drill") as db:
                    count = len(await _rows(db))

                    async def has_grown() -> bool:
                        return len(await _rows(db)) > count + 100

                    await wait_until(has_grown)
                    is_done.set()
                    await writer_task
                    new_rows = await _rows(db)
                await wait_until(
                    lambda: all(one.copy == new_rows for one in subscribers),
                    describe_state=lambda: _differences(subscribers, new_rows),
                )
                for task in client_tasks:
                    task.cancel()
            await _check_results(old_rows, new_rows, subscribers, readers, failed_at)


async def _check_results(
    old_rows: dict[int, tuple[int, str]],
    new_rows: dict[int, tuple[int, str]],
    subscribers: list[MirroringSubscriber],
    readers: list[Reader],
    failed_at: float,
) -> None:
    """Checks that no subscriber and no cached response contains a lost row."""
    lost = {key for key, value in old_rows.items() if new_rows.get(key) != value}
    assert len(lost) > MIN_LOST_COMMITS
    assert not lost & set(new_rows), "no id of a lost commit is reused"
    assert min(one.dropped_count for one in subscribers) > MIN_LOST_COMMITS
    for reader in readers:
        fresh_reader = Reader(reader.stand, reader.path)
        await reader.read_once()
        await fresh_reader.read_once()
        assert reader.body == fresh_reader.body, "an ETag of the lost history is not accepted"
    new_commit_count, slowest_s = (
        len(new_rows) - len(old_rows) + len(lost),
        max(one.history_changed_at or 0 for one in subscribers) - failed_at,
    )
    not_modified_count, unavailable_count = (
        sum(one.not_modified_count for one in readers),
        sum(one.unavailable_count for one in readers),
    )
    print(f"\n{len(old_rows):,} commits before the failover, {len(lost):,} of them lost; {new_commit_count:,} commits after it")
    print(
        f"all {SUBSCRIBER_COUNT} subscribers had HISTORY_CHANGED within {slowest_s:.1f} s; each has all {len(new_rows):,} rows"
    )
    print(f"of the responses {not_modified_count:,} were 304 and {unavailable_count:,} were 503 or failed; each ETag is valid")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def _rows(db: Database) -> dict[int, tuple[int, str]]:
    return {one["id"]: (one["ts"], one["price"]) for one in await db.fetch(STORED_PRICES)}


def _differences(subscribers: list[MirroringSubscriber], new_rows: dict[int, tuple[int, str]]) -> str:
    return str(
        [(len(one.copy), sorted(one.copy.items() ^ new_rows.items())[:6]) for one in subscribers if one.copy != new_rows][:3]
    )
