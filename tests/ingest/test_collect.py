"""Collects minutes with a real PostgreSQL and the simulated exchange, under each kind of failure."""

import asyncio
import contextlib
import time
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from db.pool import Database, open_database
from db.queries import prices
from db.rows import Reason
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError, UnknownTickerError
from ingest.jobs.collect import CollectResult, collect
from ingest.jobs.message_minutes import MinuteChooser
from ingest.jobs.reconcile import reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, open_outbox
from ingest.simulator import market
from ingest.simulator.faults import FAULTS
from ingest.simulator.server import Simulator
from ingest.source import ChartPoint, ExchangeClock, Quote
from tests.conftest import Servers
from tests.sample_data import START_TS, hold_writer_lock, minutes, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

TICKERS = ("btc_usd", "eth_usd")


@pytest.fixture(autouse=True)
def _set_exchange_clock(simulator: Simulator) -> None:
    simulator.clock.set(at=START_TS + 2)


async def _collect(
    db: Database,
    outbox: Outbox,
    deribit: Deribit,
    minute: int = START_TS,
    *,
    tickers: tuple[str, ...] = TICKERS,
    budget_s: float = WAIT_TIMEOUT_S,
    max_retries: int | None = None,
) -> CollectResult:
    return await collect(
        minute,
        watchlist=Watchlist(tickers),
        source=deribit,
        db=db,
        outbox=outbox,
        budget_s=budget_s,
        max_retries=max_retries,
    )


