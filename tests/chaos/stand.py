"""What the fault run runs: PostgreSQL, one or two complete stacks, and the exchange that keeps the record."""

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

from db import embedded, migrate, processes
from db.embedded import Server
from db.errors import DatabaseError, ServerError
from db.pool import translate_errors
from db.queues import Actor, Queue
from ingest.outbox import FAILURES, HEARTBEATS, PRICES
from ingest.simulator.server import Simulator
from tests.conftest import ROOT

TICKERS = ("btc_usd", "btc_usdc", "eth_btc", "eth_usd", "eth_usdc", "sol_usd", "sol_usdc", "xrp_usdc")
PATIENCE_S = 20.0


class Slot:
    """A server that is stopped, killed and started again, on the same port and the same data."""

    def __init__(self, open_: Callable[[], AbstractContextManager[Server]]) -> None:
        self._open = open_
        self._context: AbstractContextManager[Server] | None = None
        self._server: Server | None = None
        self.url = ""

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._server is not None and self._server.process.poll() is None

    async def start(self) -> None:
        """Starts it, unless it runs."""
        if not self.runs:
            await self.stop()
            await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Stops it as an operator would, or clears away after it was killed."""
        context, self._context, self._server = self._context, None, None
        if context is not None:
            await asyncio.to_thread(context.__exit__, None, None, None)

    async def kill(self) -> None:
        """Kill -9."""
        if self._server is not None:
            self._server.process.kill()
            await asyncio.to_thread(self._server.process.wait)

    def _start(self) -> None:
        for attempt in range(10):
            context = self._open()
            try:
                self._server = context.__enter__()
            except (ServerError, subprocess.CalledProcessError, OSError):
                # What was killed may hold its memory and its port for a moment.
                if attempt == 9:
                    raise
                time.sleep(0.5)
            else:
                self._context, self.url = context, self._server.url
                return


@dataclass
class Stack:
    """A complete stack but for the database: Valkey, a worker, perhaps schedulers."""

    name: str
    folder: Path
    settings: dict[str, str]
    valkey: Slot
    worker: subprocess.Popen[bytes] | None = None
    schedulers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started_at: list[float] = field(default_factory=list)
    """When workers were started, by the local clock: each asks for the local minute at once."""

    @property
    def worker_runs(self) -> bool:
        """Whether its worker is there."""
        return self.worker is not None and self.worker.poll() is None

    async def start_worker(self) -> None:
        """Starts a worker, unless it runs, and waits until it says so (as long as Redis is there to hear it)."""
        if self.worker_runs:
            return
        before = await self._beating()
        self.started_at.append(time.time())
        self.worker = self._run("work", "--threads", "6")

        async def beats() -> bool:
            return bool(await self._beating() - before)

        if self.valkey.runs:
            await self.until(beats, PATIENCE_S)

    async def kill_worker(self) -> None:
        """Kill -9 of the whole process group, as a host that fails."""
        await self._end(self.worker, signal.SIGKILL)
        self.worker = None

    def signal_worker(self, number: signal.Signals) -> None:
        """To the whole process group, where it is there."""
        if self.worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.worker.pid, number)

    async def stop_worker(self) -> None:
        """SIGTERM, as an operator would."""
        await self._end(self.worker, signal.SIGTERM)
        self.worker = None

    def start_scheduler(self) -> None:
        """One more scheduler."""
        self.schedulers.append(self._run("schedule"))

    async def end_schedulers(self) -> None:
        """All of them."""
        for scheduler in self.schedulers:
            await self._end(scheduler, signal.SIGKILL)
        self.schedulers.clear()

    async def publish(self, minute: int) -> bool:
        """What a scheduler sends each minute; False where Redis does not take it."""
        try:
            await asyncio.to_thread(self._publish, minute)
        except redis.RedisError:
            return False
        return True

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[redis.asyncio.Redis]:
        """A connection to its Valkey."""
        async with redis.asyncio.Redis.from_url(
            self.valkey.url, socket_timeout=2, socket_connect_timeout=1, decode_responses=True
        ) as client:
            yield client

    async def waiting(self) -> set[str]:
        """The entries of its outbox; empty where it cannot be read."""
        return await self._fields(PRICES)

    async def noted(self) -> set[str]:
        """The evidence beside it."""
        return await self._fields(FAILURES)

    async def forget(self, minute: int) -> None:
        """Removes evidence of a virtual minute from when a worker started in the real one of that name."""
        with contextlib.suppress(redis.RedisError):
            async with self.redis() as client:
                await client.hdel(FAILURES, *(f"{ticker}|{minute}" for ticker in TICKERS))

    async def until(self, condition: Callable[[], object], patience_s: float) -> bool:
        """Whether the condition (awaited where it must be) came true in time."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            held = condition()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return True
            await asyncio.sleep(0.03)
        return False

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own command
                ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "ingest", *words],  # noqa: S607  of the system
                cwd=self.folder,
                env={**os.environ, **self.settings, "REDIS_URL": self.valkey.url, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _end(self, process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            await asyncio.to_thread(processes.stop, process, how)

    async def _beating(self) -> set[str]:
        """The worker processes that said of late that they run."""
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
            for queue, actor in ((Queue.RECONCILE, Actor.RECONCILE), (Queue.COLLECT, Actor.COLLECT)):
                broker.enqueue(
                    dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs={"minute": minute}, options={})
                )


@dataclass
class Stand:
    """Everything that runs."""

    folder: Path
    simulator: Simulator
    postgres: Slot
    stacks: list[Stack]
    draw: random.Random
    clock_offset_s: float = 0.0
    """By how much the exchange's clock is ahead of the minute it should be in."""
    schedulers_run: bool = True
    toothless: list[str] = field(default_factory=list)
    """Faults that did not do what they were for: a run that proves less than it says."""

    @property
    def stack(self) -> Stack:
        """The first, which always is."""
        return self.stacks[0]

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to the database."""
        connection = await asyncpg.connect(self.postgres.url, timeout=2)
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def stored(self, minute: int) -> set[str]:
        """The tickers whose price of the minute is committed; empty where nobody can tell."""
        try:
            with translate_errors():
                async with asyncio.timeout(2), self.sql() as connection:
                    return {row["ticker"] for row in await connection.fetch("SELECT ticker FROM price WHERE ts = $1", minute)}
        except DatabaseError:
            return set()

    async def walked(self) -> int:
        """The minute up to which every ticker's minutes are explained; 0 where nobody can tell."""
        try:
            with translate_errors():
                async with asyncio.timeout(2), self.sql() as connection:
                    return int(await connection.fetchval("SELECT min(checked_until) FROM ticker") or 0)
        except DatabaseError:
            return 0

    async def settled(self, minute: int) -> bool:
        """Whether each ticker's price of the minute is committed, waits, or is known to have failed, for the first stack."""
        found = {f"{ticker}|{minute}" for ticker in await self.stored(minute)}
        found |= await self.stack.waiting() | await self.stack.noted()
        return all(f"{ticker}|{minute}" in found for ticker in TICKERS)


def _stack(folder: Path, name: str, settings: dict[str, str]) -> Stack:
    port = embedded.free_port()
    return Stack(name, folder, settings, Slot(lambda: embedded.valkey(folder / f"valkey-{name}", port=port)))


@asynccontextmanager
async def standing(
    folder: Path, simulator: Simulator, rpc_url: str, settings: dict[str, str], draw: random.Random
) -> AsyncIterator[Stand]:
    """Everything started and migrated, and ended whatever happens."""
    port = embedded.free_port()
    postgres = Slot(lambda: embedded.postgres(folder / "postgres", port=port))
    await postgres.start()
    await asyncio.to_thread(migrate.upgrade, postgres.url)
    common = {"DATABASE_URL": postgres.url, "DERIBIT_RPC_URL": rpc_url, "TICKERS": ",".join(TICKERS)} | settings
    stand = Stand(folder, simulator, postgres, [_stack(folder, "one", common)], draw)
    try:
        await stand.stack.valkey.start()
        yield stand
    finally:
        for stack in stand.stacks:
            await stack.end_schedulers()
            await stack.kill_worker()
            await stack.valkey.stop()
        await postgres.stop()


@asynccontextmanager
async def second_stack(stand: Stand) -> AsyncIterator[Stack]:
    """A second complete stack on the same database."""
    stack = _stack(stand.folder, "two", stand.stack.settings)
    await stack.valkey.start()
    stand.stacks.append(stack)
    try:
        await stack.start_worker()
        yield stack
    finally:
        await stack.stop_worker()
        stand.stacks.remove(stack)
        stand.stack.started_at += stack.started_at
        await stack.valkey.stop()


def ballast(files: Sequence[Path]) -> None:
    """Takes all the room there is on the disk of the files."""
    for file in files:
        with contextlib.suppress(OSError), file.open("ab", buffering=0) as out:
            while True:
                out.write(b"\0" * 65_536)
