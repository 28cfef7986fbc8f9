"""A subscriber that resumes with its last id receives every event once and in order, whatever fails in between."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import pytest

from db import migrate
from db.errors import DatabaseError
from db.pool import open_database
from db.runtime import embedded
from db.runtime.embedded import free_port
from tests.conftest import ROOT
from tests.graph.subscriptions import TERMINATE_COMMIT_LISTENERS
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow

CUT_AFTER_BYTES = 10_001
"""A number of bytes that ends inside a message."""
SUBSCRIBE = "subscription ($after: ID) { priceAdded(after: $after) { id ticker ts } }"


@dataclass
class ResumingClient:
    """A client that reconnects after every failure and resumes with its last id."""

    port: int
    received: list[tuple[int, str, int]] = field(default_factory=list)
    reconnect_count: int = 0

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError, TypeError):
                    await self._listen(session)
                self.reconnect_count += 1
                await asyncio.sleep(0.05)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        after = str(self.received[-1][0]) if self.received else "0"
        address = f"http://127.0.0.1:{self.port}/graphql"
        async with session.ws_connect(address, protocols=("graphql-transport-ws",), heartbeat=2) as socket:
            await socket.send_json({"type": "connection_init"})
            payload = {"query": SUBSCRIBE, "variables": {"after": after}}
            await socket.receive_json(timeout=WAIT_TIMEOUT_S)
            await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
            while (message := await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "next":
                price = message["payload"]["data"]["priceAdded"]
                self.received.append((int(price["id"]), price["ticker"], price["ts"]))


@contextlib.asynccontextmanager
async def _run_cutting_proxy(port: int) -> AsyncIterator[int]:
    """Runs a proxy that cuts each connection after CUT_AFTER_BYTES of responses; yields its port."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int) -> None:
        with contextlib.suppress(OSError):
            while max_bytes > 0 and (data := await reader.read(min(max_bytes, 1_000))):
                writer.write(data)
                await writer.drain()
                max_bytes -= len(data)
        writer.transport.abort()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pipe(upstream_reader, writer, CUT_AFTER_BYTES))
                tasks.create_task(pipe(reader, upstream_writer, 10**9))
        writer.transport.abort()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def _run_api(url: str, port: int) -> AsyncIterator[psutil.Process]:
    env = os.environ | {"DATABASE_URL": url, "PORT": str(port), "LOG_LEVEL": "ERROR", "REDIS_URL": ""}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "graph", "serve", cwd=ROOT, env=env)
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_every_event_arrives_once_and_in_order_through_failures(tmp_path: Path) -> None:
    port = free_port()
    names = [f"t{number}_usd" for number in range(20)]
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(
            embedded.postgres(tmp_path / "postgres", durable=False, port=(database_port := free_port()))
        )
        await asyncio.to_thread(migrate.upgrade, server.url)
        async with open_database(server.url, application_name="writer") as db, _run_cutting_proxy(port) as proxy_port:
            await track(db, *names)
            stored_minutes = 0

            async def write() -> None:
                nonlocal stored_minutes
                while True:
                    with contextlib.suppress(DatabaseError):
                        await store(db, [row(name, START_TS + 60 * stored_minutes) for name in names])
                        stored_minutes += 1
                    await asyncio.sleep(0.05)

            direct, proxied = ResumingClient(port), ResumingClient(proxy_port)
            write_task, *client_tasks = [asyncio.create_task(one) for one in (write(), direct.run(), proxied.run())]

            async def wait_for_events() -> None:
                previous = len(direct.received), len(proxied.received)
                await wait_until(lambda: len(direct.received) > previous[0] + 200 and len(proxied.received) > previous[1] + 200)

            async with _run_api(server.url, port):
                await wait_for_events()
                for _ in range(3):
                    await wait_until(lambda: db.fetchval(TERMINATE_COMMIT_LISTENERS))
                    await wait_for_events()
            async with _run_api(server.url, port) as api:
                await wait_for_events()
                api.send_signal(signal.SIGTERM)
            async with _run_api(server.url, port):
                await wait_for_events()
                servers.close()  # stops PostgreSQL
                restarted = embedded.postgres(tmp_path / "postgres", durable=False, port=database_port)
                assert servers.enter_context(restarted).url == server.url
                await wait_for_events()
                write_task.cancel()
                await asyncio.wait([write_task])
                rows = await db.fetch("SELECT id, ticker, ts FROM price ORDER BY id")
                expected = [(one["id"], one["ticker"], one["ts"]) for one in rows]
                await wait_until(lambda: len(direct.received) >= len(expected) and len(proxied.received) >= len(expected))
            for task in client_tasks:
                task.cancel()
            await asyncio.wait(client_tasks)
    assert direct.received == expected
    assert proxied.received == expected
    assert proxied.reconnect_count > 20
