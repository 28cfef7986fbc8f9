"""What is done to the stand: each fault is a block during which it lasts, with what may come of its minutes."""

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
from db.tables import Reason
from tests.chaos.stand import TICKERS, Stack, Stand, ballast, second_stack
from tests.ingest.test_client import EXPECTED

Block = Callable[[Stand, int], AbstractAsyncContextManager[None]]

REASON_OF = {name: reason for name, (_, reason) in EXPECTED.items() if name != "unknown_index"} | {
    "no_clock": Reason.CLOCK,
    "price_infinite": Reason.MALFORMED,
    "price_tiny": Reason.MALFORMED,
}
"""Why a minute has no price, by what Deribit answered. (`unknown_index` would end the ticker.)"""
NOBODY = frozenset({Reason.NOT_COLLECTED})
SEGMENTS_MOST = 50
WITHIN_S = 8.0
"""How long a worker may take to reach the phase in which it is killed."""


@dataclass(frozen=True)
class Fault:
    """A fault: how it is made, what reasons its minutes may have, and what it touches."""

    name: str
    block: Block
    reasons: frozenset[Reason] = frozenset()
    """Why a minute under it may be a gap; none: each price is safe, and must be there as LIVE."""
    minutes: int = 1
    ticker: str | None = None
    """The only one that the reasons are for; None: all."""
    touches: str = ""
    """`redis`, `worker` or `database`: two faults that touch the same are not drawn together."""


