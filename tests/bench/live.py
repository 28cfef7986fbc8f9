"""How fast a stored price reaches those who subscribed, what each of them costs, and what others notice of it.

python -m tests.bench.live                             # 100, 1,000 and 5,000 subscribers, and plain Strawberry beside them
python -m tests.bench.live --subscribers 5000 --seconds 60
"""

import argparse
import asyncio
import base64
import concurrent.futures
import multiprocessing
import os
import resource
import secrets
import statistics
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncpg
import orjson
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from db import embedded, migrate
from tests.bench.load import Question, get, graphql, load
from tests.bench.serving import serving
from tests.e2e.conftest import free_port

MINUTE = 1_700_000_040
QUERY = "subscription { priceAdded { ticker ts price } }"
OPENED_AT_ONCE = 50

_HANDSHAKE = (
    "GET /graphql HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: graphql-transport-ws\r\nSec-WebSocket-Key: {}\r\n\r\n"
)
_TEXT, _PING, _PONG = 0x81, 0x89, 0x8A

STORE = """
INSERT INTO price (ticker, ts, price, source)
VALUES ('btc_usd', $1, trim_scale(round((60000 + random() * 100)::numeric, 2)), 'LIVE')
"""


def _frame(kind: int, payload: bytes) -> bytes:
    """A client's frame, masked with nothing."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + struct.pack("!H", len(payload))
    return bytes([kind]) + size + b"\0\0\0\0" + payload


class _Subscriber(asyncio.Protocol):
    """Notes when each event came, by the instant its minute stands for, and costs little itself."""

    def __init__(self, came: list[tuple[int, float]]) -> None:
        self._came = came
        self._data = b""
        self._is_upgraded = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(_HANDSHAKE.format(base64.b64encode(secrets.token_bytes(16)).decode()).encode())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._data += data
        if not self._is_upgraded:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._is_upgraded, self._data = True, rest
            self._transport.write(_frame(_TEXT, b'{"type":"connection_init"}'))
        while len(self._data) > 1:
            size, start = self._data[1], 2
            if size == 126:
                size, start = struct.unpack("!H", self._data[2:4])[0], 4
            if len(self._data) < start + size:
                return
            self._take(self._data[0], self._data[start : start + size], now)
            self._data = self._data[start + size :]

    def _take(self, kind: int, payload: bytes, now: float) -> None:
        if kind == _PING:
            self._transport.write(_frame(_PONG, payload))
        elif b'"next"' in payload:
            self._came.append((int(payload.partition(b'"ts":')[2].partition(b",")[0]), now))
        elif b"connection_ack" in payload:
            asked = {"type": "subscribe", "id": "1", "payload": {"query": QUERY}}
            self._transport.write(_frame(_TEXT, orjson.dumps(asked)))
            self.ready.set_result(None)
        else:
            raise AssertionError((kind, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed"))


async def _listen(port: int, count: int, ready: threading.Event, done: threading.Event) -> list[tuple[int, float]]:
    came: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()
    for start in range(0, count, OPENED_AT_ONCE):
        made = [
            await loop.create_connection(lambda: _Subscriber(came), "127.0.0.1", port)
            for _ in range(min(OPENED_AT_ONCE, count - start))
        ]
        await asyncio.gather(*(protocol.ready for _, protocol in made))
    ready.set()
    await asyncio.to_thread(done.wait)
    return came


def listen(port: int, count: int, ready: threading.Event, done: threading.Event) -> list[tuple[int, float]]:
    """Subscribes so often; once it is `done`, which events came and when."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return uvloop.run(_listen(port, count, ready, done))


@dataclass(frozen=True)
class Delivered:
    """What one run saw."""

    times: list[float]
    """Seconds from commit to each delivery, ascending."""
    expected: int
    cpu: float
    """Of one core."""
    kb_each: float
    beside: float
    """Milliseconds: p99 of `latest` meanwhile."""

    def quantile(self, part: float) -> str:
        """Milliseconds."""
        return f"{1000 * self.times[min(len(self.times) - 1, int(part * len(self.times)))]:.0f}" if self.times else "none"


async def _store(url: str, begin: int, seconds: int) -> dict[int, float]:
    """An event a second; when each was committed."""
    committed = {}
    connection = await asyncpg.connect(url)
    for number in range(seconds):
        ts = begin + 60 * number
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(STORE, ts)
        committed[ts] = time.monotonic()
        await transaction.commit()
        await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - committed[ts])))
    await connection.close()
    return committed


def run(url: str, port: int, process: psutil.Process, count: int, seconds: int, small: Question, begin: int) -> Delivered:
    """So many subscribers for so many seconds."""
    before = process.memory_info().rss
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        ready, done = manager.Event(), manager.Event()
        listening = pool.submit(listen, port, count, ready, done)
        while not ready.wait(0.1):
            if listening.done():
                listening.result()
        time.sleep(1)
        used = process.cpu_times()
        beside = pool.submit(_gently, small, float(seconds))
        committed = asyncio.run(_store(url, begin, seconds))
        after = process.cpu_times()
        time.sleep(2)
        memory = process.memory_info().rss
        done.set()
        came = listening.result()
    times = sorted(now - committed[ts] for ts, now in came)
    return Delivered(
        times,
        count * seconds,
        (after.user + after.system - used.user - used.system) / seconds,
        (memory - before) / 1024 / count,
        beside.result(),
    )


def _gently(question: Question, seconds: float) -> float:
    """p99 of a client that asks some ten times a second."""
    taken, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        taken += [1000 * one for one in load([question], 1, 0.01).times]
        time.sleep(0.1)
    return statistics.quantiles(taken, n=100)[98]


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    await connection.execute(STORE, MINUTE - 60)
    await connection.close()


def main() -> None:
    """Prints delivery times, processor time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", default="100,1000,5000", help="numbers, separated by commas")
    parser.add_argument("--seconds", type=int, default=20, help="of each run: an event a second")
    options = parser.parse_args()
    console = Console(width=120)
    table = Table("server", "subscribers", "came", "p50, ms", "p99, ms", "worst, ms", "cores", "KB each", "latest p99, ms")
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        asyncio.run(_prepare(server.url))
        begin = MINUTE
        for count in map(int, options.subscribers.split(",")):
            for name in ("Tickgraph", "plain Strawberry"):
                port = free_port()
                words, small = ["graph", "serve"], graphql(port, '{ latest(ticker: "btc_usd") { ts price } }')
                if name != "Tickgraph":
                    words = ["uvicorn", "tests.bench.plain_live:app", "--port", str(port), "--log-level", "warning"]
                    words, small = [*words, "--no-access-log"], get(port, "/latest?ticker=btc_usd")
                with serving(server.url, port, *words, MAX_SOCKETS_PER_CLIENT="10000") as process:
                    told = run(server.url, port, process, count, options.seconds, small, begin)
                begin += 60 * options.seconds
                came = f"{100 * len(told.times) / told.expected:.1f} %"
                figures = told.quantile(0.5), told.quantile(0.99), told.quantile(1), f"{told.cpu:.2f}", f"{told.kb_each:.0f}"
                table.add_row(name, f"{count:,}", came, *figures, f"{told.beside:.1f}")
                print(".", end="", file=sys.stderr, flush=True)
    console.print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, an event a second for {options.seconds} s")
    console.print(table)


if __name__ == "__main__":
    main()
