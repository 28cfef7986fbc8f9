"""Collecting a minute: real PostgreSQL, the simulated exchange, and whatever goes wrong in between."""

import asyncio
import contextlib
import time
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from db.pool import Database, open_database
from db.queries import prices, write_lock
from db.tables import Reason
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError, UnknownTickerError
from ingest.jobs.collect import CollectResult, collect
from ingest.jobs.message_minutes import MessageMinutes
from ingest.jobs.reconcile import reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, open_outbox
from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator
from ingest.source import ChartPoint, ExchangeClock, Quote
from tests.conftest import Servers
from tests.stored import MINUTE, minutes, row, store, track
from tests.waiting import PATIENCE_S, until

BOTH = ("btc_usd", "eth_usd")


@pytest.fixture(autouse=True)
def _the_exchange_is_in_the_minute(simulator: Simulator) -> None:
    simulator.clock.set(at=MINUTE + 2)


async def _collect(
    db: Database,
    outbox: Outbox,
    deribit: Deribit,
    minute: int = MINUTE,
    *,
    tickers: tuple[str, ...] = BOTH,
    budget_s: float = 2.0,
) -> CollectResult:
    return await collect(minute, watchlist=Watchlist(tickers), source=deribit, db=db, outbox=outbox, budget_s=budget_s)


