"""Collecting a minute: real PostgreSQL, the simulated exchange, and whatever goes wrong in between."""

import asyncio
import re
import time
from decimal import Decimal

import asyncpg
import pytest

from db.errors import DatabaseUnavailableError
from db.pool import Database, open_database
from db.queries import prices, writing
from ingest.deribit.client import Deribit
from ingest.errors import Reason, UnknownTickerError
from ingest.jobs.collect import Collected, collect
from ingest.jobs.watchlist import Watchlist
from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator
from ingest.source import ChartPoint, ExchangeClock, Quote
from tests.conftest import Servers
from tests.stored import MINUTE, minutes, row, store, track
from tests.waiting import until

BOTH = ("btc_usd", "eth_usd")


@pytest.fixture(autouse=True)
def _the_exchange_is_in_the_minute(simulator: Simulator) -> None:
    simulator.clock.set(at=MINUTE + 2)


async def _collect(
    db: Database, deribit: Deribit, minute: int = MINUTE, *, tickers: tuple[str, ...] = BOTH, budget_s: float = 2.0
) -> Collected:
    return await collect(minute, watchlist=Watchlist(tickers), source=deribit, db=db, budget_s=budget_s)


async def test_each_ticker_is_stored_as_the_exchange_said_it(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    collected = await _collect(db, deribit)
    assert (collected.stored, collected.failures) == (2, {})
    for served in simulator.served:
        stored = await prices.latest(db, served.ticker)
        assert stored is not None
        assert (stored["ts"], stored["observed_at"], stored["source"]) == (MINUTE, served.us_out, "LIVE")
        assert str(stored["price"]) == served.price


async def test_a_second_message_for_the_minute_asks_nobody(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    calls = dict(simulator.calls)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    assert (collected.stored, simulator.calls) == (0, calls)


async def test_two_collects_of_a_minute_at_once_store_it_once(db: Database, deribit: Deribit) -> None:
    watchlist = Watchlist(BOTH)
    both = await asyncio.gather(*(collect(MINUTE, watchlist=watchlist, source=deribit, db=db) for _ in range(2)))
    assert sum(collected.stored for collected in both) == 2
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_queue_of_old_messages_costs_nothing(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    calls = dict(simulator.calls)
    for age in range(1, 500):
        await collect(MINUTE - 60 * age, watchlist=watchlist, source=deribit, db=db)
    assert simulator.calls == calls
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_first_message_that_is_old_stores_the_price_under_its_own_minute(db: Database, deribit: Deribit) -> None:
    collected = await _collect(db, deribit, MINUTE - 3600)
    assert collected.failures == {}
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_local_clock_that_runs_ahead_loses_no_minute(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    simulator.clock.set(at=MINUTE + 59.3)
    collected = await _collect(db, deribit, MINUTE + 60)
    assert collected.failures == {}
    assert await minutes(db, "btc_usd") == [MINUTE, MINUTE + 60], "the early answer counts for its own minute"


async def test_a_minute_too_far_ahead_is_given_up_with_the_reason(db: Database, deribit: Deribit) -> None:
    collected = await _collect(db, deribit, MINUTE + 300, tickers=("btc_usd",))
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert re.search(r"only in 29[78]\.\d s: is the local clock ahead\?", str(collected.failures["btc_usd"]))
    assert await minutes(db, "btc_usd") == [MINUTE]


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_one_ticker_failing_in_any_way_stops_no_other(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str
) -> None:
    simulator.fail(fault, index="eth_usd")
    collected = await _collect(db, deribit, budget_s=0.7)
    assert await minutes(db, "btc_usd") == [MINUTE]
    assert await minutes(db, "eth_usd") == []
    assert set(collected.failures) == {"eth_usd"}


@pytest.mark.parametrize("fault", ["http_502", "reset", "html", "settlement_in_progress", "break_off", "price_nan"])
async def test_a_passing_failure_is_overcome_within_the_minute(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=2)
    collected = await _collect(db, deribit, budget_s=10)
    assert collected.failures == {}
    assert await minutes(db, "eth_usd") == [MINUTE]


async def test_a_configured_number_of_retries_is_not_exceeded(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    simulator.fail("http_500", method="get_index_price")
    await collect(MINUTE, watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, max_retries=1)
    assert simulator.calls["get_index_price"] == 2


async def test_a_price_is_stored_while_another_ticker_is_still_asked_for(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.fail("hang", index="eth_usd")
    collecting = asyncio.create_task(_collect(db, deribit, budget_s=30))

    async def stored() -> bool:
        return await minutes(db, "btc_usd") == [MINUTE]

    await until(stored)
    assert not collecting.done()
    simulator.heal()
    assert (await collecting).failures == {}


async def test_an_answer_without_an_instant_counts_only_if_the_local_clock_is_sure(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.fail("no_clock", method="get_index_price")
    assert (await _collect(db, deribit, budget_s=0.5)).failures["btc_usd"].reason is Reason.CLOCK
    simulator.clock.set(offset_s=0)
    await deribit.names()
    now = deribit.clock.now(int(time.time()))
    assert now is not None
    minute = int(now) // 60 * 60
    collected = await _collect(db, deribit, minute, budget_s=0.5)
    inside = minute == int(deribit.clock.now(int(time.time())) or 0) // 60 * 60
    assert collected.failures == {} or not inside
    for stored in await prices.window(db, "btc_usd", 0, 2**40, newest_first=False):
        assert (stored["ts"], stored["observed_at"]) == (minute, None)


async def test_an_unknown_ticker_is_left_out_and_said_with_near_names(
    db: Database, deribit: Deribit, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    assert "TICKERS: eth_uds is unknown to the exchange and is not asked for; did you mean eth_usd" in caplog.text
    assert simulator.calls["get_index_price"] == 1
    assert await db.fetchval("SELECT count(*) FROM tracking") == 1


async def test_where_the_list_of_names_is_away_all_are_asked_for_and_a_refused_name_is_taken_back(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.fail("http_500", method="get_supported_index_names")
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    assert isinstance(collected.failures["eth_uds"], UnknownTickerError)
    assert await minutes(db, "btc_usd") == [MINUTE]
    assert await db.fetchval("SELECT array_agg(ticker) FROM tracking") == ["btc_usd"]
    simulator.calls.clear()
    simulator.clock.set(at=MINUTE + 61)
    await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db)
    assert simulator.calls["get_index_price"] == 1


async def test_tracking_begins_in_the_exchanges_minute(db: Database, deribit: Deribit) -> None:
    await _collect(db, deribit, MINUTE - 600)
    assert await db.fetchval("SELECT min(since) FROM tracking") == MINUTE


async def test_a_database_that_comes_back_within_the_budget_gets_its_prices(
    servers: Servers, dsn: str, deribit: Deribit, caplog: pytest.LogCaptureFixture
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(servers.dsn)
    try:
        async with open_database(dsn, application_name="tests of outage") as db:
            await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
            collecting = asyncio.create_task(_collect(db, deribit, budget_s=20))
            await until(lambda: "the database is away" in caplog.text)
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
            assert (await collecting).stored == 2
    finally:
        await admin.close()


class Ticks:
    """A second source, as small as can be."""

    def __init__(self) -> None:
        self.clock = ExchangeClock()

    async def price(self, ticker: str) -> Quote:
        at = MINUTE * 10**6 + 1
        return Quote(ticker, Decimal("1.10"), at, at, at)

    async def chart(self, ticker: str, since: int) -> list[ChartPoint]:
        return []

    async def names(self) -> frozenset[str]:
        return frozenset({"tick"})


async def test_a_second_source_is_one_class(db: Database) -> None:
    await collect(MINUTE, watchlist=Watchlist(["tick"]), source=Ticks(), db=db)
    stored = await prices.latest(db, "tick")
    assert stored is not None
    assert str(stored["price"]) == "1.1"


class Broken(Ticks):
    """A source with a mistake in it."""

    async def names(self) -> frozenset[str]:
        return frozenset({"tick", "tock"})

    async def price(self, ticker: str) -> Quote:
        if ticker == "tock":
            raise ZeroDivisionError
        return await super().price(ticker)


async def test_a_mistake_of_ours_in_one_ticker_stops_no_other_and_is_not_hidden(db: Database) -> None:
    with pytest.raises(ExceptionGroup):
        await collect(MINUTE, watchlist=Watchlist(["tock", "tick"]), source=Broken(), db=db)
    assert await minutes(db, "tick") == [MINUTE]


async def test_a_price_stored_from_elsewhere_stays(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, *BOTH)
    await store(db, [row("btc_usd", MINUTE, "1")])
    await _collect(db, deribit)
    stored = await prices.latest(db, "btc_usd")
    assert stored is not None
    assert stored["price"] == 1
    assert [served.ticker for served in simulator.served] == ["eth_usd"]


def test_the_simulated_price_is_a_pure_function() -> None:
    assert market.price("btc_usd", MINUTE) == market.price("btc_usd", MINUTE) > 0
    assert len({market.price("btc_usd", MINUTE + second) for second in range(60)}) > 50


async def test_one_wrong_refusal_does_not_drop_a_ticker_that_the_list_had(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    watchlist = Watchlist(BOTH)
    simulator.fail("unknown_index", index="eth_usd", times=1)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    assert isinstance(collected.failures["eth_usd"], UnknownTickerError)
    simulator.clock.set(at=MINUTE + 61)
    assert (await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db)).failures == {}
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_an_empty_list_of_names_ends_nothing(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, *BOTH)
    names, simulator.names = simulator.names, ()
    watchlist = Watchlist(BOTH)
    assert await watchlist.tickers(MINUTE, source=deribit, db=db) == list(BOTH)
    simulator.names = names
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_a_database_emptied_under_a_worker_is_followed_again(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db)
    await db.execute("TRUNCATE price, tracking, ticker")
    simulator.clock.set(at=MINUTE + 61)
    assert (await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db)).stored == 2
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_a_lock_held_by_somebody_does_not_outlast_the_budget(db: Database, deribit: Deribit) -> None:
    watchlist = Watchlist(BOTH)
    await watchlist.tickers(MINUTE, source=deribit, db=db)
    async with writing.turn(db):
        with pytest.raises(DatabaseUnavailableError):
            await asyncio.wait_for(collect(MINUTE, watchlist=watchlist, source=deribit, db=db, budget_s=0.5), 5)


@pytest.mark.parametrize("fault", ["price_tiny", "price_infinite", "no_clock"])
async def test_an_answer_that_cannot_be_stored_is_asked_for_again(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=1)
    collected = await _collect(db, deribit, budget_s=10)
    assert (collected.failures, collected.attempts["eth_usd"]) == ({}, 2)


@pytest.mark.parametrize("instant", [60, 6_976_000_000])
async def test_an_instant_that_cannot_be_is_not_stored(
    db: Database, deribit: Deribit, simulator: Simulator, instant: int
) -> None:
    watchlist = Watchlist(["btc_usd"])
    await watchlist.tickers(MINUTE, source=deribit, db=db)
    simulator.clock.set(at=instant)
    deribit.clock.hear(MINUTE * 10**6, 0, 0)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, budget_s=0.5)
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert await minutes(db, "btc_usd") == []