@asynccontextmanager
async def _killed_when(
    stand: Stand, reached: Callable[[], Awaitable[bool]], after: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Kills the first worker once the phase is reached, then cleans up and starts another."""

    async def kill() -> None:
        if not await stand.stack.until(reached, WITHIN_S):
            stand.toothless.append("a worker was killed before it reached its phase")
        await stand.stack.kill_worker()
        await after()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        await killing
        await stand.stack.start_worker()


async def _nothing() -> None:
    return


@asynccontextmanager
async def killed_fetching(stand: Stand, minute: int) -> AsyncIterator[None]:
    """While a ticker's answer hangs."""
    stand.simulator.fail("hang", index=TICKERS[0], method="get_index_price")
    before = stand.simulator.calls.get("get_index_price", 0)

    async def reached() -> bool:
        kept = await stand.stored(minute) | {name.partition("|")[0] for name in await stand.stack.waiting()}
        return stand.simulator.calls.get("get_index_price", 0) >= before + len(TICKERS) and set(TICKERS[1:]) <= kept

    async def heal() -> None:
        stand.simulator.clear_faults()

    async with _killed_when(stand, reached, heal):
        yield


@asynccontextmanager
async def _turn_held(stand: Stand) -> AsyncIterator[asyncpg.Connection]:
    """Keeps every writer of the database waiting."""
    async with stand.sql() as connection, connection.transaction():
        await connection.execute(ACQUIRE_WRITER_LOCK)
        yield connection


async def _all_wait(stand: Stand, minute: int) -> bool:
    return {f"{ticker}|{minute}" for ticker in TICKERS} <= await stand.stack.waiting()


@asynccontextmanager
async def killed_with_the_outbox_written(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Its prices in the outbox, its turn to write not come."""
    async with _turn_held(stand), _killed_when(stand, lambda: _all_wait(stand, minute), _nothing):
        yield


@asynccontextmanager
async def _row_held(
    stand: Stand, minute: int
) -> AsyncIterator[tuple[Callable[[], Awaitable[bool]], Callable[[], Awaitable[None]]]]:
    """The minute's rows, which the worker then waits for inside its transaction: whether it waits, and what lets them go."""
    async with stand.sql() as connection:
        transaction = connection.transaction()
        await transaction.start()
        # Without the trigger, which would take the writer's turn, so that the worker would wait for that.
        await connection.execute("SET LOCAL session_replication_role = replica")
        held = "INSERT INTO price (ticker, ts, price, source) SELECT name, $1, 1, 'IMPORT' FROM ticker"
        await connection.execute(held, minute)

        async def reached() -> bool:
            async with stand.sql() as other:
                waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
                return await _all_wait(stand, minute) and bool(await other.fetchval(waits))

        yield reached, transaction.rollback


@asynccontextmanager
async def killed_in_its_transaction(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Waiting for a row that another transaction holds."""
    async with _row_held(stand, minute) as (reached, let_go), _killed_when(stand, reached, let_go):
        yield


@asynccontextmanager
async def frozen_in_its_transaction(stand: Stand, minute: int) -> AsyncIterator[None]:
    """SIGSTOP of the worker while it holds the writers' turn: a host that says nothing any more."""
    async with _row_held(stand, minute) as (reached, let_go):

        async def freeze() -> None:
            if not await stand.stack.until(reached, WITHIN_S):
                stand.toothless.append("a worker was frozen before it held the turn")
            stand.stack.signal_worker(signal.SIGSTOP)
            await let_go()

        freezing = asyncio.create_task(freeze())
        try:
            yield
        finally:
            await freezing
            stand.stack.signal_worker(signal.SIGCONT)


@asynccontextmanager
async def killed_committed_and_not_removed(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Its prices committed, Redis not yet told to forget them."""

    async def reached() -> bool:
        return {*TICKERS} <= await stand.stored(minute)

    async def unpause() -> None:
        await letting
        async with stand.stack.redis() as client:
            await client.client_unpause()

    async def commits_while_redis_stands() -> None:
        async with _turn_held(stand):
            if await stand.stack.until(lambda: _all_wait(stand, minute), WITHIN_S):
                async with stand.stack.redis() as client:
                    await client.client_pause(30_000, all=False)

    letting = asyncio.create_task(commits_while_redis_stands())
    async with _killed_when(stand, reached, unpause):
        yield


@asynccontextmanager
async def workers_gone(stand: Stand, minute: int) -> AsyncIterator[None]:
    """All of them, kill -9."""
    await stand.stack.kill_worker()
    try:
        yield
    finally:
        await stand.stack.start_worker()


@asynccontextmanager
async def redis_killed(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Kill -9 of Redis, started again later."""
    await stand.stack.valkey.kill()
    try:
        yield
    finally:
        await stand.stack.valkey.start()
        await stand.stack.start_worker()


@asynccontextmanager
async def redis_killed_under_a_collect(stand: Stand, minute: int) -> AsyncIterator[None]:
    """While Deribit is being asked: the prices go straight into PostgreSQL."""
    stand.simulator.delay_s = 1.0
    before = stand.simulator.calls.get("get_index_price", 0)

    async def kill() -> None:
        def asked() -> bool:
            return stand.simulator.calls.get("get_index_price", 0) >= before + len(TICKERS)

        if not await stand.stack.until(asked, WITHIN_S):
            stand.toothless.append("Redis was killed before Deribit was asked")
        await stand.stack.valkey.kill()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        await killing
        stand.simulator.delay_s = 0.0
        await stand.stack.valkey.start()
        await stand.stack.start_worker()


@asynccontextmanager
async def redis_wiped(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Everything in Redis gone: messages, the outbox, the evidence."""

    async def wipe() -> None:
        await asyncio.sleep(stand.draw.random() / 2)
        with contextlib.suppress(redis.RedisError):
            async with stand.stack.redis() as client:
                await client.flushall()

    wiping = asyncio.create_task(wipe())
    try:
        yield
    finally:
        await wiping


def redis_set(harm: Callable[["redis.asyncio.Redis"], Awaitable[object]]) -> Block:
    """Redis as an operator or a provider may set it; as it was at the end."""

    @asynccontextmanager
    async def block(stand: Stand, minute: int) -> AsyncIterator[None]:
        async with stand.stack.redis() as client:
            await harm(client)
        try:
            yield
        finally:
            await stand.stack.valkey.start()  # another fault may have ended it
            async with stand.stack.redis() as client:
                await client.replicaof("no", "one")
                await client.config_set("maxmemory", 0)
                await client.config_set("maxmemory-policy", "noeviction")

    return block


async def _read_only(client: "redis.asyncio.Redis") -> None:
    await client.replicaof("127.0.0.1", "1")


async def _full(client: "redis.asyncio.Redis") -> None:
    await client.config_set("maxmemory", "1mb")


async def _evicting(client: "redis.asyncio.Redis") -> None:
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", "1mb")


@asynccontextmanager
async def postgres_read_only(stand: Stand, minute: int) -> AsyncIterator[None]:
    """As during a failover, or where a provider's disk is full."""
    name = stand.postgres.url.rpartition("/")[2]
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tickgraph%'"
    async with stand.sql() as connection:
        await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await connection.execute(others)
    try:
        yield
    finally:
        await stand.postgres.start()  # another fault may have ended it
        async with stand.sql() as connection:
            await connection.execute("SET default_transaction_read_only = off")
            await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


@asynccontextmanager
async def postgres_stopped(stand: Stand, minute: int) -> AsyncIterator[None]:
    """PostgreSQL stopped, started again later."""
    await stand.postgres.stop()
    try:
        yield
    finally:
        await stand.postgres.start()


@asynccontextmanager
async def postgres_killed(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Kill -9 of PostgreSQL."""
    await stand.postgres.kill()
    try:
        yield
    finally:
        await stand.postgres.start()


@asynccontextmanager
async def disk_full(stand: Stand, minute: int) -> AsyncIterator[None]:
    """No room on PostgreSQL's disk, which is a small one."""
    files = [stand.folder / "postgres" / f"ballast-{number}" for number in range(2)]
    await asyncio.to_thread(ballast, files)
    # It has segments of its log at hand: used up, the next commit finds no room.
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        async with stand.sql() as connection:
            for _ in range(SEGMENTS_MOST):
                await connection.execute("SELECT pg_logical_emit_message(true, 'chaos', 'x'), pg_switch_wal()")
    await asyncio.to_thread(ballast, files)
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)
        await asyncio.sleep(0.5)  # it may be starting again by itself, and would refuse a second one
        await stand.postgres.start()


@asynccontextmanager
async def connections_exhausted(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Every connection taken, the workers' too."""
    taken: list[asyncpg.Connection] = []
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tickgraph%'"
    async with stand.sql() as first:
        try:
            for _ in range(2):  # those freed by the end of the workers' connections, too
                with contextlib.suppress(asyncpg.TooManyConnectionsError, OSError, asyncpg.PostgresError):
                    while True:
                        taken.append(await asyncpg.connect(stand.postgres.url, timeout=2))
                await first.execute(others)
            yield
        finally:
            for connection in taken:
                connection.terminate()


def deribit(name: str, index: str | None, method: str | None) -> Block:
    """Deribit failing in one of its ways, for one ticker or all."""

    @asynccontextmanager
    async def block(stand: Stand, minute: int) -> AsyncIterator[None]:
        stand.simulator.fail(name, index=index, method=method)
        try:
            yield
        finally:
            stand.simulator.clear_faults()

    return block


def clock_off(offset_s: int) -> Block:
    """The exchange's clock ahead or behind."""

    @asynccontextmanager
    async def block(stand: Stand, minute: int) -> AsyncIterator[None]:
        stand.clock_offset_s = offset_s
        stand.simulator.clock.set(at=stand.simulator.clock.now_us() / 1e6 + offset_s)
        try:
            yield
        finally:
            stand.clock_offset_s = 0.0
            stand.simulator.clock.set(at=stand.simulator.clock.now_us() / 1e6 - offset_s)

    return block


@asynccontextmanager
async def scheduler_down(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Nobody sends the minute."""
    running = len(stand.stack.schedulers)
    await stand.stack.end_schedulers()
    stand.schedulers_run = False
    try:
        yield
    finally:
        stand.schedulers_run = True
        for _ in range(running):
            stand.stack.start_scheduler()


@asynccontextmanager
async def scheduler_doubled(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Everything is sent twice."""
    await stand.stack.publish(minute)
    yield


@asynccontextmanager
async def two_stacks(stand: Stand, minute: int) -> AsyncIterator[None]:
    """Two complete stacks on one database."""
    async with second_stack(stand):
        yield


@asynccontextmanager
async def scheduler_far_ahead(stand: Stand, minute: int) -> AsyncIterator[None]:
    """A second scheduler, on a host whose clock is sixty days ahead; RETENTION_DAYS is set."""
    await stand.stack.publish(minute + 60 * 86_400)
    yield


@asynccontextmanager
async def other_tickers(stand: Stand, minute: int) -> AsyncIterator[None]:
    """A second worker at the same Redis that was started with another TICKERS."""
    other = Stack("other", stand.folder, stand.stack.settings | {"TICKERS": TICKERS[0]}, stand.stack.valkey)
    await other.start_worker()
    try:
        yield
    finally:
        await other.stop_worker()
        stand.stack.started_at += other.started_at


KILLS = [
    Fault("worker killed while fetching", killed_fetching, NOBODY, ticker=TICKERS[0], touches="phase"),
    Fault("worker killed, outbox written", killed_with_the_outbox_written, touches="phase"),
    Fault("worker killed in its transaction", killed_in_its_transaction, touches="phase"),
    Fault("worker frozen in its transaction", frozen_in_its_transaction, touches="phase"),
    Fault("worker killed, committed, not removed", killed_committed_and_not_removed, touches="phase"),
]
OUTAGES = [
    Fault("all workers gone", workers_gone, NOBODY, 3, touches="worker"),
    Fault("Redis killed", redis_killed, NOBODY, 2, touches="redis"),
    Fault("Redis killed under a collect", redis_killed_under_a_collect, touches="redis"),
    Fault("Redis wiped", redis_wiped, NOBODY, touches="redis"),
    Fault("Redis read-only", redis_set(_read_only), NOBODY, 2, touches="redis"),
    Fault("Redis full", redis_set(_full), NOBODY, 2, touches="redis"),
    Fault("Redis evicts", redis_set(_evicting), NOBODY, 2, touches="redis"),
    Fault("PostgreSQL read-only", postgres_read_only, minutes=2, touches="database"),
    Fault("PostgreSQL stopped", postgres_stopped, minutes=3, touches="database"),
    Fault("PostgreSQL killed -9", postgres_killed, minutes=2, touches="database"),
    Fault("connections exhausted", connections_exhausted, minutes=2, touches="database"),
    Fault("scheduler down", scheduler_down, NOBODY, 2, touches="scheduler"),
    Fault("scheduler doubled", scheduler_doubled, touches="scheduler"),
    Fault("scheduler far ahead", scheduler_far_ahead, touches="scheduler"),
    Fault("workers with other TICKERS", other_tickers, minutes=2, touches="worker"),
    Fault("two complete stacks", two_stacks, minutes=2, touches="stacks"),
]
DISK = Fault("database disk full", disk_full, minutes=2, touches="database")


def clocks() -> list[Fault]:
    """The exchange's clock, off by more than a minute either way, and by a year."""
    reasons = frozenset({Reason.CLOCK, Reason.NOT_COLLECTED})
    return [
        Fault("clock ahead", clock_off(90), reasons, 2, touches="clock"),
        Fault("clock behind", clock_off(-150), reasons, 2, touches="clock"),
        Fault("clock a year ahead", clock_off(365 * 86_400), reasons, 2, touches="clock"),
    ]


def failing(draw: random.Random, name: str) -> Fault:
    """Deribit failing in one of its ways, for one ticker or all, in its charts, too, or not."""
    index = draw.choice([None, None, *TICKERS])
    method = draw.choice([None, "get_index_price"])
    reasons = frozenset({REASON_OF[name]})
    return Fault("Deribit fails", deribit(name, index, method), reasons, draw.choice([1, 2]), index, "deribit")


def can_fill_a_disk() -> bool:
    """Whether a small disk can be made: only root may."""
    return os.geteuid() == 0 and subprocess.run(["mount", "--version"], capture_output=True, check=False).returncode == 0  # noqa: S607


def every(draw: random.Random, *, disk: bool, ways: int = 4) -> list[Fault]:
    """Each fault once, in an order that is drawn; Deribit in so many of its ways."""
    names = draw.sample(sorted(REASON_OF), ways)
    faults = [*KILLS, *OUTAGES, *([DISK] if disk else []), *clocks(), *(failing(draw, name) for name in names)]
    draw.shuffle(faults)
    return faults


FORBIDDEN = [{"phase", other} for other in ("worker", "redis", "database", "deribit", "scheduler", "clock", "stacks")]
"""What is not drawn together: a worker cannot be killed in a phase that it does not reach."""


def pair(draw: random.Random, *, disk: bool) -> tuple[Fault, Fault]:
    """Two faults that can overlap."""
    while True:
        one, other = draw.sample(every(draw, disk=disk, ways=1), 2)
        if one.touches != other.touches and {one.touches, other.touches} not in FORBIDDEN:
            return one, other


def reasons(faults: Sequence[Fault], ticker: str) -> frozenset[Reason]:
    """Why a minute of the ticker under all of them may be a gap; none: it must be LIVE."""
    found = frozenset[Reason]().union(*(fault.reasons for fault in faults if fault.ticker in (None, ticker)))
    touched = {fault.touches for fault in faults}
    if {"redis", "database"} <= touched:
        return found | {Reason.STORAGE, Reason.NOT_COLLECTED}  # nothing was left that could keep a price, or tell why not
    if found and "stacks" in touched:
        return found | NOBODY  # what the second stack's Redis knew is gone with it
    return found
