"""The servers and processes of the fault run: PostgreSQL, one or two complete stacks, and the simulated exchange."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import dramatiq
import redis
import redis.asyncio
from dramatiq.brokers.redis import RedisBroker

from db import migrate
from db.errors import CommandLineError, DatabaseError
from db.pool import translate_errors
from db.queues import Actor, Queue
from db.runtime import embedded, processes
from db.runtime.embedded import Server
from ingest.outbox import FAILURES, HEARTBEATS, PRICES
from ingest.simulator.server import Simulator
from tests.conftest import ROOT

TICKERS = ("btc_usd", "btc_usdc", "eth_btc", "eth_usd", "eth_usdc", "sol_usd", "sol_usdc", "xrp_usdc")
START_TIMEOUT_S = 20.0


class RestartableServer:
    """A server that can be stopped, killed and restarted on the same port and the same data."""

    def __init__(self, open_: Callable[[], AbstractContextManager[Server]]) -> None:
        self._open = open_
        self._context: AbstractContextManager[Server] | None = None
        self._server: Server | None = None
        self.url = ""

    @property
    def is_running(self) -> bool:
        """Whether its process is running."""
        return self._server is not None and self._server.process.poll() is None

    async def start(self) -> None:
        """Starts the server, unless it is running."""
        if not self.is_running:
            await self.stop()
            await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Stops the server as an operator would, or cleans up after it was killed."""
        context, self._context, self._server = self._context, None, None
        if context is not None:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def kill(self) -> None:
        """Kills the server with SIGKILL."""
        if self._server is not None:
            self._server.process.kill()
            await asyncio.to_thread(self._server.process.wait)

    def _start(self) -> None:
        for attempt in range(10):
            context = self._open()
            try:
                self._server = context.__enter__()
            except (CommandLineError, subprocess.CalledProcessError, OSError):
                # A killed server may hold its memory and its port for a moment.
                if attempt == 9:
                    raise
                time.sleep(0.5)
            else:
                self._context, self.url = context, self._server.url
                return


@dataclass
class Stack:
    """A complete stack without the database: Valkey, a worker and, in real minutes, schedulers."""

    name: str
    folder: Path
    settings: dict[str, str]
    valkey: RestartableServer
    worker: subprocess.Popen[bytes] | None = None
    schedulers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started_at: list[float] = field(default_factory=list)
    """When workers were started, by the local clock. Each worker fetches the local minute at once."""

    @property
    def worker_is_running(self) -> bool:
        """Whether its worker is running."""
        return self.worker is not None and self.worker.poll() is None

    async def start_worker(self) -> None:
        """Starts a worker, unless it is running, and waits for its heartbeat if Redis is running."""
        if self.worker_is_running:
            return
        workers_before = await self._running_workers()
        self.started_at.append(time.time())
        self.worker = self._run("work", "--threads", "6")

        async def has_started() -> bool:
            return bool(await self._running_workers() - workers_before)

        if self.valkey.is_running:
            await self.until(has_started, START_TIMEOUT_S)

    async def kill_worker(self) -> None:
        """Kills the whole process group with SIGKILL, as a failing host does."""
        await self._end(self.worker, signal.SIGKILL)
        self.worker = None

    def signal_worker(self, number: signal.Signals) -> None:
        """Sends a signal to the whole process group, if the worker was started."""
        if self.worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.worker.pid, number)

    async def stop_worker(self) -> None:
        """Sends SIGTERM, as an operator would."""
        await self._end(self.worker, signal.SIGTERM)
        self.worker = None

    def start_scheduler(self) -> None:
        """Starts one more scheduler."""
        self.schedulers.append(self._run("schedule"))

    async def kill_schedulers(self) -> None:
        """Kills all schedulers."""
        for scheduler in self.schedulers:
            await self._end(scheduler, signal.SIGKILL)
        self.schedulers.clear()

    async def publish(self, minute: int) -> bool:
        """Sends what a scheduler sends each minute. Returns False if Redis does not accept it."""
        try:
            await asyncio.to_thread(self._publish, minute)
        except redis.RedisError:
            return False
        return True

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.asyncio.Redis]:
        """Yields a connection to its Valkey."""
        async with redis.asyncio.Redis.from_url(
            self.valkey.url, socket_timeout=2, socket_connect_timeout=1, decode_responses=True
        ) as client:
            yield client

    async def pending_entries(self) -> set[str]:
        """Returns the entries of its outbox, or an empty set if it cannot be read."""
        return await self._fields(PRICES)

    async def failure_entries(self) -> set[str]:
        """Returns the failures that its Redis has recorded."""
        return await self._fields(FAILURES)

    async def delete_failures(self, minute: int) -> None:
        """Deletes the failures of a virtual minute. A worker that starts in this real minute fetches it and records some."""
        with contextlib.suppress(redis.RedisError):
            async with self.redis() as client:
                await client.hdel(FAILURES, *(f"{ticker}|{minute}" for ticker in TICKERS))

    async def until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Waits for the condition and returns whether it was met before the timeout."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            is_met = condition()
            if asyncio.iscoroutine(is_met):
                is_met = await is_met
            if is_met:
                return True
            await asyncio.sleep(0.03)
        return False

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own command
                ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "ingest", *arguments],  # noqa: S607  of the system
                cwd=self.folder,
                env={**os.environ, **self.settings, "REDIS_URL": self.valkey.url, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _end(self, process: subprocess.Popen[bytes] | None, stop_signal: signal.Signals) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, stop_signal)
            await asyncio.to_thread(processes.stop, process, stop_signal)

    async def _running_workers(self) -> set[str]:
        """Returns the worker processes with a current heartbeat."""
        try:
            async with self.redis() as client:
                return {str(key) async for key in client.scan_iter(f"{HEARTBEATS}*")}
        except redis.RedisError:
            return set()

    async def _fields(self, name: str) -> set[str]:
        try:
            async with self.redis() as client:
                return {str(found) for found in await client.hkeys(name)}
        except redis.RedisError:
            return set()

    def _publish(self, minute: int) -> None:
        with redis.Redis.from_url(self.valkey.url, socket_timeout=2, socket_connect_timeout=1) as client:
            broker = RedisBroker(client=client, middleware=[])  # type: ignore[no-untyped-call]  # left untyped
            for queue, actor in zip(Queue, Actor, strict=True):
                broker.enqueue(
                    dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs={"minute": minute}, options={})
                )


