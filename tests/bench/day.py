"""A day of 200 tickers at full speed through messages, worker, exchange, PostgreSQL, API and a subscriber.

python -m tests.bench.day                    # 1,440 virtual minutes in about ten minutes
python -m tests.bench.day --minutes 60 --tickers 50
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import dramatiq
import psutil
from dramatiq.brokers.redis import RedisBroker
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from db import migrate
from db.pool import open_database
from db.queries import candles, coverage
from db.queues import Actor, Queue
from db.runtime import embedded
from db.runtime.embedded import free_port
from ingest.simulator.server import Simulator, serve
from tests.bench.throughput import run_server
from tests.conftest import ROOT

BEGIN = 1_704_067_200
"""2024-01-01T00:00:00Z."""
MINUTE_TIMEOUT_S = 60.0
STORED = "SELECT count(*) FROM price WHERE ts = $1"
SUBSCRIBE = "subscription { priceAdded { id } }"


@contextlib.contextmanager
def _worker(env: dict[str, str]) -> Iterator[psutil.Process]:
    arguments = [sys.executable, "-m", "ingest", "work"]
    process = subprocess.Popen(arguments, cwd=ROOT, env=os.environ | env | {"LOG_LEVEL": "ERROR"})  # noqa: S603  our own command
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _megabytes(process: psutil.Process) -> float:
    """Returns the memory (USS) of a process and its children, which counts no shared memory."""
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True))) / 2**20


async def _count(url: str, received: list[int]) -> None:
    """Counts the events that a subscriber receives."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        headers = {"Accept": "text/event-stream"}
        async with session.post(url, json={"query": SUBSCRIBE}, headers=headers) as events:
            async for line in events.content:
                if line.startswith(b"data: {"):
                    received[0] += 1


async def run(minutes: int, tickers: int, console: Console) -> None:
    """Runs the day, and prints its duration and its result."""
    names = tuple(f"t{number:03}_usd" for number in range(tickers))
    simulator = Simulator(names)
    simulator.clock.set(at=BEGIN + 1)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        postgres = servers.enter_context(embedded.postgres(Path(folder) / "postgres"))
        valkey = servers.enter_context(embedded.valkey(Path(folder) / "valkey"))
        await asyncio.to_thread(migrate.upgrade, postgres.url)
        async with serve(simulator) as exchange, open_database(postgres.url, application_name="day") as db:
            rate_settings = {"DERIBIT_RATE_PER_SECOND": "100000", "DERIBIT_BURST": "100000", "DERIBIT_CONNECTIONS": "32"}
            env = {
                "DATABASE_URL": postgres.url,
                "REDIS_URL": valkey.url,
                "DERIBIT_RPC_URL": exchange,
                "TICKERS": ",".join(names),
            }
            broker = RedisBroker(url=valkey.url)  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped

            def send(queue: Queue, actor: Actor, minute: int) -> None:
                broker.enqueue(
                    dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs={"minute": minute}, options={})
                )

            api = await asyncio.to_thread(servers.enter_context, run_server(postgres.url, port, "graph", "serve"))
            received = [0]
            count_task = asyncio.create_task(_count(f"http://127.0.0.1:{port}/graphql", received))
            worker = servers.enter_context(_worker(env | rate_settings))
            memory_mb: dict[str, list[float]] = {"worker": [], "API": [], "PostgreSQL": [], "Valkey": []}
            watched_processes = [worker, api, psutil.Process(postgres.process.pid), psutil.Process(valkey.process.pid)]
            started_at = time.perf_counter()
            with Progress(console=console, disable=not console.is_terminal) as progress:
                task = progress.add_task("virtual minutes", total=minutes)
                for number in range(minutes):
                    minute = BEGIN + 60 * number
                    simulator.clock.set(at=minute + 1)
                    send(Queue.RECONCILE, Actor.RECONCILE, minute)
                    send(Queue.COLLECT, Actor.COLLECT, minute)
                    async with asyncio.timeout(MINUTE_TIMEOUT_S):
                        while await db.fetchval(STORED, minute) < tickers:  # noqa: ASYNC110  by another process
                            await asyncio.sleep(0.01)
                    if number % max(1, minutes // 20) == minutes // 20 - 1:
                        for samples, process in zip(memory_mb.values(), watched_processes, strict=True):
                            samples.append(_megabytes(process))
                    simulator.served.clear()
                    progress.advance(task)
            elapsed_s = time.perf_counter() - started_at
            end = BEGIN + 60 * minutes
            simulator.clock.set(at=end + 1)
            send(Queue.RECONCILE, Actor.RECONCILE, end)
            async with asyncio.timeout(MINUTE_TIMEOUT_S):
                while received[0] < minutes * tickers:  # noqa: ASYNC110  likewise
                    await asyncio.sleep(0.1)
            count_task.cancel()
            counts = [await coverage.count(db, name, BEGIN, end, end) for name in names]
            wrong_tickers = [name for name in names if await candles.find_differences(db, name, 0)]
    stored = sum(one.stored for one in counts)
    console.print(
        f"{minutes:,} minutes of {tickers} tickers in {elapsed_s:.0f} s: {stored / elapsed_s:,.0f} prices/s; {stored:,} of "
        f"{sum(one.expected for one in counts):,} stored, {received[0]:,} received, wrong candles: {len(wrong_tickers)}"
    )
    table = Table("MB", "after a twentieth", "half", "the end", "maximum")
    for name, samples in memory_mb.items():
        table.add_row(name, *(f"{one:.0f}" for one in (samples[0], samples[len(samples) // 2], samples[-1], max(samples))))
    console.print(table)


def main() -> None:
    """Parses the options and runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=1_440)
    parser.add_argument("--tickers", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(run(options.minutes, options.tickers, Console(width=110)))


if __name__ == "__main__":
    main()
