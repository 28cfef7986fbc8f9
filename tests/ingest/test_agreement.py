"""Several workers on one database: what they collect is what all of them want, and a collect by hand changes no tracking."""

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
from tests.stored import MINUTE, minutes

BOTH = ("btc_usd", "eth_usd")


def _beat(redis_url: str, worker: str, *tickers: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{HEARTBEATS}{worker}", json.dumps(tickers), ex=60)


def _stop(redis_url: str, worker: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"{HEARTBEATS}{worker}")


async def _reach(minute: int, simulator: Simulator, deribit: Deribit) -> None:
    """The exchange is in this minute, and the client has heard its clock."""
    simulator.clock.set(at=minute + 2)
    await deribit.names()


async def _tracked(db: Database) -> set[str]:
    return {record["ticker"] for record in await db.fetch("SELECT ticker FROM tracking WHERE until IS NULL")}


@pytest.fixture(autouse=True)
def _the_exchange_is_in_the_minute(simulator: Simulator) -> None:
    simulator.clock.set(at=MINUTE + 2)


async def test_workers_that_want_others_collect_and_track_all_of_them_and_say_so(
    db: Database, deribit: Deribit, outbox: Outbox, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _beat(redis_url, "a:1", "btc_usd", "eth_usd")
    _beat(redis_url, "b:2", "btc_usd", "sol_usd")
    collected = await collect(MINUTE, watchlist=Watchlist(BOTH), source=deribit, db=db, outbox=outbox, budget_s=2)
    assert set(collected.prices) == {"btc_usd", "eth_usd", "sol_usd"}
    assert await _tracked(db) == {"btc_usd", "eth_usd", "sol_usd"}
    assert (
        "TICKERS differ between running workers, all of them are collected; the differences are b:2: eth_usd, sol_usd"
        in caplog.text
    )


async def test_a_period_ends_when_no_running_worker_wants_its_ticker(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    """Not at once: a Redis that lost everything knows of no other worker, until they tell again."""
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    _beat(redis_url, "a:1", *BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
    assert await _tracked(db) == set(BOTH)
    _stop(redis_url, "a:1")
    for minute, still in ((60, set(BOTH)), (120, {"btc_usd"})):
        passed_s = float(minute)
        await _reach(MINUTE + minute, simulator, deribit)
        await collect(MINUTE + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
        await reconcile(MINUTE + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
        assert await _tracked(db) == still, minute
    until = await db.fetchval("SELECT until FROM tracking WHERE ticker = 'eth_usd'")
    assert until == MINUTE + 60, "it ends with the minute in which nobody wanted it any more"
    assert await db.fetchval("SELECT count(*) FROM gap") == 0


async def test_a_redis_that_lost_everything_ends_no_period_and_no_minute_is_missed(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    _beat(redis_url, "a:1", *BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    passed_s = 55.0
    await _reach(MINUTE + 60, simulator, deribit)
    collected = await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
    assert set(collected.prices) == set(BOTH)
    assert await _tracked(db) == set(BOTH)


async def test_nothing_ends_while_it_is_unknown_who_runs(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await collect(MINUTE, watchlist=Watchlist(BOTH), source=deribit, db=db, outbox=outbox, budget_s=2)
    await collect(MINUTE, watchlist=Watchlist(("btc_usd",)), source=deribit, db=db, outbox=None, budget_s=2)
    assert await _tracked(db) == set(BOTH)


async def test_a_collect_by_hand_changes_no_tracking(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await collect(MINUTE, watchlist=Watchlist(BOTH), source=deribit, db=db, outbox=outbox, budget_s=2)
    by_hand = Watchlist(("sol_usd",), updates_tracking=False)
    await collect(MINUTE, watchlist=by_hand, source=deribit, db=db, outbox=outbox, budget_s=2)
    assert await minutes(db, "sol_usd") == [MINUTE]
    assert await _tracked(db) == set(BOTH)
    assert await db.fetchval("SELECT count(*) FROM tracking") == 2


async def test_a_ticker_that_comes_back_begins_then_and_not_when_it_was_first_asked_for(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, redis_url: str
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("btc_usd",), monotonic=lambda: passed_s)
    for minute, others in ((0, ("eth_usd",)), (120, ()), (240, ()), (9 * 86_400, ("eth_usd",))):
        _stop(redis_url, "b:2")
        if others:
            _beat(redis_url, "b:2", *others)
        passed_s = float(minute)
        await _reach(MINUTE + minute, simulator, deribit)
        await collect(MINUTE + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
    periods = await db.fetch("SELECT since, until FROM tracking WHERE ticker = 'eth_usd' ORDER BY since")
    assert [tuple(one) for one in periods] == [(MINUTE, MINUTE + 120), (MINUTE + 9 * 86_400, None)]


async def test_all_means_whatever_the_exchange_lists_and_follows_it_daily(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    passed_s = 0.0
    watchlist = Watchlist(("all",), monotonic=lambda: passed_s)
    listed = await deribit.names()

    async def collected(minute: int) -> set[str]:
        nonlocal passed_s
        passed_s = float(minute)
        simulator.clock.set(at=MINUTE + minute + 2)
        await collect(MINUTE + minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=5)
        return await _tracked(db)

    assert len(listed) > 5
    assert await collected(0) == listed
    gone, *kept = sorted(listed)
    simulator.names = tuple(kept[:2])
    assert await collected(86_400) == listed, "that so many went at once is not believed"
    simulator.names = tuple(kept)
    for later in (0, 60):
        assert await collected(2 * 86_400 + later) == listed, "nor what one list lacks"
    await collected(2 * 86_400 + 660)
    assert await collected(2 * 86_400 + 720) == set(kept)
    assert gone not in await _tracked(db)