@dataclass
class Environment:
    """All servers and processes of the fault run."""

    folder: Path
    simulator: Simulator
    postgres: RestartableServer
    stacks: list[Stack]
    rng: random.Random
    clock_offset_s: float = 0.0
    """Seconds by which the exchange's clock is ahead of the current virtual minute."""
    schedulers_are_running: bool = True
    ineffective_faults: list[str] = field(default_factory=list)
    """Faults that had no effect, so that the run proves less than its table claims."""

    @property
    def stack(self) -> Stack:
        """The first stack, which exists during the whole run."""
        return self.stacks[0]

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        """Yields a connection to the database."""
        connection = await asyncpg.connect(self.postgres.url, timeout=2)
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def stored(self, minute: int) -> set[str]:
        """Returns the tickers whose price of the minute is committed, or an empty set without a database."""
        try:
            with translate_errors():
                async with asyncio.timeout(2), self.sql() as connection:
                    return {row["ticker"] for row in await connection.fetch("SELECT ticker FROM price WHERE ts = $1", minute)}
        except DatabaseError:
            return set()

    async def checked_until(self) -> int:
        """Returns the minute up to which all minutes are stored or gaps, or 0 without a database."""
        try:
            with translate_errors():
                async with asyncio.timeout(2), self.sql() as connection:
                    return int(await connection.fetchval("SELECT min(checked_until) FROM ticker") or 0)
        except DatabaseError:
            return 0

    async def is_settled(self, minute: int) -> bool:
        """Returns whether each ticker's price of the minute is committed, or queued or failed in the first stack."""
        found = {f"{ticker}|{minute}" for ticker in await self.stored(minute)}
        found |= await self.stack.pending_entries() | await self.stack.failure_entries()
        return all(f"{ticker}|{minute}" in found for ticker in TICKERS)


def _stack(folder: Path, name: str, settings: dict[str, str]) -> Stack:
    port = embedded.free_port()
    return Stack(name, folder, settings, RestartableServer(lambda: embedded.valkey(folder / f"valkey-{name}", port=port)))


@asynccontextmanager
async def run_environment(
    folder: Path, simulator: Simulator, rpc_url: str, settings: dict[str, str], rng: random.Random
) -> AsyncIterator[Environment]:
    """Starts and migrates everything, and stops everything at the end."""
    port = embedded.free_port()
    postgres = RestartableServer(lambda: embedded.postgres(folder / "postgres", port=port))
    async with contextlib.AsyncExitStack() as cleanup:
        await postgres.start()
        cleanup.push_async_callback(postgres.stop)
        await asyncio.to_thread(migrate.upgrade, postgres.url)
        common = {"DATABASE_URL": postgres.url, "DERIBIT_RPC_URL": rpc_url, "TICKERS": ",".join(TICKERS)} | settings
        environment = Environment(folder, simulator, postgres, [_stack(folder, "one", common)], rng)
        cleanup.push_async_callback(_stop_stacks, environment)
        await environment.stack.valkey.start()
        yield environment


async def _stop_stacks(environment: Environment) -> None:
    for stack in environment.stacks:
        await stack.kill_schedulers()
        await stack.kill_worker()
        await stack.valkey.stop()


@asynccontextmanager
async def run_second_stack(environment: Environment) -> AsyncIterator[Stack]:
    """Runs a second complete stack on the same database."""
    stack = _stack(environment.folder, "two", environment.stack.settings)
    await stack.valkey.start()
    environment.stacks.append(stack)
    try:
        await stack.start_worker()
        yield stack
    finally:
        await stack.stop_worker()
        environment.stacks.remove(stack)
        environment.stack.started_at += stack.started_at
        await stack.valkey.stop()


def fill_disk(files: Sequence[Path]) -> None:
    """Fills the disk of the files."""
    for file in files:
        with contextlib.suppress(OSError), file.open("ab", buffering=0) as out:
            while True:
                out.write(b"\0" * 65_536)
