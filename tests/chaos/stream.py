"""The fault run of the stream: real minutes with one or two stream processes, a fault every few seconds, and an audit.

The simulator records every tick that it serves. Every stored range must be proved by them, whatever failed.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path

import asyncpg
import redis.asyncio
from rich.console import Console

from db import migrate
from db.pool import open_database
from db.queries import tracking, write_lock
from db.runtime import embedded
from ingest.outbox import TICKS
from ingest.simulator.server import Simulator, serve
from ingest.simulator.stream import CONNECTION_FAULTS, TICK_FAULTS
from ingest.ticks import MAX_SILENCE_MS, MinuteTicks
from tests.chaos.environment import RestartableServer
from tests.conftest import ROOT
from tests.proxy import TcpProxy
from tests.wait import wait_until

MAX_FAULT_S = 12.0
PAUSE_S = (1.0, 6.0)
"""Shortest and longest time without a fault."""
SETTLE_TIMEOUT_S = 180.0
STORED = """
SELECT minute_range.*, found.ticks AS json FROM minute_range LEFT JOIN minute_ticks AS found USING (ticker, ts)
"""


@dataclass
class StreamResult:
    """The result of the audit."""

    minutes: int = 0
    """Minutes of all tickers with served ticks, without the minute in which the run began."""
    watched: int = 0
    partly_watched: int = 0
    wrong: int = 0
    """Ranges that differ from their ticks, or contain a tick that was never served."""
    falsely_watched: int = 0
    """Minutes that claim to be watched, although their ticks have a silence of more than five seconds."""
    missed_extremes: int = 0
    """Watched minutes with a served extreme inside a silence of at most five seconds, for example while reconnecting."""
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def unwatched(self) -> int:
        """Minutes without a range."""
        return self.minutes - self.watched - self.partly_watched


class StreamRun:
    """The servers, the stream processes and the faults."""

    def __init__(self, rng: random.Random, console: Console, folder: Path) -> None:
        self._rng = rng
        self._console = console
        self._folder = folder
        self._simulator = Simulator()
        self._postgres = RestartableServer(partial(embedded.postgres, folder / "stream-postgres", durable=False))
        self._valkey = RestartableServer(partial(embedded.valkey, folder / "stream-valkey"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._env: dict[str, str] = {}
        self._proxy = TcpProxy(0)
        self.result = StreamResult()

    async def run(self, minutes: int) -> StreamResult:
        """Runs faults for this many minutes, then audits what is stored."""
        async with AsyncExitStack() as stack:
            rpc_url = await stack.enter_async_context(serve(self._simulator))
            self._proxy.target = int(rpc_url.rpartition(":")[2].partition("/")[0])
            await stack.enter_async_context(self._proxy.serve())
            stack.push_async_callback(self._end_processes)
            for server in (self._postgres, self._valkey):
                await server.start()
                stack.push_async_callback(server.stop)
            await asyncio.to_thread(migrate.upgrade, self._postgres.url)
            begin = int(time.time()) // 60 * 60
            async with (
                open_database(self._postgres.url, application_name="chaos") as db,
                write_lock.write_transaction(db) as connection,
            ):
                await tracking.begin_periods(connection, dict.fromkeys(self._simulator.names, begin))
            self._env = {
                "DATABASE_URL": self._postgres.url,
                "REDIS_URL": self._valkey.url,
                "DERIBIT_RPC_URL": rpc_url,
                "DERIBIT_WS_URL": f"ws://127.0.0.1:{self._proxy.port}/ws/api/v2",
            }
            self._start("first")
            end = time.monotonic() + 60 * minutes
            while time.monotonic() < end:
                await asyncio.sleep(self._rng.uniform(*PAUSE_S))
                await self._run_fault()
            await self._settle()
            async with AsyncExitStack() as connections:
                database = await asyncpg.connect(self._postgres.url)
                connections.push_async_callback(database.close)
                await self._audit(database, begin)
        return self.result

    def _start(self, name: str) -> None:
        process = self._processes.get(name)
        if process is None or process.poll() is not None:
            command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "ingest", "stream"]
            with (self._folder / f"stream-{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(  # noqa: S603  our own command
                    command, env=os.environ | self._env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
                )

    async def _end_processes(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            await asyncio.to_thread(process.wait)

    async def _run_fault(self) -> None:
        faults: dict[str, Callable[[], Awaitable[None]]] = {
            "process killed -9": partial(self._signal, signal.SIGKILL),
            "process stopped": partial(self._signal, signal.SIGTERM),
            "process paused": self._pause_process,
            "second process": self._run_second_process,
            "proxy cuts in mid-frame": self._cut,
            "Redis killed": partial(self._restart, self._valkey),
            "PostgreSQL killed": partial(self._restart, self._postgres),
            **{name: partial(self._fail_ticks, name) for name in TICK_FAULTS},
            **{name: partial(self._fail_connection, name) for name in CONNECTION_FAULTS if name != "stream_testnet"},
        }
        name = self._rng.choice(sorted(faults))
        self.result.faults[name] += 1
        self._console.print(f"  stream: {name}", highlight=False)
        await faults[name]()
        self._start("first")

    def _duration_s(self) -> float:
        return self._rng.uniform(1.0, MAX_FAULT_S)

    async def _signal(self, number: signal.Signals) -> None:
        self._processes["first"].send_signal(number)
        await asyncio.to_thread(self._processes["first"].wait)
        await asyncio.sleep(self._rng.uniform(0.0, 3.0))

    async def _pause_process(self) -> None:
        self._processes["first"].send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._duration_s())
        self._processes["first"].send_signal(signal.SIGCONT)

    async def _run_second_process(self) -> None:
        self._start("second")
        await asyncio.sleep(self._rng.uniform(5.0, 70.0))
        if self._rng.random() < 0.5:
            await self._signal(signal.SIGKILL)
            await asyncio.sleep(self._duration_s())
        self._processes["second"].send_signal(self._rng.choice((signal.SIGTERM, signal.SIGKILL)))
        await asyncio.to_thread(self._processes["second"].wait)

    async def _cut(self) -> None:
        self._proxy.cut_in_mid_frame()

    async def _restart(self, server: RestartableServer) -> None:
        await server.kill()
        await asyncio.sleep(self._duration_s())
        await server.start()

    async def _fail_ticks(self, name: str) -> None:
        self._simulator.fail(name, times=self._rng.randint(1, 30))
        await asyncio.sleep(self._duration_s())
        self._simulator.clear_faults()

    async def _fail_connection(self, name: str) -> None:
        index = self._rng.choice(self._simulator.names) if name == "channel_missing" else None
        self._simulator.fail(name, index=index)
        if name in ("subscribe_refused", "channel_missing", "stream_refused"):
            self._proxy.switch_to(self._proxy.target)
        await asyncio.sleep(self._rng.uniform(5.0, 25.0))
        self._simulator.clear_faults()

    async def _settle(self) -> None:
        """Waits until a minute without a fault is stored, and the outbox is empty."""
        self._simulator.clear_faults()
        self._start("first")
        stopped_at = time.time() // 60 * 60 + 60
        database = await asyncpg.connect(self._postgres.url)
        async with redis.asyncio.Redis.from_url(self._valkey.url) as client:

            async def is_stored() -> bool:
                newest = await database.fetchval("SELECT max(ts) FROM minute_range")
                return newest is not None and newest >= stopped_at and not await client.hlen(TICKS)

            await wait_until(is_stored, timeout_s=SETTLE_TIMEOUT_S)
        await database.close()

    async def _audit(self, database: asyncpg.Connection, begin: int) -> None:
        result, served = self.result, dict[tuple[str, int], set[tuple[int, Decimal]]]()
        for tick in self._simulator.stream.served:
            ts = tick.at_ms // 60_000 * 60
            served.setdefault((tick.ticker, ts), set()).add((tick.at_ms - ts * 1_000, Decimal(tick.price)))
        rows = await database.fetch(STORED)
        last = max((row["ts"] for row in rows), default=begin)
        result.minutes = len({key for key in served if begin < key[1] <= last})
        for row in rows:
            key = row["ticker"], row["ts"]
            minute = MinuteTicks.from_json(*key, row["json"])
            expected = minute.range().model_dump()
            is_proved = set(minute.arrivals) <= served.get(key, set())
            if not is_proved or any(row[name] != value for name, value in expected.items()):
                result.wrong += 1
                result.problems.append(f"{key}: the range is not that of the served ticks")
            if row["watched_s"] == 60:
                result.watched += key[1] > begin
                prices = [price for _, price in served.get(key, set())]
                result.missed_extremes += (row["low"], row["high"]) != (min(prices), max(prices))
                instants = sorted({at for at, _ in minute.arrivals})
                silences = [after - before for before, after in zip([0, *instants], [*instants, 60_000], strict=True)]
                if max(silences) > MAX_SILENCE_MS:
                    result.falsely_watched += 1
                    result.problems.append(f"{key}: the minute was not watched completely")
            else:
                result.partly_watched += key[1] > begin
        for query, problem in (
            ("SELECT count(*) FROM reject", "rejected entries"),
            ("SELECT count(*) FROM minute_range WHERE ts > extract(epoch FROM now())", "future ranges"),
        ):
            if found := await database.fetchval(query):
                result.problems.append(f"{found} {problem}")
