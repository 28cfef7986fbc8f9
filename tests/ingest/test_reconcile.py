"""Every minute that has ended is stored, queued, or a gap with a reason. No minute is invented or missed."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.queries import gaps, tracking, write_lock
from db.rows import Reason, Source
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs.reconcile import MAX_BATCH_MINUTES, ReconcileResult, detect_gaps, reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, open_outbox
from ingest.simulator.server import Simulator
from ingest.source import ExchangeClock
from tests.sample_data import START_TS, minutes, row, set_tracked_tickers, store, track

GAP_ROWS_QUERY = (
    "SELECT ticker, ts, reason, filled_at IS NOT NULL AS filled, given_up_at IS NOT NULL AS given_up FROM gap ORDER BY 1, 2"
)


def _minute_at(number: int) -> int:
    return START_TS + 60 * number


def _clock(minute: int) -> ExchangeClock:
    """Returns the exchange's clock, two seconds into the minute."""
    clock = ExchangeClock()
    clock.observe((minute + 2) * 10**6, (minute + 2) * 10**6, (minute + 2) * 10**6)
    return clock


async def _detect_gaps(db: Database, outbox: Outbox, number: int) -> ReconcileResult:
    return await detect_gaps(_minute_at(number), clock=_clock(_minute_at(number)), db=db, outbox=outbox)


async def _empty_outbox(outbox: Outbox) -> None:
    await outbox.prices.remove((await outbox.prices.read(await outbox.prices.fields())).entries)


async def _open_gaps(db: Database, ticker: str = "btc_usd") -> dict[int, str]:
    """Returns the reason of each unfilled gap, by the number of its minute."""
    return {
        (record["ts"] - START_TS) // 60: record["reason"]
        for record in await db.fetch(GAP_ROWS_QUERY)
        if record["ticker"] == ticker and not record["filled"]
    }


async def test_each_expected_minute_that_is_neither_stored_nor_queued_becomes_a_gap(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _minute_at(i)) for i in (0, 2)])
    await outbox.record_failures({("btc_usd", _minute_at(1)): Reason.HTTP_5XX, ("btc_usd", _minute_at(0)): Reason.TIMEOUT})
    reconciled = await _detect_gaps(db, outbox, 5)
    assert await _open_gaps(db) == {1: "http_5xx", 3: "not_collected", 4: "not_collected"}
    assert reconciled.until == _minute_at(5)
    assert reconciled.opened == {("btc_usd", Reason.HTTP_5XX): 1, ("btc_usd", Reason.NOT_COLLECTED): 2}
    assert await outbox.read_failures() == {}, "failures of minutes that are stored or gaps are deleted"


async def test_a_second_run_finds_nothing_and_checks_only_new_minutes(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 3)
    version = await db.fetchval("SELECT last_value FROM data_version")
    assert (await _detect_gaps(db, outbox, 3)).opened == {}
    assert await db.fetchval("SELECT last_value FROM data_version") == version
    assert (await _detect_gaps(db, outbox, 4)).opened == {("btc_usd", Reason.NOT_COLLECTED): 1}


