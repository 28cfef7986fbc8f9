"""The faults of the fault run. A fault lasts while its context manager is open, and lists the reasons of its gaps."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import redis

from db.queries.write_lock import ACQUIRE_WRITER_LOCK
from db.rows import Reason
from tests.chaos.environment import TICKERS, Environment, Stack, fill_disk, run_second_stack
from tests.ingest.exchange_errors import EXPECTED_BY_FAULT

FaultContext = Callable[[Environment, int], AbstractAsyncContextManager[None]]

REASON_BY_FAULT = {name: reason for name, (_, reason) in EXPECTED_BY_FAULT.items() if name != "unknown_index"} | {
    "no_clock": Reason.CLOCK,
    "price_infinite": Reason.MALFORMED,
    "price_tiny": Reason.MALFORMED,
}
"""Reason of a missing minute, by fault of the exchange. (`unknown_index` would end the tracking of the ticker.)"""
NOT_COLLECTED_ONLY = frozenset({Reason.NOT_COLLECTED})
MAX_WAL_SEGMENTS = 50
PHASE_TIMEOUT_S = 8.0
"""Seconds in which a worker must reach the phase in which it is killed."""

TERMINATE_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tickgraph%'"


@dataclass(frozen=True)
class Fault:
    """A fault: how it is caused, which reasons its gaps may have, and what it affects."""

    name: str
    block: FaultContext
    reasons: frozenset[Reason] = frozenset()
    """Reasons that a gap under the fault may have. Empty: each price must be stored as LIVE."""
    minutes: int = 1
    ticker: str | None = None
    """The only ticker that the reasons apply to. None: all tickers."""
    touches: str = ""
    """The affected part. Two faults that affect the same part are not drawn together."""


@asynccontextmanager
async def _kill_worker_when(
    environment: Environment, is_reached: Callable[[], Awaitable[bool]], cleanup: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Kills the first worker when the phase is reached, then cleans up and starts a new worker."""

    async def kill() -> None:
        if not await environment.stack.until(is_reached, PHASE_TIMEOUT_S):
            environment.ineffective_faults.append("a worker was killed before it reached its phase")
        await environment.stack.kill_worker()
        await cleanup()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        await killing
        await environment.stack.start_worker()


async def _no_cleanup() -> None:
    return


