"""Whoever listens and comes back with its last id was told everything once and in order, whatever broke in between."""

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

from db import embedded, migrate
from db.errors import DatabaseError
from db.pool import open_database
from tests.conftest import ROOT
from tests.e2e.conftest import free_port
from tests.graph.test_live import END_LISTENERS
from tests.stored import MINUTE, row, store, track
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

CUT_EVERY = 10_001
"""Bytes: somewhere in a message."""
SUBSCRIBE = "subscription ($after: ID) { priceAdded(after: $after) { id ticker ts } }"


@dataclass
class Follower:
    """A client that listens through whatever there is, and comes back."""

    port: int
    told: list[tuple[int, str, int]] = field(default_factory=list)
    cuts: int = 0

    async def follow(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError, TypeError):
                    await self._listen(session)
                self.cuts += 1
                await asyncio.sleep(0.05)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        after = str(self.told[-1][0]) if self.told else "0"
        address = f"http://127.0.0.1:{self.port}/graphql"
        async with session.ws_connect(address, protocols=("graphql-transport-ws",), heartbeat=2) as socket:
            await socket.send_json({"type": "connection_init"})
            payload = {"query": SUBSCRIBE, "variables": {"after": after}}
            await socket.receive_json(timeout=PATIENCE_S)
            await socket.send_json({"type": "subscribe", "id": "1", "payload": payload})
            while (message := await socket.receive_json(timeout=PATIENCE_S))["type"] == "next":
                price = message["payload"]["data"]["priceAdded"]
                self.told.append((int(price["id"]), price["ticker"], price["ts"]))


@contextlib.asynccontextmanager
async def _cutting(port: int) -> AsyncIterator[int]:
    """A proxy that cuts each connection after some bytes of answers; its port."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int) -> None:
        with contextlib.suppress(OSError):
            while most > 0 and (data := await reader.read(min(most, 1_000))):
                writer.write(data)
                await writer.drain()
                most -= len(data)
        writer.transport.abort()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(pipe(there, writer, CUT_EVERY))
                tasks.create_task(pipe(reader, back, 10**9))
        writer.transport.abort()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.asynccontextmanager
async def _api(url: str, port: int) -> AsyncIterator[psutil.Process]:
    env = os.environ | {"DATABASE_URL": url, "PORT": str(port), "LOG_LEVEL": "ERROR", "REDIS_URL": ""}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "graph", "serve", cwd=ROOT, env=env)
    try:
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_nothing_is_lost_twice_or_out_of_order_whatever_breaks(tmp_path: Path) -> None:
    port = free_port()
    names = [f"t{number}_usd" for number in range(20)]
    with contextlib.ExitStack() as running:
        server = running.enter_context(embedded.postgres(tmp_path / "postgres", durable=False, port=(database := free_port())))
        await asyncio.to_thread(migrate.upgrade, server.url)
        async with open_database(server.url, application_name="writer") as db, _cutting(port) as cutting:
            await track(db, *names)
            stored = 0

            async def write() -> None:
                nonlocal stored
                while True:
                    with contextlib.suppress(DatabaseError):
                        await store(db, [row(name, MINUTE + 60 * stored) for name in names])
                        stored += 1
                    await asyncio.sleep(0.05)

            straight, cut = Follower(port), Follower(cutting)
            writing, *following = [asyncio.create_task(one) for one in (write(), straight.follow(), cut.follow())]

            async def goes_on() -> None:
                before = len(straight.told), len(cut.told)
                await until(lambda: len(straight.told) > before[0] + 200 and len(cut.told) > before[1] + 200)

            async with _api(server.url, port):
                await goes_on()
                for _ in range(3):
                    await until(lambda: db.fetchval(END_LISTENERS))
                    await goes_on()
            async with _api(server.url, port) as api:
                await goes_on()
                api.send_signal(signal.SIGTERM)
            async with _api(server.url, port):
                await goes_on()
                running.close()  # PostgreSQL is stopped, and started again
                again = embedded.postgres(tmp_path / "postgres", durable=False, port=database)
                assert running.enter_context(again).url == server.url
                await goes_on()
                writing.cancel()
                await asyncio.wait([writing])
                rows = await db.fetch("SELECT id, ticker, ts FROM price ORDER BY id")
                expected = [(one["id"], one["ticker"], one["ts"]) for one in rows]
                await until(lambda: len(straight.told) >= len(expected) and len(cut.told) >= len(expected))
            for one in following:
                one.cancel()
            await asyncio.wait(following)
    assert straight.told == expected
    assert cut.told == expected
    assert cut.cuts > 20
