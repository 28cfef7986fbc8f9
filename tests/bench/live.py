"""Delivery time of a stored price to subscribers, the cost per subscriber, and the effect on other requests.

python -m tests.bench.live                             # 100, 1,000 and 5,000 subscribers, compared with plain Strawberry
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

from db import migrate
from db.runtime import embedded
from db.runtime.embedded import free_port
from tests.bench.load import BenchRequest, get, graphql, load
from tests.bench.throughput import run_server

START_TS = 1_700_000_040
QUERY = "subscription { priceAdded { ticker ts price } }"
CONNECT_BATCH_SIZE = 50

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
    """Builds a client frame with an empty mask."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + struct.pack("!H", len(payload))
    return bytes([kind]) + size + b"\0\0\0\0" + payload


class _Subscriber(asyncio.Protocol):
    """Records when each event arrived, by the minute of its price, with little overhead."""

    def __init__(self, deliveries: list[tuple[int, float]]) -> None:
        self._deliveries = deliveries
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
            self._handle_message(self._data[0], self._data[start : start + size], now)
            self._data = self._data[start + size :]

    def _handle_message(self, kind: int, payload: bytes, now: float) -> None:
        if kind == _PING:
            self._transport.write(_frame(_PONG, payload))
        elif b'"next"' in payload:
            self._deliveries.append((int(payload.partition(b'"ts":')[2].partition(b",")[0]), now))
        elif b"connection_ack" in payload:
            message = {"type": "subscribe", "id": "1", "payload": {"query": QUERY}}
            self._transport.write(_frame(_TEXT, orjson.dumps(message)))
            self.ready.set_result(None)
        else:
            raise AssertionError((kind, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed"))


async def _listen(port: int, count: int, ready: threading.Event, done: threading.Event) -> list[tuple[int, float]]:
    deliveries: list[tuple[int, float]] = []
    loop = asyncio.get_running_loop()
    for start in range(0, count, CONNECT_BATCH_SIZE):
        opened = [
            await loop.create_connection(lambda: _Subscriber(deliveries), "127.0.0.1", port)
            for _ in range(min(CONNECT_BATCH_SIZE, count - start))
        ]
        await asyncio.gather(*(protocol.ready for _, protocol in opened))
    ready.set()
    await asyncio.to_thread(done.wait)
    return deliveries


def listen(port: int, count: int, ready: threading.Event, done: threading.Event) -> list[tuple[int, float]]:
    """Opens the subscriptions, and returns the minute and arrival time of each event when `done` is set."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return uvloop.run(_listen(port, count, ready, done))


@dataclass(frozen=True)
class DeliveryResult:
    """The measurements of one run."""

    times: list[float]
    """Seconds from commit to each delivery, ascending."""
    expected: int
    cores: float
    """Processor time of the server, in cores."""
    kb_per_subscriber: float
    latest_p99_ms: float
    """p99 of `latest` during the run, in milliseconds."""

    def quantile(self, fraction: float) -> str:
        """Returns a quantile of the delivery times in milliseconds."""
        return f"{1000 * self.times[min(len(self.times) - 1, int(fraction * len(self.times)))]:.0f}" if self.times else "none"


async def _store(url: str, begin: int, seconds: int) -> dict[int, float]:
    """Stores an event per second, and returns when each was committed."""
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


def run(
    url: str, port: int, process: psutil.Process, count: int, seconds: int, latest_request: BenchRequest, begin: int
) -> DeliveryResult:
    """Measures `count` subscribers for `seconds` seconds."""
    rss_before = process.memory_info().rss
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        ready, done = manager.Event(), manager.Event()
        subscribers = pool.submit(listen, port, count, ready, done)
        while not ready.wait(0.1):
            if subscribers.done():
                subscribers.result()
        time.sleep(1)
        cpu_before = process.cpu_times()
        latest_future = pool.submit(_measure_latest, latest_request, float(seconds))
        committed = asyncio.run(_store(url, begin, seconds))
        cpu_after = process.cpu_times()
        time.sleep(2)
        memory = process.memory_info().rss
        done.set()
        deliveries = subscribers.result()
    times = sorted(now - committed[ts] for ts, now in deliveries)
    return DeliveryResult(
        times,
        count * seconds,
        (cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system) / seconds,
        (memory - rss_before) / 1024 / count,
        latest_future.result(),
    )


def _measure_latest(request: BenchRequest, seconds: float) -> float:
    """Returns the p99 of a client that sends about ten requests per second."""
    times_ms, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        times_ms += [1000 * one for one in load([request], 1, 0.01).times]
        time.sleep(0.1)
    return statistics.quantiles(times_ms, n=100)[98]


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO ticker (name) VALUES ('btc_usd')")
    await connection.execute(STORE, START_TS - 60)
    await connection.close()


def main() -> None:
    """Prints delivery times, processor time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", default="100,1000,5000", help="numbers, separated by commas")
    parser.add_argument("--seconds", type=int, default=20, help="of each run: an event a second")
    options = parser.parse_args()
    console = Console(width=120)
    table = Table("server", "subscribers", "delivered", "p50, ms", "p99, ms", "worst, ms", "cores", "KB each", "latest p99, ms")
    with tempfile.TemporaryDirectory() as folder, embedded.postgres(Path(folder) / "postgres") as server:
        migrate.upgrade(server.url)
        asyncio.run(_prepare(server.url))
        begin = START_TS
        for count in map(int, options.subscribers.split(",")):
            for name in ("Tickgraph", "plain Strawberry"):
                port = free_port()
                arguments, latest_request = ["graph", "serve"], graphql(port, '{ latest(ticker: "btc_usd") { ts price } }')
                if name != "Tickgraph":
                    arguments = ["uvicorn", "tests.bench.plain_live:app", "--port", str(port), "--log-level", "warning"]
                    arguments, latest_request = [*arguments, "--no-access-log"], get(port, "/latest?ticker=btc_usd")
                with run_server(server.url, port, *arguments, MAX_SOCKETS_PER_CLIENT="10000") as process:
                    result = run(server.url, port, process, count, options.seconds, latest_request, begin)
                begin += 60 * options.seconds
                delivered = f"{100 * len(result.times) / result.expected:.1f} %"
                figures = (
                    result.quantile(0.5),
                    result.quantile(0.99),
                    result.quantile(1),
                    f"{result.cores:.2f}",
                    f"{result.kb_per_subscriber:.0f}",
                )
                table.add_row(name, f"{count:,}", delivered, *figures, f"{result.latest_p99_ms:.1f}")
                print(".", end="", file=sys.stderr, flush=True)
    console.print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, an event a second for {options.seconds} s")
    console.print(table)


if __name__ == "__main__":
    main()