@asynccontextmanager
async def kill_while_fetching(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills the worker while the response for one ticker hangs."""
    environment.simulator.fail("hang", index=TICKERS[0], method="get_index_price")
    before = environment.simulator.calls.get("get_index_price", 0)

    async def is_reached() -> bool:
        collected = await environment.stored(minute) | {
            name.partition("|")[0] for name in await environment.stack.pending_entries()
        }
        return environment.simulator.calls.get("get_index_price", 0) >= before + len(TICKERS) and set(TICKERS[1:]) <= collected

    async def remove_faults() -> None:
        environment.simulator.clear_faults()

    async with _kill_worker_when(environment, is_reached, remove_faults):
        yield


@asynccontextmanager
async def _hold_write_lock(environment: Environment) -> AsyncIterator[asyncpg.Connection]:
    """Holds the write lock, so that every writer of the database waits."""
    async with environment.sql() as connection, connection.transaction():
        await connection.execute(ACQUIRE_WRITER_LOCK)
        yield connection


async def _all_are_queued(environment: Environment, minute: int) -> bool:
    return {f"{ticker}|{minute}" for ticker in TICKERS} <= await environment.stack.pending_entries()


@asynccontextmanager
async def kill_with_outbox_written(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills the worker with its prices in the outbox, while it waits for the write lock."""
    async with (
        _hold_write_lock(environment),
        _kill_worker_when(environment, lambda: _all_are_queued(environment, minute), _no_cleanup),
    ):
        yield


@asynccontextmanager
async def _hold_rows(
    environment: Environment, minute: int
) -> AsyncIterator[tuple[Callable[[], Awaitable[bool]], Callable[[], Awaitable[None]]]]:
    """Inserts the minute's rows without a commit, so that the worker's transaction waits.

    Yields a function that returns whether it waits, and one that rolls back.
    """
    async with environment.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        # Disables the trigger: it would take the write lock, and the worker would wait for that lock instead.
        await connection.execute("SET LOCAL session_replication_role = replica")
        insert = "INSERT INTO price (ticker, ts, price, source) SELECT name, $1, 1, 'IMPORT' FROM ticker"
        await connection.execute(insert, minute)

        async def is_reached() -> bool:
            async with environment.sql() as second_connection:
                waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
                return await _all_are_queued(environment, minute) and bool(await second_connection.fetchval(waits))

        yield is_reached, transaction.rollback


@asynccontextmanager
async def kill_in_transaction(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills the worker while it waits for a row that another transaction holds."""
    async with _hold_rows(environment, minute) as (is_reached, release), _kill_worker_when(environment, is_reached, release):
        yield


@asynccontextmanager
async def freeze_in_transaction(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Stops the worker with SIGSTOP while it holds the write lock, as if its host were lost."""
    async with _hold_rows(environment, minute) as (is_reached, release):

        async def freeze() -> None:
            if not await environment.stack.until(is_reached, PHASE_TIMEOUT_S):
                environment.ineffective_faults.append("a worker was frozen before it held the write lock")
            environment.stack.signal_worker(signal.SIGSTOP)
            await release()

        freezing = asyncio.create_task(freeze())
        try:
            yield
        finally:
            await freezing
            environment.stack.signal_worker(signal.SIGCONT)


@asynccontextmanager
async def kill_after_commit(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills the worker after the commit, before it removes the prices from the outbox."""

    async def is_reached() -> bool:
        return {*TICKERS} <= await environment.stored(minute)

    async def unpause() -> None:
        await commit_task
        async with environment.stack.redis() as client:
            await client.client_unpause()

    async def commit_while_redis_is_paused() -> None:
        async with _hold_write_lock(environment):
            if await environment.stack.until(lambda: _all_are_queued(environment, minute), PHASE_TIMEOUT_S):
                async with environment.stack.redis() as client:
                    await client.client_pause(30_000, all=False)

    commit_task = asyncio.create_task(commit_while_redis_is_paused())
    async with _kill_worker_when(environment, is_reached, unpause):
        yield


@asynccontextmanager
async def kill_workers(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills the worker of the first stack with SIGKILL."""
    await environment.stack.kill_worker()
    try:
        yield
    finally:
        await environment.stack.start_worker()


@asynccontextmanager
async def kill_redis(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills Redis with SIGKILL and restarts it later."""
    await environment.stack.valkey.kill()
    try:
        yield
    finally:
        await environment.stack.valkey.start()
        await environment.stack.start_worker()


@asynccontextmanager
async def kill_redis_during_collect(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills Redis during the calls to Deribit. The worker then stores the prices directly in PostgreSQL."""
    environment.simulator.delay_s = 1.0
    before = environment.simulator.calls.get("get_index_price", 0)

    async def kill() -> None:
        def requests_are_sent() -> bool:
            return environment.simulator.calls.get("get_index_price", 0) >= before + len(TICKERS)

        if not await environment.stack.until(requests_are_sent, PHASE_TIMEOUT_S):
            environment.ineffective_faults.append("Redis was killed before Deribit was called")
        await environment.stack.valkey.kill()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        await killing
        environment.simulator.delay_s = 0.0
        await environment.stack.valkey.start()
        await environment.stack.start_worker()


@asynccontextmanager
async def wipe_redis(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Deletes everything in Redis: messages, outbox and failures."""

    async def wipe() -> None:
        await asyncio.sleep(environment.rng.random() / 2)
        with contextlib.suppress(redis.RedisError):
            async with environment.stack.redis() as client:
                await client.flushall()

    wiping = asyncio.create_task(wipe())
    try:
        yield
    finally:
        await wiping


def configure_redis(change: Callable[["redis.asyncio.Redis"], Awaitable[object]]) -> FaultContext:
    """Configures Redis as an operator or a provider may, and restores it at the end."""

    @asynccontextmanager
    async def block(environment: Environment, minute: int) -> AsyncIterator[None]:
        async with environment.stack.redis() as client:
            await change(client)
        try:
            yield
        finally:
            await environment.stack.valkey.start()  # another fault may have stopped it
            async with environment.stack.redis() as client:
                await client.replicaof("no", "one")
                await client.config_set("maxmemory", 0)
                await client.config_set("maxmemory-policy", "noeviction")

    return block


async def _make_read_only(client: "redis.asyncio.Redis") -> None:
    await client.replicaof("127.0.0.1", "1")


async def _limit_memory(client: "redis.asyncio.Redis") -> None:
    await client.config_set("maxmemory", "1mb")


async def _enable_eviction(client: "redis.asyncio.Redis") -> None:
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", "1mb")


@asynccontextmanager
async def make_postgres_read_only(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Makes PostgreSQL read-only, as during a failover or when a provider's disk is full."""
    name = environment.postgres.url.rpartition("/")[2]
    async with environment.sql() as connection:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.execute(TERMINATE_SESSIONS)
    try:
        yield
    finally:
        await environment.postgres.start()  # another fault may have stopped it
        async with environment.sql() as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@asynccontextmanager
async def stop_postgres(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Stops PostgreSQL and starts it again later."""
    await environment.postgres.stop()
    try:
        yield
    finally:
        await environment.postgres.start()


@asynccontextmanager
async def kill_postgres(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Kills PostgreSQL with SIGKILL."""
    await environment.postgres.kill()
    try:
        yield
    finally:
        await environment.postgres.start()


@asynccontextmanager
async def fill_postgres_disk(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Fills PostgreSQL's disk, which is a small one."""
    files = [environment.folder / "postgres" / f"ballast-{number}" for number in range(2)]
    await asyncio.to_thread(fill_disk, files)
    # PostgreSQL has spare WAL segments. Without them, the next commit finds no space.
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        async with environment.sql() as connection:
            for _ in range(MAX_WAL_SEGMENTS):
                await connection.execute("SELECT pg_logical_emit_message(true, 'chaos', 'x'), pg_switch_wal()")
    await asyncio.to_thread(fill_disk, files)
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)
        await asyncio.sleep(0.5)  # PostgreSQL may be restarting by itself, and a second start would fail
        await environment.postgres.start()


@asynccontextmanager
async def exhaust_connections(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Takes every connection, including the workers'."""
    connections: list[asyncpg.Connection] = []
    async with environment.sql() as first:
        try:
            for _ in range(2):  # the second round takes the connections that the workers have lost
                with contextlib.suppress(asyncpg.TooManyConnectionsError, OSError, asyncpg.PostgresError):
                    while True:
                        connections.append(await asyncpg.connect(environment.postgres.url, timeout=2))
                await first.execute(TERMINATE_SESSIONS)
            yield
        finally:
            for connection in connections:
                connection.terminate()


def deribit_fault(name: str, index: str | None, method: str | None) -> FaultContext:
    """Makes Deribit fail with one fault, for one ticker or for all."""

    @asynccontextmanager
    async def block(environment: Environment, minute: int) -> AsyncIterator[None]:
        environment.simulator.fail(name, index=index, method=method)
        try:
            yield
        finally:
            environment.simulator.clear_faults()

    return block


def shift_clock(offset_s: int) -> FaultContext:
    """Sets the exchange's clock ahead or behind."""

    @asynccontextmanager
    async def block(environment: Environment, minute: int) -> AsyncIterator[None]:
        environment.clock_offset_s = offset_s
        environment.simulator.clock.set(at=environment.simulator.clock.now_us() / 1e6 + offset_s)
        try:
            yield
        finally:
            environment.clock_offset_s = 0.0
            environment.simulator.clock.set(at=environment.simulator.clock.now_us() / 1e6 - offset_s)

    return block


@asynccontextmanager
async def stop_schedulers(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Stops the schedulers, so that no minute is sent."""
    running = len(environment.stack.schedulers)
    await environment.stack.kill_schedulers()
    environment.schedulers_are_running = False
    try:
        yield
    finally:
        environment.schedulers_are_running = True
        for _ in range(running):
            environment.stack.start_scheduler()


@asynccontextmanager
async def send_twice(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Sends everything twice."""
    await environment.stack.publish(minute)
    yield


@asynccontextmanager
async def run_two_stacks(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Runs two complete stacks on one database."""
    async with run_second_stack(environment):
        yield


@asynccontextmanager
async def send_far_ahead(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Sends a message of a scheduler whose clock is sixty days ahead, with RETENTION_DAYS set."""
    await environment.stack.publish(minute + 60 * 86_400)
    yield


@asynccontextmanager
async def run_other_tickers(environment: Environment, minute: int) -> AsyncIterator[None]:
    """Runs a second worker on the same Redis with a different TICKERS setting."""
    other_stack = Stack(
        "other", environment.folder, environment.stack.settings | {"TICKERS": TICKERS[0]}, environment.stack.valkey
    )
    await other_stack.start_worker()
    try:
        yield
    finally:
        await other_stack.stop_worker()
        environment.stack.started_at += other_stack.started_at


KILLS = [
    Fault("worker killed while fetching", kill_while_fetching, NOT_COLLECTED_ONLY, ticker=TICKERS[0], touches="phase"),
    Fault("worker killed, outbox written", kill_with_outbox_written, touches="phase"),
    Fault("worker killed in its transaction", kill_in_transaction, touches="phase"),
    Fault("worker frozen in its transaction", freeze_in_transaction, touches="phase"),
    Fault("worker killed, committed, not removed", kill_after_commit, touches="phase"),
]
OUTAGES = [
    Fault("worker killed between minutes", kill_workers, NOT_COLLECTED_ONLY, 3, touches="worker"),
    Fault("Redis killed", kill_redis, NOT_COLLECTED_ONLY, 2, touches="redis"),
    Fault("Redis killed under a collect", kill_redis_during_collect, touches="redis"),
    Fault("Redis wiped", wipe_redis, NOT_COLLECTED_ONLY, touches="redis"),
    Fault("Redis read-only", configure_redis(_make_read_only), NOT_COLLECTED_ONLY, 2, touches="redis"),
    Fault("Redis full", configure_redis(_limit_memory), NOT_COLLECTED_ONLY, 2, touches="redis"),
    Fault("Redis evicts", configure_redis(_enable_eviction), NOT_COLLECTED_ONLY, 2, touches="redis"),
    Fault("PostgreSQL read-only", make_postgres_read_only, minutes=2, touches="database"),
    Fault("PostgreSQL stopped", stop_postgres, minutes=3, touches="database"),
    Fault("PostgreSQL killed -9", kill_postgres, minutes=2, touches="database"),
    Fault("connections exhausted", exhaust_connections, minutes=2, touches="database"),
    Fault("scheduler down", stop_schedulers, NOT_COLLECTED_ONLY, 2, touches="scheduler"),
    Fault("scheduler doubled", send_twice, touches="scheduler"),
    Fault("scheduler far ahead", send_far_ahead, touches="scheduler"),
    Fault("workers with other TICKERS", run_other_tickers, minutes=2, touches="worker"),
    Fault("two complete stacks", run_two_stacks, minutes=2, touches="stacks"),
]
DISK = Fault("database disk full", fill_postgres_disk, minutes=2, touches="database")


def clock_faults() -> list[Fault]:
    """Returns faults of the exchange's clock: off by more than a minute in both directions, and by a year."""
    reasons = frozenset({Reason.CLOCK, Reason.NOT_COLLECTED})
    return [
        Fault("clock ahead", shift_clock(90), reasons, 2, touches="clock"),
        Fault("clock behind", shift_clock(-150), reasons, 2, touches="clock"),
        Fault("clock a year ahead", shift_clock(365 * 86_400), reasons, 2, touches="clock"),
    ]


def deribit_failure(rng: random.Random, name: str) -> Fault:
    """Returns a failure of Deribit for one ticker or all, with or without its charts."""
    index = rng.choice([None, None, *TICKERS])
    method = rng.choice([None, "get_index_price"])
    reasons = frozenset({REASON_BY_FAULT[name]})
    return Fault("Deribit fails", deribit_fault(name, index, method), reasons, rng.choice([1, 2]), index, "deribit")


def can_mount_disk() -> bool:
    """Whether a small disk can be mounted, which only root may do."""
    return os.geteuid() == 0 and subprocess.run(["mount", "--version"], capture_output=True, check=False).returncode == 0  # noqa: S607


def all_faults(rng: random.Random, *, disk: bool, failure_count: int = 4) -> list[Fault]:
    """Returns each fault once in random order, with that many failures of Deribit."""
    names = rng.sample(sorted(REASON_BY_FAULT), failure_count)
    faults = [*KILLS, *OUTAGES, *([DISK] if disk else []), *clock_faults(), *(deribit_failure(rng, name) for name in names)]
    rng.shuffle(faults)
    return faults


FORBIDDEN_PAIRS = [{"phase", other} for other in ("worker", "redis", "database", "deribit", "scheduler", "clock", "stacks")]
"""Components whose faults are not drawn together: with the other fault, a worker may never reach its phase."""


def draw_pair(rng: random.Random, *, disk: bool) -> tuple[Fault, Fault]:
    """Draws two faults that can overlap."""
    while True:
        first, second = rng.sample(all_faults(rng, disk=disk, failure_count=1), 2)
        if first.touches != second.touches and {first.touches, second.touches} not in FORBIDDEN_PAIRS:
            return first, second


def allowed_reasons(faults: Sequence[Fault], ticker: str) -> frozenset[Reason]:
    """Returns the reasons that a gap of the ticker under all the faults may have. Empty: the price must be LIVE."""
    found = frozenset[Reason]().union(*(fault.reasons for fault in faults if fault.ticker in (None, ticker)))
    touched = {fault.touches for fault in faults}
    if {"redis", "database"} <= touched:
        return found | {Reason.STORAGE, Reason.NOT_COLLECTED}  # neither server could store a price or a reason
    if found and "stacks" in touched:
        return found | NOT_COLLECTED_ONLY  # the failures recorded in the second stack's Redis are lost with it
    return found