async def test_a_queued_price_is_no_gap_and_the_watermark_stops_before_it(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd", "eth_usd")
    await outbox.put([row("btc_usd", _minute_at(2))])
    await _detect_gaps(db, outbox, 5)
    assert set(await _open_gaps(db)) == {0, 1}
    assert set(await _open_gaps(db, "eth_usd")) == {0, 1, 2, 3, 4}
    await _empty_outbox(outbox)  # lost, as if Redis had been wiped
    await _detect_gaps(db, outbox, 5)
    assert set(await _open_gaps(db)) == {0, 1, 2, 3, 4}, (
        "the watermark stopped before the queued minute, so the job checked it again"
    )


async def test_failures_of_minutes_after_a_queued_price_are_retained(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await outbox.put([row("btc_usd", _minute_at(0))])
    await outbox.record_failures({("btc_usd", _minute_at(1)): Reason.CLOCK})
    await _detect_gaps(db, outbox, 2)
    await _empty_outbox(outbox)
    await store(db, [row("btc_usd", _minute_at(0))])
    await _detect_gaps(db, outbox, 2)
    assert await _open_gaps(db) == {1: "clock"}


async def test_a_failure_that_is_recorded_late_still_becomes_the_reason(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 3)
    await outbox.record_failures({("btc_usd", _minute_at(1)): Reason.TIMEOUT})
    await _detect_gaps(db, outbox, 3)
    assert await _open_gaps(db) == {0: "not_collected", 1: "timeout", 2: "not_collected"}


async def test_while_the_outbox_is_unreadable_the_watermark_does_not_move_and_nothing_is_backfilled(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=_minute_at(3) + 2)
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 2)
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as unavailable_outbox:
        with pytest.raises(JobsFailedError):
            await reconcile(_minute_at(3), watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=unavailable_outbox)
    assert await db.fetchval("SELECT checked_until FROM ticker") == _minute_at(2)
    assert "get_index_chart_data" not in simulator.calls


async def test_a_minute_that_the_exchange_has_not_passed_has_not_ended(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await detect_gaps(_minute_at(9), clock=_clock(_minute_at(3)), db=db, outbox=outbox)
    assert set(await _open_gaps(db)) == {0, 1, 2}
    assert (await detect_gaps(_minute_at(4), clock=_clock(_minute_at(9)), db=db, outbox=outbox)).until == _minute_at(4), (
        "a minute has not ended before the minute of the message"
    )


async def test_without_a_response_of_the_exchange_no_gap_is_detected(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    assert (await detect_gaps(_minute_at(9), clock=ExchangeClock(), db=db, outbox=outbox)).until is None
    assert await _open_gaps(db) == {}


async def test_only_minutes_of_tracking_periods_are_expected(db: Database, outbox: Outbox) -> None:
    for tickers, minute in ((["btc_usd"], 0), (["eth_usd"], 3), (["btc_usd", "eth_usd"], 6)):
        async with write_lock.write_transaction(db) as connection:
            await set_tracked_tickers(connection, tickers, _minute_at(minute))
    await _detect_gaps(db, outbox, 8)
    assert set(await _open_gaps(db)) == {0, 1, 2, 6, 7}
    assert set(await _open_gaps(db, "eth_usd")) == {3, 4, 5, 6, 7}


async def test_a_period_that_is_written_late_is_checked_from_its_beginning(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, [], _minute_at(2))
    await _detect_gaps(db, outbox, 9)
    assert set(await _open_gaps(db)) == {0, 1}
    async with write_lock.write_transaction(
        db
    ) as connection:  # its worker began in minute 5, and the database was unavailable until now
        await set_tracked_tickers(connection, ["btc_usd"], _minute_at(5))
    await _detect_gaps(db, outbox, 9)
    assert set(await _open_gaps(db)) == {0, 1, 5, 6, 7, 8}


async def test_a_period_that_is_ended_retroactively_has_no_gaps_after_its_end(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 9)
    async with write_lock.write_transaction(db) as connection:
        await set_tracked_tickers(connection, ["eth_usd"], _minute_at(4))
    assert set(await _open_gaps(db)) == {0, 1, 2, 3}


async def test_no_minute_before_the_horizon_is_expected(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await db.execute("UPDATE ticker SET horizon = $1", _minute_at(3))
    await _detect_gaps(db, outbox, 5)
    assert set(await _open_gaps(db)) == {3, 4}


async def test_a_late_price_fills_its_gap_and_the_gap_row_remains(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 2)
    await store(db, [row("btc_usd", _minute_at(1))])
    assert await _open_gaps(db) == {0: "not_collected"}
    assert [(record["ts"], record["filled"]) for record in await db.fetch(GAP_ROWS_QUERY)] == [
        (_minute_at(0), False),
        (_minute_at(1), True),
    ]


async def test_a_rejected_price_is_a_gap_with_the_reason_storage(dsn: str, db: Database, outbox: Outbox) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO reject (ticker, ts, entry, reason) VALUES ('btc_usd', $1, '{}', 'no')", _minute_at(1))
    await connection.close()
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 2)
    assert await _open_gaps(db) == {0: "not_collected", 1: "storage"}


async def test_three_days_are_checked_in_bounded_transactions(db: Database, outbox: Outbox) -> None:
    tickers = [f"t{i}_usd" for i in range(4)]
    await track(db, *tickers)
    reconciled = await _detect_gaps(db, outbox, 3 * 1440)
    assert sum(reconciled.opened.values()) == 4 * 3 * 1440 > MAX_BATCH_MINUTES
    max_changes = await db.fetchval(
        "SELECT max(count) FROM (SELECT sum(count) AS count FROM change GROUP BY xmin::text) AS one"
    )
    assert max_changes <= MAX_BATCH_MINUTES
    assert await db.fetchval("SELECT sum(count) FROM change WHERE kind = 'gap_opened'") == 4 * 3 * 1440


async def test_a_change_is_recorded_for_each_state_of_a_gap(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 3)
    await store(db, [row("btc_usd", _minute_at(0), source=Source.BACKFILL)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [_minute_at(1)])
    changes = await db.fetch("SELECT kind, from_ts, to_ts, count FROM change ORDER BY id")
    assert [tuple(record) for record in changes] == [
        ("tracking", _minute_at(0), None, None),
        ("gap_opened", _minute_at(0), _minute_at(3), 3),
        ("gap_closed", _minute_at(0), _minute_at(1), 1),
        ("gap_given_up", _minute_at(1), _minute_at(2), 1),
    ]


@pytest.mark.parametrize("outage", [3, 180, 3 * 1440])
async def test_after_an_outage_every_minute_is_stored_or_a_gap(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, outage: int
) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _minute_at(0))])
    simulator.clock.set(at=_minute_at(outage) + 2)
    watchlist = Watchlist(["btc_usd"])
    reconciled = await reconcile(_minute_at(outage), watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=300)
    assert sum(reconciled.opened.values()) == outage - 1
    fine_minutes = min(outage - 1, 1440)  # the simulator's chart of a day has a step of 60 s, that of two days one of 120 s
    assert reconciled.backfilled.filled == pytest.approx(fine_minutes, abs=1)
    assert simulator.calls["get_index_chart_data"] <= 5
    missing = await _open_gaps(db)
    assert len(await minutes(db, "btc_usd")) + len(missing) == outage
    assert reconciled.backfilled.unrecoverable + reconciled.backfilled.remaining == len(missing)
    assert reconciled.backfilled.remaining <= 1, "at most the minute at the edge of a chart window; a later run closes it"


async def test_a_backlog_of_old_messages_makes_few_calls_and_delays_no_gap(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, "btc_usd", "eth_usd")
    simulator.clock.set(at=_minute_at(180) + 2, stands=True)
    deribit.clock = ExchangeClock(lambda: 0.0)  # it stands, too
    watchlist = Watchlist(["btc_usd", "eth_usd"])
    for number in range(1, 181):
        await reconcile(_minute_at(number), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls["get_index_chart_data"] <= 4
    assert await db.fetchval("SELECT count(*) FROM gap WHERE filled_at IS NOT NULL") >= 2 * 178


async def test_a_queued_price_restores_its_period_in_an_emptied_database(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=_minute_at(0) + 2)
    watchlist = Watchlist(["btc_usd", "eth_usd"])
    await reconcile(_minute_at(0), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    await db.execute("TRUNCATE ticker, tracking, import_period, price, gap, change CASCADE")
    await outbox.put([row("btc_usd", _minute_at(0)), row("eth_usd", _minute_at(0))])
    simulator.clock.set(at=_minute_at(1) + 2)
    await reconcile(_minute_at(1), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_removing_an_unknown_ticker_keeps_the_gaps_of_its_earlier_periods(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _detect_gaps(db, outbox, 3)
    await track(db, since=_minute_at(3))
    await _detect_gaps(db, outbox, 5)
    await track(db, "btc_usd", since=_minute_at(5))
    await _detect_gaps(db, outbox, 6)
    async with write_lock.write_transaction(db) as connection:
        await tracking.remove_unknown_ticker(connection, "btc_usd", _minute_at(6))
    assert set(await _open_gaps(db)) == {0, 1, 2}


async def test_gap_detection_probes_for_prices_and_never_scans_the_table(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _minute_at(i)) for i in range(20_000)])
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("ANALYZE")
        plan = await connection.fetch(
            f"EXPLAIN {gaps.DETECT_GAPS}", ["btc_usd"], [_minute_at(19_990)], [_minute_at(20_001)], [], [], []
        )
    finally:
        await connection.close()
    assert not [line[0] for line in plan if "Seq Scan on price" in line[0]]


NUMBERS = st.sets(st.integers(0, 25), max_size=20)
PERIODS = st.lists(st.integers(0, 25), min_size=1, max_size=5, unique=True).map(sorted)


@pytest.fixture
async def clear_servers(db: Database, redis_url: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(redis_url)

    async def empty() -> None:
        await db.execute("TRUNCATE price, gap, tracking, import_period, ticker, change CASCADE")
        await client.flushall()

    yield empty
    await client.aclose()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=NUMBERS,
    queued=NUMBERS,
    failed=st.dictionaries(st.integers(0, 25), st.sampled_from(Reason)),
    borders=PERIODS,
    horizon=st.one_of(st.none(), st.integers(0, 25)),
    end_minutes=st.lists(st.integers(0, 25), min_size=1, max_size=4).map(sorted),
)
async def test_for_any_minutes_no_gap_is_invented_and_none_is_missed(
    db: Database,
    outbox: Outbox,
    clear_servers: Any,
    stored: set[int],
    queued: set[int],
    failed: dict[int, Reason],
    borders: list[int],
    horizon: int | None,
    end_minutes: list[int],
) -> None:
    await clear_servers()
    for index, border in enumerate(borders):  # tracked from the first to the second, from the third to the fourth, …
        async with write_lock.write_transaction(db) as connection:
            await set_tracked_tickers(connection, [] if index % 2 else ["btc_usd"], _minute_at(border))
    if stored:
        await store(db, [row("btc_usd", _minute_at(i)) for i in stored])
    if horizon is not None:
        await db.execute("UPDATE ticker SET horizon = $1", _minute_at(horizon))
    await outbox.put([row("btc_usd", _minute_at(i)) for i in queued])
    await outbox.record_failures({("btc_usd", _minute_at(i)): reason for i, reason in failed.items()})
    for end in end_minutes:
        await _detect_gaps(db, outbox, end)

    ends = [*borders, 26][: len(borders) + 1]
    periods = [range(ends[i], ends[i + 1]) for i in range(0, len(ends) - 1, 2)]
    until = min(end_minutes[-1], *queued) if queued else end_minutes[-1]
    expected = {i for period in periods for i in period if i >= (horizon or 0) and i < until}
    found = await _open_gaps(db)
    assert set(found) == expected - stored
    assert found == {i: failed.get(i, Reason.NOT_COLLECTED).value for i in found}
    assert set(await minutes(db, "btc_usd")) == {_minute_at(i) for i in stored}, "no price is invented"
