"""Real workers on a real Redis: the standard commands, virtual minutes, and workers that are killed or frozen."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from db import times
from db.pool import Database
from db.queries import write_lock
from db.queues import Actor, Queue
from db.runtime import embedded
from graph.engine.fetch_requests import FetchRequests
from ingest.outbox import open_outbox
from ingest.queue import UNDECODABLE
from ingest.simulator.server import Simulator
from tests.conftest import ROOT
from tests.e2e.conftest import run_verb
from tests.sample_data import START_TS, minutes, row, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

pytestmark = pytest.mark.slow  # each test starts processes


class LoggedProcess:
    """A `dramatiq` process and its log."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """Kills the whole process group with SIGKILL, as a failing host does."""
        os.killpg(self.process.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def _run_process(env: dict[str, str], log: Path, *arguments: str) -> AsyncIterator[LoggedProcess]:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).parent / arguments[0]), *arguments[1:]),
            cwd=log.parent,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    worker = LoggedProcess(process, log)
    try:
        yield worker
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), WAIT_TIMEOUT_S)


DRAMATIQ = ("dramatiq", "ingest.broker:broker", "ingest.actors", "--processes", "1", "--threads", "2")
PERIODIQ = ("periodiq", "ingest.broker:broker", "ingest.actors")


@pytest.fixture
def env(dsn: str, redis_url: str, rpc_url: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn, "REDIS_URL": redis_url, "DERIBIT_RPC_URL": rpc_url}


@pytest.fixture
def publisher(redis_url: str) -> RedisBroker:
    return RedisBroker(url=redis_url, middleware=[])  # type: ignore[no-untyped-call]  # dramatiq leaves it untyped


def _publish(publisher: RedisBroker, minute: int) -> None:
    publisher.enqueue(
        dramatiq.Message(queue_name=Queue.COLLECT, actor_name=Actor.COLLECT, args=(), kwargs={"minute": minute}, options={})
    )


async def _wait_until_stored(db: Database, ticker: str, minute: int, worker: LoggedProcess) -> None:
    async def stored() -> bool:
        return minute in await minutes(db, ticker)

    await wait_until(stored, describe_state=lambda: worker.output)


async def test_virtual_minutes_sent_through_redis_are_each_stored_once(
    env: dict[str, str], publisher: RedisBroker, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    simulator.clock.set(at=START_TS, stands=True)
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        for minute in range(START_TS, START_TS + 20 * 60, 60):
            simulator.clock.set(at=minute + 1.5, stands=True)
            for _ in range(2):  # a second scheduler sends everything twice
                _publish(publisher, minute)
            await _wait_until_stored(db, "btc_usd", minute, worker)
            await _wait_until_stored(db, "eth_usd", minute, worker)
    for ticker in ("btc_usd", "eth_usd"):
        assert await minutes(db, ticker) == list(range(START_TS, START_TS + 20 * 60, 60))
    served = {(one.ticker, one.us_out // 60_000_000 * 60): one.price for one in simulator.served}
    rows = await db.fetch("SELECT ticker, ts, price FROM price")
    assert {(r["ticker"], r["ts"]): str(r["price"]) for r in rows} == served


async def test_after_a_worker_is_killed_during_a_fetch_the_next_one_completes_the_minute(
    env: dict[str, str], publisher: RedisBroker, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    simulator.clock.set(at=START_TS + 1, stands=True)
    simulator.fail("hang", index="eth_usd", method="get_index_price")
    async with _run_process(env, tmp_path / "first.log", *DRAMATIQ) as worker:
        _publish(publisher, START_TS)
        await _wait_until_stored(db, "btc_usd", START_TS, worker)
        worker.kill()
        await worker.process.wait()
    simulator.clear_faults()
    async with _run_process(env, tmp_path / "second.log", *DRAMATIQ) as worker:
        _publish(publisher, START_TS)
        await _wait_until_stored(db, "eth_usd", START_TS, worker)
    assert await minutes(db, "btc_usd") == [START_TS]
    assert await minutes(db, "eth_usd") == [START_TS]


@contextlib.asynccontextmanager
async def _block_worker_transaction(
    minute: int, publisher: RedisBroker, simulator: Simulator, db: Database
) -> AsyncIterator[None]:
    """While the block runs, the worker that collects the minute waits for a lock on `price` inside its transaction."""
    async with db.transaction() as blocking:
        await blocking.execute("LOCK TABLE price IN SHARE ROW EXCLUSIVE MODE")
        simulator.clock.set(at=minute + 1, stands=True)
        _publish(publisher, minute)
        await wait_until(lambda: blocking.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))
        yield


async def test_a_worker_killed_inside_its_transaction_stores_nothing_and_holds_no_lock(
    env: dict[str, str], publisher: RedisBroker, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    simulator.clock.set(at=START_TS + 1, stands=True)
    async with _run_process(env, tmp_path / "zero.log", *DRAMATIQ) as worker:
        _publish(publisher, START_TS)
        await _wait_until_stored(db, "eth_usd", START_TS, worker)
        async with _block_worker_transaction(START_TS + 60, publisher, simulator, db):
            worker.kill()
            await worker.process.wait()
    assert await minutes(db, "btc_usd") == [START_TS]
    async with _run_process(env, tmp_path / "next.log", *DRAMATIQ) as worker:
        _publish(publisher, START_TS + 60)
        await _wait_until_stored(db, "btc_usd", START_TS + 60, worker)


async def test_a_worker_collects_on_start_and_scheduled_messages_carry_their_minute(
    env: dict[str, str], db: Database, simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker,
        _run_process(env, tmp_path / "scheduler.log", *PERIODIQ) as scheduler,
    ):
        await wait_until(
            lambda: "Processing" in worker.output and "prices collected" in worker.output, describe_state=lambda: worker.output
        )
        assert "Scheduling Actor(collect)" in scheduler.output
        await wait_until(lambda: "collect(minute=" in worker.output, describe_state=lambda: worker.output)
    assert "Traceback" not in worker.output + scheduler.output
    served = {one.us_out // 60_000_000 * 60 for one in simulator.served}
    assert set(await minutes(db, "btc_usd")) <= served


async def test_a_worker_stops_within_seconds_while_the_exchange_does_not_respond(
    env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    simulator.fail("hang", method="get_index_price")
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        await wait_until(lambda: "get_index_price" in simulator.calls)
        worker.process.terminate()
        await asyncio.wait_for(worker.process.wait(), WAIT_TIMEOUT_S)


async def test_an_unreachable_exchange_is_logged_in_a_line_that_names_the_setting(env: dict[str, str], tmp_path: Path) -> None:
    env["DERIBIT_RPC_URL"] = "http://127.0.0.1:1/api/v2"
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        line = "btc_usd: no connection to DERIBIT_RPC_URL=http://127.0.0.1:1/api/v2"
        await wait_until(lambda: line in worker.output, describe_state=lambda: worker.output)
    assert "Traceback" not in worker.output, worker.output


@pytest.mark.parametrize("arguments", [DRAMATIQ, PERIODIQ])
async def test_an_invalid_setting_ends_the_standard_commands_with_one_line(
    env: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    env["TICKERS"] = "BTC USD"
    async with _run_process(env, tmp_path / "process.log", *arguments) as process:
        assert await asyncio.wait_for(process.process.wait(), WAIT_TIMEOUT_S) != 0
    assert "TICKERS: " in process.output
    assert "Traceback" not in process.output, process.output


async def test_a_second_sigterm_ends_a_worker_at_once(env: dict[str, str], simulator: Simulator, tmp_path: Path) -> None:
    simulator.fail("hang", method="get_index_price")
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        await wait_until(lambda: "get_index_price" in simulator.calls, describe_state=lambda: worker.output)
        os.killpg(worker.process.pid, signal.SIGTERM)
        # Two pending signals would count as one.
        await wait_until(lambda: "Stopping worker process" in worker.output, describe_state=lambda: worker.output)
        os.killpg(worker.process.pid, signal.SIGTERM)
        await asyncio.wait_for(worker.process.wait(), WAIT_TIMEOUT_S)


async def test_a_fetch_request_of_the_api_is_collected_by_a_worker(
    env: dict[str, str], redis_url: str, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    simulator.clock.set(at=START_TS + 1, stands=True)
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        fetch_requests = FetchRequests(redis_url)
        assert (await fetch_requests.send(START_TS, ["eth_usd"])).queued
        await _wait_until_stored(db, "eth_usd", START_TS, worker)
        fetch_requests.close()
    assert await minutes(db, "btc_usd") == []


async def test_only_a_running_worker_is_reported_as_healthy(env: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    async def status() -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ingest", "healthy", "--worker"),
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

    fetch_requests = FetchRequests(redis_url)
    await fetch_requests.send(START_TS, [])
    fetch_requests.close()
    assert await status() == 1, "a queued message does not count as a worker"
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        await wait_until(lambda: "prices collected" in worker.output, describe_state=lambda: worker.output)
        assert await status() == 0


async def test_a_starting_worker_first_drains_the_outbox_and_fills_gaps(
    env: dict[str, str], redis_url: str, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    now = times.minute_of(time.time())
    await track(db, "btc_usd", since=now - 600)
    async with open_outbox(redis_url, max_prices=10) as outbox:
        await outbox.put([row("btc_usd", now - 300, "1")])
    async with _run_process(env | {"TICKERS": "btc_usd"}, tmp_path / "worker.log", *DRAMATIQ) as worker:

        async def complete() -> bool:
            return set(await minutes(db, "btc_usd")) >= set(range(now - 600, now, 60))

        await wait_until(complete, describe_state=lambda: worker.output)
    stored = {r["ts"]: r for r in await db.fetch("SELECT ts, source, price FROM price")}
    assert (stored[now - 300]["source"], stored[now - 300]["price"]) == ("LIVE", 1), (
        "a queued price takes precedence over an average"
    )
    assert stored[now - 360]["source"] == "BACKFILL"
    ledger = await db.fetch("SELECT reason, filled_at FROM gap WHERE ts < $1", now)
    assert {r["reason"] for r in ledger} == {"not_collected"}
    assert all(r["filled_at"] for r in ledger)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """A separate Redis that the test may misconfigure."""
    with embedded.valkey(tmp_path / "own") as server:
        yield server.url


async def test_an_undecodable_message_is_moved_with_one_log_line_and_the_next_is_processed(
    env: dict[str, str], publisher: RedisBroker, redis_url: str, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    simulator.clock.set(at=START_TS + 1, stands=True)
    with redis.Redis.from_url(redis_url) as client:
        for number, data in enumerate((b"no JSON", b"\xff\xfe", b"[1]", b"{}", b'{"queue_name": 1}')):
            client.hset(f"dramatiq:{Queue.COLLECT}.msgs", f"bad{number}", data)
            client.rpush(f"dramatiq:{Queue.COLLECT}", f"bad{number}")
        async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
            _publish(publisher, START_TS)
            await _wait_until_stored(db, "btc_usd", START_TS, worker)
            await wait_until(lambda: client.llen(UNDECODABLE) == 5, describe_state=lambda: worker.output)
            output = worker.output
        assert client.lrange(UNDECODABLE, 0, -1)[-1] == b"no JSON"
    assert output.count("cannot be decoded and is moved") == 5, output
    assert "Traceback" not in output, output


def _make_read_only(client: "redis.Redis") -> None:
    client.replicaof("127.0.0.1", "1")


def _limit_memory(client: "redis.Redis") -> None:
    client.config_set("maxmemory", "1mb")


def _change_password(client: "redis.Redis") -> None:
    client.config_set("requirepass", "another")
    client.client_kill_filter(_type="normal", skipme=True)


def _restore(client: "redis.Redis", password: str) -> None:
    client.replicaof("no", "one")
    client.config_set("maxmemory", 0)
    client.config_set("requirepass", password)


@pytest.mark.slow
@pytest.mark.parametrize("misconfigure", [_make_read_only, _limit_memory, _change_password])
async def test_a_redis_that_rejects_writes_is_logged_once_and_used_again_after_recovery(
    env: dict[str, str], own_redis: str, db: Database, tmp_path: Path, misconfigure: Callable[["redis.Redis"], None]
) -> None:
    env["REDIS_URL"] = own_redis
    password = str(urlsplit(own_redis).password)

    def lines(worker: LoggedProcess, scheduler: LoggedProcess) -> list[str]:
        return [line for output in (worker.output, scheduler.output) for line in output.splitlines() if line.strip()]

    async with (
        _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker,
        _run_process(env, tmp_path / "scheduler.log", *PERIODIQ) as scheduler,
    ):
        await wait_until(lambda: "prices collected" in worker.output, describe_state=lambda: worker.output)
        await wait_until(lambda: "Scheduling" in scheduler.output, describe_state=lambda: scheduler.output)
        with redis.Redis.from_url(own_redis) as client:
            misconfigure(client)
            line_count_before = len(lines(worker, scheduler))
            await wait_until(lambda: "Redis (REDIS_URL) fails" in worker.output, describe_state=lambda: worker.output)
            status, _, output = await run_verb(
                tmp_path, "ingest", "status", DATABASE_URL=env["DATABASE_URL"], REDIS_URL=own_redis
            )
            assert status == 1
            health_status, _, _ = await run_verb(tmp_path, "ingest", "healthy", REDIS_URL=own_redis)
            assert health_status == 1, output
            await asyncio.sleep(5)  # without the limit there would be hundreds of lines
            lines_during = lines(worker, scheduler)
            assert scheduler.process.returncode is None, "the scheduler keeps running"
            assert len(lines_during) - line_count_before < 40, "\n".join(lines_during[line_count_before:])
            assert "Traceback" not in "\n".join(lines_during)
            _restore(client, password)
        await wait_until(lambda: "Redis (REDIS_URL) works again" in worker.output, describe_state=lambda: worker.output)
        fetch_requests = FetchRequests(own_redis)
        await fetch_requests.send(times.minute_of(time.time()), [])
        fetch_requests.close()
        await wait_until(
            lambda: (
                "of 2 prices collected" in worker.output.partition("Redis (REDIS_URL) works again")[2]
                or "nothing is missing" in worker.output.partition("Redis (REDIS_URL) works again")[2]
            ),
            describe_state=lambda: worker.output,
        )


async def test_a_redis_that_may_lose_data_is_reported_to_the_operator(
    env: dict[str, str], own_redis: str, tmp_path: Path
) -> None:
    env["REDIS_URL"] = own_redis
    with redis.Redis.from_url(own_redis) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    async with _run_process(env, tmp_path / "worker.log", *DRAMATIQ) as worker:
        await wait_until(lambda: "maxmemory-policy is allkeys-lru" in worker.output, describe_state=lambda: worker.output)
        await wait_until(lambda: "it writes nothing to disk" in worker.output, describe_state=lambda: worker.output)
        _, out, _ = await run_verb(tmp_path, "ingest", "status", DATABASE_URL=env["DATABASE_URL"], REDIS_URL=own_redis)
    assert "maxmemory-policy is allkeys-lru" in out
    assert "set appendonly to yes" in out


@pytest.mark.slow
async def test_a_worker_frozen_inside_its_transaction_blocks_no_other_and_continues_later(
    env: dict[str, str], publisher: RedisBroker, simulator: Simulator, db: Database, tmp_path: Path
) -> None:
    """SIGSTOP while the worker holds the write lock simulates a lost host: its session ends, and another worker writes."""
    simulator.clock.set(at=START_TS + 1, stands=True)
    async with _run_process(env, tmp_path / "frozen.log", *DRAMATIQ) as frozen_worker:
        _publish(publisher, START_TS)
        await _wait_until_stored(db, "eth_usd", START_TS, frozen_worker)
        async with _block_worker_transaction(START_TS + 60, publisher, simulator, db):
            os.killpg(frozen_worker.process.pid, signal.SIGSTOP)
        holder = await write_lock.lock_holder(db)
        assert holder is not None
        assert holder["application"] == "tickgraph worker"
        try:
            async with _run_process(env, tmp_path / "other.log", *DRAMATIQ) as second_worker:
                _publish(publisher, START_TS + 60)
                await _wait_until_stored(db, "btc_usd", START_TS + 60, second_worker)
        finally:
            os.killpg(frozen_worker.process.pid, signal.SIGCONT)
        simulator.clock.set(at=START_TS + 121, stands=True)
        _publish(publisher, START_TS + 120)
        await _wait_until_stored(db, "btc_usd", START_TS + 120, frozen_worker)
