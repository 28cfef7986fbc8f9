"""Several workers on one database collect the tickers that any of them wants. A manual collect changes no tracking."""

import json

import pytest
import redis

from db.pool import Database
from ingest.deribit.client import Deribit
from ingest.jobs.collect import collect
from ingest.jobs.reconcile import reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import HEARTBEATS, Outbox
from ingest.simulator.server import Simulator
from tests.sample_data import START_TS, minutes

TICKERS = ("btc_usd", "eth_usd")


def _send_heartbeat(redis_url: str, worker: str, *tickers: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{HEARTBEATS}{worker}", json.dumps(tickers), ex=60)


def _delete_heartbeat(redis_url: str, worker: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"{HEARTBEATS}{worker}")


async def _advance_to(minute: int, simulator: Simulator, deribit: Deribit) -> None:
    """Moves the exchange to the minute and lets the client read its clock."""
    simulator.clock.set(at=minute + 2)
    await deribit.names()


async def _tracked(db: Database) -> set[str]:
    return {record["ticker"] for record in await db.fetch("SELECT ticker FROM tracking WHERE until IS NULL")}


@pytest.fixture(autouse=True)
def _set_exchange_clock(simulator: Simulator) -> None:
    simulator.clock.set(at=START_TS + 2)


async def test_workers_with_different_tickers_collect_all_of_them_and_log_the_difference(
    db: Database, deribit: Deribit, outbox: Outbox, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _send_heartbeat(redis_url, "a:1", "btc_usd", "eth_usd")
    _send_heartbeat(redis_url, "b:2", "btc_usd", "sol_usd")
    collected = await collect(START_TS, watchlist=Watchlist(TICKERS), source=deribit, db=db, outbox=outbox)
    assert set(collected.prices) == {"btc_usd", "eth_usd", "sol_usd"}
    assert await _tracked(db) == {"btc_usd", "eth_usd", "sol_usd"}
    assert (
        "TICKERS differ between running workers, all of them are collected; the differences are b:2: eth_usd, sol_usd"
        in caplog.text
    )


async def test_a_period_ends_when_no_running_worker_wants_its_ticker(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    """Not at the first minute: after Redis lost its data, the other workers are unknown until their next heartbeats."""
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    _send_heartbeat(redis_url, "a:1", *TICKERS)
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert await _tracked(db) == set(TICKERS)
    _delete_heartbeat(redis_url, "a:1")
    for minute, expected_tickers in ((60, set(TICKERS)), (120, {"btc_usd"})):
        passed_s = float(minute)
        await _advance_to(START_TS + minute, simulator, deribit)
        await collect(START_TS + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
        await reconcile(START_TS + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
        assert await _tracked(db) == expected_tickers, minute
    until = await db.fetchval("SELECT until FROM tracking WHERE ticker = 'eth_usd'")
    assert until == START_TS + 60, "the period ends with the first minute in which no worker wanted the ticker"
    assert await db.fetchval("SELECT count(*) FROM gap") == 0


async def test_a_redis_that_lost_its_data_ends_no_period_and_misses_no_minute(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    _send_heartbeat(redis_url, "a:1", *TICKERS)
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    passed_s = 55.0
    await _advance_to(START_TS + 60, simulator, deribit)
    collected = await collect(START_TS + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert set(collected.prices) == set(TICKERS)
    assert await _tracked(db) == set(TICKERS)


async def test_no_period_ends_while_the_running_workers_are_unknown(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await collect(START_TS, watchlist=Watchlist(TICKERS), source=deribit, db=db, outbox=outbox)
    await collect(START_TS, watchlist=Watchlist(("btc_usd",)), source=deribit, db=db, outbox=None)
    assert await _tracked(db) == set(TICKERS)


async def test_a_manual_collect_changes_no_tracking(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await collect(START_TS, watchlist=Watchlist(TICKERS), source=deribit, db=db, outbox=outbox)
    manual_watchlist = Watchlist(("sol_usd",), updates_tracking=False)
    await collect(START_TS, watchlist=manual_watchlist, source=deribit, db=db, outbox=outbox)
    assert await minutes(db, "sol_usd") == [START_TS]
    assert await _tracked(db) == set(TICKERS)
    assert await db.fetchval("SELECT count(*) FROM tracking") == 2


async def test_a_ticker_that_is_wanted_again_starts_a_new_period_at_that_minute(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    for minute, others in ((0, ("eth_usd",)), (120, ()), (240, ()), (9 * 86_400, ("eth_usd",))):
        _delete_heartbeat(redis_url, "b:2")
        if others:
            _send_heartbeat(redis_url, "b:2", *others)
        passed_s = float(minute)
        await _advance_to(START_TS + minute, simulator, deribit)
        await collect(START_TS + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    periods = await db.fetch("SELECT since, until FROM tracking WHERE ticker = 'eth_usd' ORDER BY since")
    assert [tuple(one) for one in periods] == [(START_TS, START_TS + 120), (START_TS + 9 * 86_400, None)]


async def test_all_tracks_every_listed_ticker_and_follows_the_list_daily(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("all",), monotonic=lambda: passed_s)
    listed = await deribit.names()

    async def collect_and_read_tracked(minute: int) -> set[str]:
        nonlocal passed_s
        passed_s = float(minute)
        simulator.clock.set(at=START_TS + minute + 2)
        await collect(START_TS + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
        return await _tracked(db)

    assert len(listed) > 5
    assert await collect_and_read_tracked(0) == listed
    removed, *remaining = sorted(listed)
    simulator.names = tuple(remaining[:2])
    assert await collect_and_read_tracked(86_400) == listed, "a list that lost so many tickers at once is not trusted"
    simulator.names = tuple(remaining)
    for offset_s in (0, 60):
        assert await collect_and_read_tracked(2 * 86_400 + offset_s) == listed, (
            "a single list without a ticker is not trusted either"
        )
    await collect_and_read_tracked(2 * 86_400 + 660)
    assert await collect_and_read_tracked(2 * 86_400 + 720) == set(remaining)
    assert removed not in await _tracked(db)