async def test_each_ticker_is_stored_exactly_as_the_exchange_sent_it(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    collected = await _collect(db, outbox, deribit)
    assert (collected.stored, collected.failures) == (2, {})
    for served in simulator.served:
        stored = await prices.latest(db, served.ticker, 0)
        assert stored is not None
        assert (stored["ts"], stored["observed_at"], stored["source"]) == (START_TS, served.us_out, "LIVE")
        assert str(stored["price"]) == served.price


async def test_a_second_message_for_the_minute_makes_no_calls(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    calls = dict(simulator.calls)
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert (collected.stored, simulator.calls) == (0, calls)


async def test_two_concurrent_collects_of_a_minute_store_it_once(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    watchlist = Watchlist(TICKERS)
    both = await asyncio.gather(
        *(collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox) for _ in range(2))
    )
    assert sum(collected.stored for collected in both) == 2
    assert await minutes(db, "btc_usd") == [START_TS]


async def test_a_queue_of_old_messages_makes_no_calls(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    calls = dict(simulator.calls)
    for age in range(1, 500):
        await collect(START_TS - 60 * age, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls == calls
    assert await minutes(db, "btc_usd") == [START_TS]


async def test_an_old_first_message_stores_the_price_in_the_minute_of_its_instant(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    collected = await _collect(db, outbox, deribit, START_TS - 3600)
    assert collected.failures == {}
    assert await minutes(db, "btc_usd") == [START_TS]


async def test_a_local_clock_that_runs_ahead_loses_no_minute(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=START_TS + 59.3, stands=True)
    collecting = asyncio.create_task(_collect(db, outbox, deribit, START_TS + 60))
    await wait_until(lambda: len(simulator.served) == len(TICKERS))
    simulator.clock.set(at=START_TS + 60.2)
    assert (await collecting).failures == {}
    assert await minutes(db, "btc_usd") == [START_TS, START_TS + 60], "the early response counts for its own minute"


@pytest.mark.parametrize("ahead_s", [180, 60 * 86_400, -60 * 86_400])
async def test_a_scheduler_whose_clock_is_wrong_stops_no_collection(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, ahead_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist, minute_chooser = Watchlist(("btc_usd",)), MinuteChooser()
    sent = (int(time.time()) + ahead_s) // 60 * 60
    for _ in range(3):
        collected = await collect(
            sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox, minute_chooser=minute_chooser
        )
        assert collected.failures == {}
    served = [one.us_out // 60_000_000 * 60 for one in simulator.served]
    assert served
    assert len(served) == len(set(served)), "once a minute, however many messages are wrong"
    assert await minutes(db, "btc_usd") == served
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
"""The recorded reason of each fault. `clock_ahead` needs clocks that agree (see test_wrong_clocks)."""


def test_each_fault_has_a_reason() -> None:
    assert {*REASONS, "clock_ahead"} == set(FAULTS)


@pytest.mark.parametrize("fault", sorted(REASONS))
async def test_any_failure_of_one_ticker_stops_no_other(
    db: Database, deribit: Deribit, hasty_deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd")
    collected = await _collect(db, outbox, hasty_deribit if fault == "hang" else deribit, max_retries=0)
    assert await minutes(db, "btc_usd") == [START_TS]
    assert await minutes(db, "eth_usd") == []
    assert {name: failure.reason for name, failure in collected.failures.items()} == {"eth_usd": REASONS[fault]}


async def test_an_exchange_that_hangs_uses_up_the_budget(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("hang", index="eth_usd")
    collected = await _collect(db, outbox, deribit, tickers=("eth_usd",), budget_s=1)
    assert collected.failures["eth_usd"].reason is Reason.TIMEOUT


@pytest.mark.parametrize("fault", ["http_502", "reset", "html", "settlement_in_progress", "break_off", "price_nan"])
async def test_a_temporary_failure_is_retried_within_the_minute(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=2)
    collected = await _collect(db, outbox, deribit)
    assert collected.failures == {}
    assert await minutes(db, "eth_usd") == [START_TS]


async def test_a_configured_number_of_retries_is_not_exceeded(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("http_500", method="get_index_price")
    await collect(START_TS, watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=outbox, max_retries=1)
    assert simulator.calls["get_index_price"] == 2


async def test_a_price_is_stored_while_another_ticker_is_still_fetched(
    db: Database, hasty_deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("hang", index="eth_usd")
    collecting = asyncio.create_task(_collect(db, outbox, hasty_deribit))

    async def stored() -> bool:
        return await minutes(db, "btc_usd") == [START_TS]

    await wait_until(stored)
    assert not collecting.done()
    simulator.clear_faults()
    assert (await collecting).failures == {}


async def test_a_response_without_an_instant_counts_only_if_the_local_clock_is_trusted(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("no_clock", method="get_index_price")
    assert (await _collect(db, outbox, deribit, max_retries=0)).failures["btc_usd"].reason is Reason.CLOCK
    simulator.clock.set(offset_s=0)
    await deribit.names()
    failures: dict[str, object] = {}
    for _ in range(2):  # the first attempt may run past the end of a minute
        minute = int(time.time()) // 60 * 60
        failures = dict((await _collect(db, outbox, deribit, minute, budget_s=2)).failures)
        if not failures:
            break
    assert failures == {}
    (stored,) = await prices.window(db, "btc_usd", 0, 2**40, newest_first=False)
    assert (stored["ts"], stored["observed_at"]) == (minute, None)


async def test_an_unknown_ticker_is_skipped_and_logged_with_similar_names(
    db: Database, deribit: Deribit, simulator: Simulator, caplog: pytest.LogCaptureFixture, outbox: Outbox
) -> None:
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert "TICKERS: eth_uds is unknown to the exchange and is not collected; did you mean eth_usd" in caplog.text
    assert (await outbox.read_report()).errors["eth_uds"].startswith("it is unknown to the exchange; did you mean eth_usd")
    assert simulator.calls["get_index_price"] == 1
    assert await db.fetchval("SELECT count(*) FROM tracking") == 1


async def test_without_the_list_of_names_all_tickers_are_fetched_and_a_rejected_one_is_removed(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("http_500", method="get_supported_index_names")
    watchlist = Watchlist(["btc_usd", "eth_uds"])
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert isinstance(collected.failures["eth_uds"], UnknownTickerError)
    assert await minutes(db, "btc_usd") == [START_TS]
    assert await db.fetchval("SELECT array_agg(ticker) FROM tracking") == ["btc_usd"]
    simulator.calls.clear()
    simulator.clock.set(at=START_TS + 61)
    await collect(START_TS + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls["get_index_price"] == 1


async def test_tracking_begins_in_the_exchanges_minute(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    await _collect(db, outbox, deribit, START_TS - 600)
    assert await db.fetchval("SELECT min(since) FROM tracking") == START_TS


async def test_prices_are_queued_while_the_database_is_unavailable_and_stored_afterwards(
    servers: Servers, dsn: str, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(servers.dsn)
    watchlist = Watchlist(TICKERS)
    try:
        async with open_database(dsn, application_name="tests of outage") as db:
            await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
            collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
            assert (collected.stored, collected.failures) == (0, {})
            assert await outbox.pending_minutes() == {("btc_usd", START_TS), ("eth_usd", START_TS)}
            calls = dict(simulator.calls)
            await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
            assert simulator.calls == calls, "queued prices are not fetched again"
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
            simulator.clock.set(at=START_TS + 62)
            assert (await collect(START_TS + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).stored == 4
            assert await minutes(db, "btc_usd") == [START_TS, START_TS + 60]
            assert await outbox.prices.depth() == 0
            since = await db.fetchval("SELECT min(since) FROM tracking")
            assert since == START_TS, "tracking began with the first collected minute"
    finally:
        await admin.close()


async def test_a_database_that_recovers_during_a_collect_gets_the_prices_at_its_end(
    servers: Servers, dsn: str, hasty_deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(servers.dsn)
    simulator.fail("hang", index="eth_usd")
    try:
        async with open_database(dsn, application_name="tests of outage") as db:
            await admin.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
            collecting = asyncio.create_task(_collect(db, outbox, hasty_deribit))

            async def is_queued() -> bool:
                return await outbox.prices.depth() == 1

            await wait_until(is_queued)
            await admin.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
            simulator.clear_faults()
            assert (await collecting).stored == 2
    finally:
        await admin.close()


async def test_without_redis_prices_are_stored_directly_and_failures_become_gaps(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.fail("http_503", index="eth_usd")
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as unavailable_outbox:
        collected = await _collect(db, unavailable_outbox, deribit, max_retries=0)
    assert (collected.stored, set(collected.failures)) == (1, {"eth_usd"})
    assert await db.fetchval("SELECT reason FROM gap WHERE ticker = 'eth_usd' AND ts = $1", START_TS) == "http_5xx"


async def test_without_redis_a_minute_that_the_exchange_has_not_reached_becomes_no_gap(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    simulator.clock.set(at=START_TS + 20)
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as unavailable_outbox:
        collected = await _collect(db, unavailable_outbox, deribit, START_TS + 60, budget_s=2)
    assert {failure.reason for failure in collected.failures.values()} == {Reason.CLOCK}
    assert await db.fetchval("SELECT count(*) FROM gap") == 0


async def test_with_both_servers_unavailable_the_reason_is_buffered_until_one_recovers(
    servers: Servers, deribit: Deribit, outbox: Outbox
) -> None:
    missing_dsn = servers.dsn_of("nowhere")
    async with (
        open_database(missing_dsn, application_name="tests") as db,
        open_outbox("redis://127.0.0.1:1/0", max_prices=10) as unavailable_outbox,
    ):
        collected = await _collect(db, unavailable_outbox, deribit, budget_s=2)
        assert {failure.reason for failure in collected.failures.values()} == {Reason.STORAGE}
        recovered_outbox = Outbox(outbox._client, 10)  # noqa: SLF001  the same outbox after Redis recovered
        recovered_outbox.buffer_failures(unavailable_outbox._buffered_failures)  # noqa: SLF001
        await recovered_outbox.record_failures({})
    assert await outbox.read_failures() == {("btc_usd", START_TS): Reason.STORAGE, ("eth_usd", START_TS): Reason.STORAGE}


async def test_a_full_outbox_keeps_its_entries_and_prices_are_stored_directly(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    await outbox.put([row("btc_usd", START_TS - 60)])
    outbox.max_prices = 1
    assert (await _collect(db, outbox, deribit)).stored == 2
    assert await outbox.pending_minutes() == {("btc_usd", START_TS - 60)}


async def test_a_failure_is_recorded_in_redis_with_its_reason(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("html", index="eth_usd", method="get_index_price")
    await _collect(db, outbox, deribit, max_retries=0)
    assert await outbox.read_failures() == {("eth_usd", START_TS): Reason.MALFORMED}
    assert "malformed response" in (await outbox.read_report()).errors["eth_usd"]


async def test_a_minute_whose_response_arrived_in_the_next_one_keeps_its_reason(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=START_TS + 50, stands=True)
    simulator.fail("http_502", index="btc_usd", method="get_index_price", times=1)
    collecting = asyncio.create_task(_collect(db, outbox, deribit, tickers=("btc_usd",)))
    await wait_until(lambda: simulator.calls.get("get_index_price") == 1)
    simulator.clock.set(at=START_TS + 60.1)
    collected = await collecting
    assert collected.failures["btc_usd"].reason is Reason.HTTP_5XX
    assert await minutes(db, "btc_usd") == [START_TS + 60]


class TickSource:
    """A minimal second price source."""

    def __init__(self) -> None:
        self.clock = ExchangeClock()

    async def price(self, ticker: str) -> Quote:
        at = START_TS * 10**6 + 1
        return Quote(ticker, Decimal("1.10"), at, at, at)

    def window(self, age_s: float) -> str:
        return "all"

    async def chart(self, ticker: str, window: str) -> list[ChartPoint]:
        return []

    async def delivery_prices(self, ticker: str, count: int) -> dict[int, Decimal]:
        return {}

    async def names(self) -> frozenset[str]:
        return frozenset({"tick"})


async def test_a_second_price_source_needs_only_one_class(db: Database, outbox: Outbox) -> None:
    await collect(START_TS, watchlist=Watchlist(["tick"]), source=TickSource(), db=db, outbox=outbox)
    stored = await prices.latest(db, "tick", 0)
    assert stored is not None
    assert str(stored["price"]) == "1.1"


class BrokenSource(TickSource):
    """A price source with a bug."""

    async def names(self) -> frozenset[str]:
        return frozenset({"tick", "tock"})

    async def price(self, ticker: str) -> Quote:
        if ticker == "tock":
            raise ZeroDivisionError
        return await super().price(ticker)


async def test_a_bug_in_the_fetch_of_one_ticker_stops_no_other_and_is_logged(
    db: Database, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    collected = await collect(START_TS, watchlist=Watchlist(["tock", "tick"]), source=BrokenSource(), db=db, outbox=outbox)
    assert await minutes(db, "tick") == [START_TS]
    assert set(collected.failures) == {"tock"}
    assert await outbox.read_failures() == {("tock", START_TS): Reason.MALFORMED}
    assert any(record.exc_info for record in caplog.records)


async def test_a_price_stored_before_is_neither_fetched_nor_overwritten(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *TICKERS)
    await store(db, [row("btc_usd", START_TS, "1")])
    await _collect(db, outbox, deribit)
    stored = await prices.latest(db, "btc_usd", 0)
    assert stored is not None
    assert stored["price"] == 1
    assert [served.ticker for served in simulator.served] == ["eth_usd"]


def test_the_simulated_price_is_a_pure_function() -> None:
    assert market.price("btc_usd", START_TS) == market.price("btc_usd", START_TS) > 0
    assert len({market.price("btc_usd", START_TS + second) for second in range(60)}) > 50


async def test_one_wrong_rejection_does_not_drop_a_listed_ticker(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    simulator.fail("unknown_index", index="eth_usd", times=1)
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert isinstance(collected.failures["eth_usd"], UnknownTickerError)
    simulator.clock.set(at=START_TS + 61)
    assert (await collect(START_TS + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).failures == {}
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_an_empty_list_of_names_ends_no_tracking(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *TICKERS)
    names, simulator.names = simulator.names, ()
    watchlist = Watchlist(TICKERS)
    assert await watchlist.tickers(source=deribit) == list(TICKERS)
    simulator.names = names
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_tracking_is_written_again_after_the_database_was_emptied(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    await db.execute("TRUNCATE price, gap, tracking, import_period, ticker CASCADE")
    simulator.clock.set(at=START_TS + 61)
    assert (await collect(START_TS + 60, watchlist=watchlist, source=deribit, db=db, outbox=outbox)).stored == 2
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_prices_stay_in_the_outbox_while_another_session_holds_the_lock(
    dsn: str, db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    async with hold_writer_lock(dsn):
        collecting = collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
        assert (await asyncio.wait_for(collecting, WAIT_TIMEOUT_S)).failures == {}
    assert await outbox.prices.depth() == 2


async def test_a_reconcile_that_waits_for_the_database_blocks_no_collect(
    dsn: str, db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    watchlist = Watchlist(TICKERS)
    async with hold_writer_lock(dsn):
        reconciling = asyncio.create_task(
            reconcile(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=9)
        )
        await wait_until(lambda: deribit.clock.skew_s is not None)
        collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=8)
        assert collected.failures == {}
        assert await outbox.prices.depth() == 2
    with contextlib.suppress(JobsFailedError):  # the lock may have been held for longer than a job may take
        await reconciling


async def test_an_unexpected_database_error_loses_no_price(
    servers: Servers, dsn: str, db: Database, hasty_deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, *TICKERS)
    role = f"poor_{dsn.rpartition('_')[2]}"
    await db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    await db.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    await db.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    await db.execute(f"REVOKE ALL ON gap FROM {role}")
    address = urlsplit(dsn)
    restricted_dsn = urlunsplit(address._replace(netloc=f"{role}:x@{address.hostname}:{address.port}"))
    simulator.fail("hang", index="eth_usd", times=1)
    async with open_database(restricted_dsn, application_name="tests") as restricted_db:
        collected = await _collect(restricted_db, outbox, hasty_deribit)
    assert collected.failures == {}
    assert await outbox.prices.depth() == 2
    await db.execute(f"DROP OWNED BY {role}")
    await db.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("fault", ["price_tiny", "price_infinite", "no_clock"])
async def test_a_price_that_cannot_be_stored_is_fetched_again(
    db: Database, deribit: Deribit, simulator: Simulator, fault: str, outbox: Outbox
) -> None:
    simulator.fail(fault, index="eth_usd", method="get_index_price", times=1)
    collected = await _collect(db, outbox, deribit)
    assert (collected.failures, collected.attempts["eth_usd"]) == ({}, 2)


@pytest.mark.parametrize("instant", [60, 6_976_000_000])
async def test_a_price_with_an_implausible_instant_is_not_stored(
    db: Database, deribit: Deribit, simulator: Simulator, instant: int, outbox: Outbox
) -> None:
    watchlist = Watchlist(["btc_usd"])
    await watchlist.tickers(source=deribit)
    simulator.clock.set(at=instant)
    deribit.clock.observe(START_TS * 10**6, 0, 0)
    collected = await collect(START_TS, watchlist=watchlist, source=deribit, db=db, outbox=outbox, max_retries=0)
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert await minutes(db, "btc_usd") == []


async def test_a_resumed_host_collects_the_minute_of_the_message(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    """While the host is suspended, its monotonic clock stops, and so does the extrapolated exchange clock."""
    watchlist, minute_chooser = Watchlist(TICKERS), MinuteChooser()
    for minute in (START_TS, START_TS + 7_200):
        simulator.clock.set(at=minute + 2)
        await collect(minute, watchlist=watchlist, source=deribit, db=db, outbox=outbox, minute_chooser=minute_chooser)
    assert await minutes(db, "btc_usd") == [START_TS, START_TS + 7_200]