async def test_each_ticker_is_stored_as_the_exchange_said_it(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    collected = await _collect(db, outbox, deribit)
    assert (collected.stored, collected.failures) == (2, {})
    for served in simulator.served:
        stored = await prices.latest(db, served.ticker, 0)
        assert stored is not None
        assert (stored["ts"], stored["observed_at"], stored["source"]) == (MINUTE, served.us_out, "LIVE")
        assert str(stored["price"]) == served.price


async def test_a_second_message_for_the_minute_asks_nobody(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    calls = dict(simulator.calls)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert (collected.stored, simulator.calls) == (0, calls)


async def test_two_collects_of_a_minute_at_once_store_it_once(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    watchlist = Watchlist(BOTH)
    both = await asyncio.gather(*(collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox) for _ in range(2)))
    assert sum(collected.stored for collected in both) == 2
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_queue_of_old_messages_costs_nothing(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    calls = dict(simulator.calls)
    for age in range(1, 500):
        await collect(MINUTE - 60 * age, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls == calls
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_first_message_that_is_old_stores_the_price_under_its_own_minute(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    collected = await _collect(db, outbox, deribit, MINUTE - 3600)
    assert collected.failures == {}
    assert await minutes(db, "btc_usd") == [MINUTE]


async def test_a_local_clock_that_runs_ahead_loses_no_minute(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=MINUTE + 59.3)
    collected = await _collect(db, outbox, deribit, MINUTE + 60)
    assert collected.failures == {}
    assert await minutes(db, "btc_usd") == [MINUTE, MINUTE + 60], "the early answer counts for its own minute"


@pytest.mark.parametrize("ahead_s", [180, 60 * 86_400, -60 * 86_400])
async def test_a_scheduler_whose_clock_is_wrong_stops_nothing(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, ahead_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist, message_minutes = Watchlist(("btc_usd",)), MessageMinutes()
    sent = (int(time.time()) + ahead_s) // 60 * 60
    for _ in range(3):
        collected = await collect(
            sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2, minutes=message_minutes
        )
        assert collected.failures == {}
    (served,) = simulator.served
    assert await minutes(db, "btc_usd") == [served.us_out // 60_000_000 * 60], "once, however many messages are wrong"
    assert ("the scheduler's clock is ahead" in caplog.text) == (ahead_s > 0)
    assert await outbox.read_failures() == {}


REASONS = {
    "bad_request": Reason.REFUSED,
    "break_off": Reason.MALFORMED,
    "empty": Reason.MALFORMED,
    "endless": Reason.MALFORMED,
    "gzip_undeclared": Reason.MALFORMED,
    "half_a_surrogate": Reason.REFUSED,
    "hang": Reason.TIMEOUT,
    "html": Reason.MALFORMED,
    "http_403": Reason.REFUSED,
    "http_404": Reason.REFUSED,
    "http_429": Reason.RATE_LIMITED,
    "http_500": Reason.HTTP_5XX,
    "http_502": Reason.HTTP_5XX,
    "http_503": Reason.HTTP_5XX,
    "internal_error": Reason.HTTP_5XX,
    "internal_server_error": Reason.HTTP_5XX,
    "invalid_arguments": Reason.REFUSED,
    "invalid_params": Reason.REFUSED,
    "maintenance_13025": Reason.MAINTENANCE,
    "maintenance_13503": Reason.MAINTENANCE,
    "method_not_found": Reason.REFUSED,
    "nested": Reason.MALFORMED,
    "no_clock": Reason.CLOCK,
    "no_result": Reason.MALFORMED,
    "not_an_object": Reason.MALFORMED,
    "not_utf8": Reason.MALFORMED,
    "price_exponent": Reason.MALFORMED,
    "price_huge_integer": Reason.MALFORMED,
    "price_infinite": Reason.MALFORMED,
    "price_nan": Reason.MALFORMED,
    "price_negative": Reason.MALFORMED,
    "price_null": Reason.MALFORMED,
    "price_text": Reason.MALFORMED,
    "price_tiny": Reason.MALFORMED,
    "price_zero": Reason.MALFORMED,
    "redirect": Reason.REFUSED,
    "reset": Reason.REFUSED,
    "retry": Reason.REFUSED,
    "settlement_in_progress": Reason.REFUSED,
    "system_maintenance": Reason.MAINTENANCE,
    "temporarily_unavailable": Reason.HTTP_5XX,
    "testnet": Reason.TESTNET,
    "timed_out": Reason.TIMEOUT,
    "too_many_concurrent_requests": Reason.RATE_LIMITED,
    "too_many_requests": Reason.RATE_LIMITED,
    "truncated": Reason.MALFORMED,
    "unauthenticated_disabled": Reason.MAINTENANCE,
    "unheard_of_code": Reason.REFUSED,
    "unknown_index": Reason.REFUSED,
}
"""What each fault is told as; `clock_ahead` needs clocks that agree, see test_wrong_clocks."""


def test_each_fault_has_a_reason() -> None:
    assert {*REASONS, "clock_ahead"} == set(FAULTS)


@pytest.mark.parametrize("fault", sorted(REASONS))
async def test_one_ticker_failing_in_any_way_stops_no_other(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd")
    collected = await _collect(db, outbox, deribit, budget_s=0.7)
    assert await minutes(db, "btc_usd") == [MINUTE]
    assert await minutes(db, "eth_usd") == []
    assert {name: failure.reason for name, failure in collected.failures.items()} == {"eth_usd": REASONS[fault]}


@pytest.mark.parametrize("fault", ["http_502", "reset", "html", "settlement_in_progress", "break_off", "price_nan"])
async def test_a_passing_failure_is_overcome_within_the_minute(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=2)
    collected = await _collect(db, outbox, deribit, budget_s=10)
    assert collected.failures == {}
    assert await minutes(db, "eth_usd") == [MINUTE]


async def test_a_configured_number_of_retries_is_not_exceeded(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("http_500", method="get_index_price")
    await collect(MINUTE, watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=outbox, max_retries=1)
    assert simulator.calls["get_index_price"] == 2


async def test_a_price_is_stored_while_another_ticker_is_still_asked_for(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("hang", index="eth_usd")
    collecting = asyncio.create_task(_collect(db, outbox, deribit, budget_s=30))

    async def stored() -> bool:
        return await minutes(db, "btc_usd") == [MINUTE]

    await until(stored)
    assert not collecting.done()
    simulator.clear_faults()
    assert (await collecting).failures == {}


async def test_an_answer_without_an_instant_counts_only_if_the_local_clock_is_sure(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("no_clock", method="get_index_price")
    assert (await _collect(db, outbox, deribit, budget_s=0.5)).failures["btc_usd"].reason is Reason.CLOCK
    simulator.clock.set(offset_s=0)
    await deribit.names()
    failures: dict[str, object] = {}
    for _ in range(2):  # the first may fall onto the end of a minute
        minute = int(time.time()) // 60 * 60
        failures = dict((await _collect(db, outbox, deribit, minute, budget_s=0.5)).failures)
        if not failures:
            break
    assert failures == {}
    (stored,) = await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)
    assert (stored["ts"], stored["observed_at"]) == (minute, None)


async def test_an_unknown_ticker_is_left_out_and_said_with_near_names(
    db: Database, deribit: Deribit, simulator: Simulator, caplog: pytest.LogCaptureFixture, outbox: Outbox
) -> None:
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert "TICKERS: eth_uds is unknown to the exchange and is not collected; did you mean eth_usd" in caplog.text
    assert simulator.calls["get_index_price"] == 1
    assert await db.fetchval("SELECT count(*) FROM tracking") == 1


async def test_where_the_list_of_names_is_away_all_are_asked_for_and_a_refused_name_is_taken_back(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("http_500", method="get_supported_index_names")
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert isinstance(collected.failures["eth_uds"], UnknownTickerError)
    assert await minutes(db, "btc_usd") == [MINUTE]
    assert await db.fetchval("SELECT array_agg(ticker) FROM tracking") == ["btc_usd"]
    simulator.calls.clear()
    simulator.clock.set(at=MINUTE + 61)
    await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls["get_index_price"] == 1


async def test_tracking_begins_in_the_exchanges_minute(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await _collect(db, outbox, deribit, MINUTE - 600)
    assert await db.fetchval("SELECT min(since) FROM tracking") == MINUTE


async def test_with_the_database_away_prices_wait_in_the_outbox_and_are_stored_when_it_is_back(
    servers: Servers, dsn: str, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(servers.dsn)
    watchlist = Watchlist(BOTH)
    try:
        async with open_database(dsn, application_name="tests of outage") as db:
            await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
            collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
            assert (collected.stored, collected.failures) == (0, {})
            assert await outbox.pending_minutes() == {("btc_usd", MINUTE), ("eth_usd", MINUTE)}
            calls = dict(simulator.calls)
            await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
            assert simulator.calls == calls, "what waits is not asked for again"
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
            simulator.clock.set(at=MINUTE + 62)
            assert (await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).stored == 4
            assert await minutes(db, "btc_usd") == [MINUTE, MINUTE + 60]
            assert await outbox.depth() == 0
            since = await db.fetchval("SELECT min(since) FROM tracking")
            assert since == MINUTE, "tracking began when it was first asked for"
    finally:
        await admin.close()


async def test_a_database_that_comes_back_while_a_ticker_is_asked_for_gets_its_prices_at_the_end(
    servers: Servers, dsn: str, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(servers.dsn)
    simulator.fail("hang", index="eth_usd")
    try:
        async with open_database(dsn, application_name="tests of outage") as db:
            await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
            collecting = asyncio.create_task(_collect(db, outbox, deribit, budget_s=20))

            async def waits() -> bool:
                return await outbox.depth() == 1

            await until(waits)
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
            simulator.clear_faults()
            assert (await collecting).stored == 2
    finally:
        await admin.close()


async def test_without_redis_prices_go_straight_into_the_database_and_failures_become_gaps(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.fail("http_503", index="eth_usd")
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as away:
        collected = await _collect(db, away, deribit, budget_s=1)
    assert (collected.stored, set(collected.failures)) == (1, {"eth_usd"})
    assert await db.fetchval("SELECT reason FROM gap WHERE ticker = 'eth_usd' AND ts = $1", MINUTE) == "http_5xx"


async def test_without_redis_a_minute_that_the_exchange_has_not_reached_becomes_no_gap(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.clock.set(at=MINUTE + 20)
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as away:
        collected = await _collect(db, away, deribit, MINUTE + 60, budget_s=1)
    assert {failure.reason for failure in collected.failures.values()} == {Reason.CLOCK}
    assert await db.fetchval("SELECT count(*) FROM gap") == 0


async def test_with_both_servers_away_the_reason_is_remembered_until_one_is_back(
    servers: Servers, deribit: Deribit, outbox: Outbox
) -> None:
    nowhere = servers.dsn_of("nowhere")
    async with (
        open_database(nowhere, application_name="tests") as db,
        open_outbox("redis://127.0.0.1:1/0", max_prices=10) as away,
    ):
        collected = await _collect(db, away, deribit, budget_s=0.5)
        assert {failure.reason for failure in collected.failures.values()} == {Reason.STORAGE}
        back = Outbox(outbox._client, 10)  # noqa: SLF001  the same outbox, its Redis back
        back.buffer_failures(away._buffered_failures)  # noqa: SLF001
        await back.record_failures({})
    assert await outbox.read_failures() == {("btc_usd", MINUTE): Reason.STORAGE, ("eth_usd", MINUTE): Reason.STORAGE}


async def test_a_full_outbox_keeps_what_it_has_and_prices_go_into_the_database(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    await outbox.put([row("btc_usd", MINUTE - 60)])
    outbox.max_prices = 1
    assert (await _collect(db, outbox, deribit)).stored == 2
    assert await outbox.pending_minutes() == {("btc_usd", MINUTE - 60)}


async def test_a_failure_leaves_its_reason_beside_the_outbox(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("html", index="eth_usd", method="get_index_price")
    await _collect(db, outbox, deribit, budget_s=0.5)
    assert await outbox.read_failures() == {("eth_usd", MINUTE): Reason.MALFORMED}
    assert "malformed response" in (await outbox.read_report()).errors["eth_usd"]


async def test_a_minute_whose_answer_came_in_the_next_one_keeps_its_reason(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=MINUTE + 59.9)
    simulator.fail("http_502", index="btc_usd", method="get_index_price", times=1)
    collected = await _collect(db, outbox, deribit, tickers=("btc_usd",), budget_s=10)
    assert collected.failures["btc_usd"].reason is Reason.HTTP_5XX
    assert await minutes(db, "btc_usd") == [MINUTE + 60]


class Ticks:
    """A second source, as small as can be."""

    def __init__(self) -> None:
        self.clock = ExchangeClock()

    async def price(self, ticker: str) -> Quote:
        at = MINUTE * 10**6 + 1
        return Quote(ticker, Decimal("1.10"), at, at, at)

    def window(self, age_s: float) -> str:
        return "all"

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        return []

    async def names(self) -> frozenset[str]:
        return frozenset({"tick"})


async def test_a_second_source_is_one_class(db: Database, outbox: Outbox) -> None:
    await collect(MINUTE, watchlist=Watchlist(["tick"]), source=Ticks(), db=db, outbox=outbox)
    stored = await prices.latest(db, "tick", 0)
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


async def test_a_mistake_of_ours_in_one_ticker_stops_no_other_and_is_not_hidden(
    db: Database, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    collected = await collect(MINUTE, watchlist=Watchlist(["tock", "tick"]), source=Broken(), db=db, outbox=outbox)
    assert await minutes(db, "tick") == [MINUTE]
    assert set(collected.failures) == {"tock"}
    assert await outbox.read_failures() == {("tock", MINUTE): Reason.MALFORMED}
    assert any(record.exc_info for record in caplog.records)


async def test_a_price_stored_from_elsewhere_stays(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *BOTH)
    await store(db, [row("btc_usd", MINUTE, "1")])
    await _collect(db, outbox, deribit)
    stored = await prices.latest(db, "btc_usd", 0)
    assert stored is not None
    assert stored["price"] == 1
    assert [served.ticker for served in simulator.served] == ["eth_usd"]


def test_the_simulated_price_is_a_pure_function() -> None:
    assert market.price("btc_usd", MINUTE) == market.price("btc_usd", MINUTE) > 0
    assert len({market.price("btc_usd", MINUTE + second) for second in range(60)}) > 50


async def test_one_wrong_refusal_does_not_drop_a_ticker_that_the_list_had(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(BOTH)
    simulator.fail("unknown_index", index="eth_usd", times=1)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert isinstance(collected.failures["eth_usd"], UnknownTickerError)
    simulator.clock.set(at=MINUTE + 61)
    assert (await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).failures == {}
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_an_empty_list_of_names_ends_nothing(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *BOTH)
    names, simulator.names = simulator.names, ()
    watchlist = Watchlist(BOTH)
    assert await watchlist.tickers(source=deribit) == list(BOTH)
    simulator.names = names
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_a_database_emptied_under_a_worker_is_followed_again(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(BOTH)
    await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    await db.execute("TRUNCATE price, gap, tracking, import_period, ticker")
    simulator.clock.set(at=MINUTE + 61)
    assert (await collect(MINUTE + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).stored == 2
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_a_lock_held_by_somebody_leaves_prices_in_the_outbox(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    watchlist = Watchlist(BOTH)
    async with write_lock.write_transaction(db):
        collecting = collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=10)
        assert (await asyncio.wait_for(collecting, PATIENCE_S)).failures == {}
    assert await outbox.depth() == 2


async def test_a_reconcile_that_waits_for_the_database_keeps_no_collect_from_asking(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    watchlist = Watchlist(BOTH)
    async with write_lock.write_transaction(db):
        reconciling = asyncio.create_task(
            reconcile(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=9)
        )
        await until(lambda: deribit.clock.skew_s is not None)
        collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=8)
        assert collected.failures == {}
        assert await outbox.depth() == 2
    with contextlib.suppress(JobsFailedError):  # the lock may have been held for longer than a job may take
        await reconciling


async def test_an_error_of_the_database_that_nobody_thought_of_costs_no_price(
    servers: Servers, dsn: str, db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *BOTH)
    role = f"poor_{dsn.rpartition('_')[2]}"
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    await db.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    await db.execute(f"REVOKE ALL ON gap FROM {role}")
    address = urlsplit(dsn)
    poor = urlunsplit(address._replace(netloc=f"{role}:x@{address.hostname}:{address.port}"))
    simulator.fail("hang", index="eth_usd", times=1)
    async with open_database(poor, application_name="tests") as low:
        collected = await _collect(low, outbox, deribit, budget_s=10)
    assert collected.failures == {}
    assert await outbox.depth() == 2
    await db.execute(f"DROP OWNED BY {role}")
    await db.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("fault", ["price_tiny", "price_infinite", "no_clock"])
async def test_an_answer_that_cannot_be_stored_is_asked_for_again(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=1)
    collected = await _collect(db, outbox, deribit, budget_s=10)
    assert (collected.failures, collected.attempts["eth_usd"]) == ({}, 2)


@pytest.mark.parametrize("instant", [60, 6_976_000_000])
async def test_an_instant_that_cannot_be_is_not_stored(
    db: Database, deribit: Deribit, simulator: Simulator, instant: int, outbox: Outbox
) -> None:
    watchlist = Watchlist(["btc_usd"])
    await watchlist.tickers(source=deribit)
    simulator.clock.set(at=instant)
    deribit.clock.observe(MINUTE * 10**6, 0, 0)
    collected = await collect(MINUTE, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=0.5)
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert await minutes(db, "btc_usd") == []


async def test_a_host_that_was_suspended_goes_on_with_the_minute_of_the_message(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    """The monotonic clock stood still meanwhile, and with it what was last heard of the exchange's."""
    watchlist, message_minutes = Watchlist(BOTH), MessageMinutes()
    for minute in (MINUTE, MINUTE + 7_200):
        simulator.clock.set(at=minute + 2)
        await collect(minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox, minutes=message_minutes)
    assert await minutes(db, "btc_usd") == [MINUTE, MINUTE + 7_200]
