"""Every minute that is over is stored, waits, or is a gap with a reason. Nothing is invented, nothing forgotten."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.pool import Database
from db.queries import gaps, tracking, write_lock
from db.tables import Reason, Source
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs.reconcile import MAX_BATCH_MINUTES, ReconcileResult, detect_gaps, reconcile
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox, open_outbox
from ingest.simulator.server import Simulator
from ingest.source import ExchangeClock
from tests.stored import MINUTE, follow, minutes, row, store, track

LEDGER = (
    "SELECT ticker, ts, reason, filled_at IS NOT NULL AS filled, given_up_at IS NOT NULL AS given_up FROM gap ORDER BY 1, 2"
)


def _at(number: int) -> int:
    return MINUTE + 60 * number


def _clock(minute: int) -> ExchangeClock:
    """The exchange's, two seconds into the minute."""
    clock = ExchangeClock()
    clock.observe((minute + 2) * 10**6, (minute + 2) * 10**6, (minute + 2) * 10**6)
    return clock


async def _walk(db: Database, outbox: Outbox, number: int) -> ReconcileResult:
    return await detect_gaps(_at(number), clock=_clock(_at(number)), db=db, outbox=outbox)


async def _wipe(outbox: Outbox) -> None:
    await outbox.remove((await outbox.read(await outbox.fields())).entries)


async def _gaps(db: Database, ticker: str = "btc_usd") -> dict[int, str]:
    """The unfilled ones: number of the minute to reason."""
    return {
        (record["ts"] - MINUTE) // 60: record["reason"]
        for record in await db.fetch(LEDGER)
        if record["ticker"] == ticker and not record["filled"]
    }


async def test_each_expected_minute_that_is_neither_stored_nor_waits_becomes_a_gap(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _at(i)) for i in (0, 2)])
    await outbox.record_failures({("btc_usd", _at(1)): Reason.HTTP_5XX, ("btc_usd", _at(0)): Reason.TIMEOUT})
    reconciled = await _walk(db, outbox, 5)
    assert await _gaps(db) == {1: "http_5xx", 3: "not_collected", 4: "not_collected"}
    assert reconciled.until == _at(5)
    assert reconciled.opened == {("btc_usd", Reason.HTTP_5XX): 1, ("btc_usd", Reason.NOT_COLLECTED): 2}
    assert await outbox.read_failures() == {}, "what became a gap, or is stored, needs no evidence"


async def test_a_second_walk_finds_nothing_and_costs_only_what_is_new(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 3)
    version = await db.fetchval("SELECT last_value FROM data_version")
    assert (await _walk(db, outbox, 3)).opened == {}
    assert await db.fetchval("SELECT last_value FROM data_version") == version
    assert (await _walk(db, outbox, 4)).opened == {("btc_usd", Reason.NOT_COLLECTED): 1}


async def test_a_price_that_waits_is_no_gap_and_is_never_walked_past(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd", "eth_usd")
    await outbox.put([row("btc_usd", _at(2))])
    await _walk(db, outbox, 5)
    assert set(await _gaps(db)) == {0, 1}
    assert set(await _gaps(db, "eth_usd")) == {0, 1, 2, 3, 4}
    await _wipe(outbox)  # lost, as if Redis had been wiped
    await _walk(db, outbox, 5)
    assert set(await _gaps(db)) == {0, 1, 2, 3, 4}, "had it been walked past, nobody would ever look again"


async def test_evidence_of_a_minute_behind_one_that_waits_is_kept(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await outbox.put([row("btc_usd", _at(0))])
    await outbox.record_failures({("btc_usd", _at(1)): Reason.CLOCK})
    await _walk(db, outbox, 2)
    await _wipe(outbox)
    await store(db, [row("btc_usd", _at(0))])
    await _walk(db, outbox, 2)
    assert await _gaps(db) == {1: "clock"}


async def test_evidence_that_comes_late_still_becomes_the_reason(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 3)
    await outbox.record_failures({("btc_usd", _at(1)): Reason.TIMEOUT})
    await _walk(db, outbox, 3)
    assert await _gaps(db) == {0: "not_collected", 1: "timeout", 2: "not_collected"}


async def test_while_the_outbox_cannot_be_read_the_watermark_stands_still_and_nothing_is_backfilled(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=_at(3) + 2)
    await track(db, "btc_usd")
    await _walk(db, outbox, 2)
    async with open_outbox("redis://127.0.0.1:1/0", max_prices=10) as away:
        with pytest.raises(JobsFailedError):
            await reconcile(_at(3), watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=away)
    assert await db.fetchval("SELECT checked_until FROM ticker") == _at(2)
    assert "get_index_chart_data" not in simulator.calls


async def test_what_the_exchange_has_not_passed_is_not_over(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await detect_gaps(_at(9), clock=_clock(_at(3)), db=db, outbox=outbox)
    assert set(await _gaps(db)) == {0, 1, 2}
    assert (await detect_gaps(_at(4), clock=_clock(_at(9)), db=db, outbox=outbox)).until == _at(4), (
        "nor what the message has not"
    )


async def test_an_exchange_never_heard_tells_nothing(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    assert (await detect_gaps(_at(9), clock=ExchangeClock(), db=db, outbox=outbox)).until is None
    assert await _gaps(db) == {}


async def test_only_periods_of_tracking_are_expected_over_a_change_of_tickers(db: Database, outbox: Outbox) -> None:
    for tickers, minute in ((["btc_usd"], 0), (["eth_usd"], 3), (["btc_usd", "eth_usd"], 6)):
        async with write_lock.write_transaction(db) as connection:
            await follow(connection, tickers, _at(minute))
    await _walk(db, outbox, 8)
    assert set(await _gaps(db)) == {0, 1, 2, 6, 7}
    assert set(await _gaps(db, "eth_usd")) == {3, 4, 5, 6, 7}


async def test_a_period_written_late_is_walked_from_its_beginning(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    async with write_lock.write_transaction(db) as connection:
        await follow(connection, [], _at(2))
    await _walk(db, outbox, 9)
    assert set(await _gaps(db)) == {0, 1}
    async with write_lock.write_transaction(
        db
    ) as connection:  # its worker began in minute 5, and the database was away until now
        await follow(connection, ["btc_usd"], _at(5))
    await _walk(db, outbox, 9)
    assert set(await _gaps(db)) == {0, 1, 5, 6, 7, 8}


async def test_a_period_that_ended_earlier_than_was_known_has_no_gaps_after_its_end(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 9)
    async with write_lock.write_transaction(db) as connection:
        await follow(connection, ["eth_usd"], _at(4))
    assert set(await _gaps(db)) == {0, 1, 2, 3}


async def test_nothing_before_the_horizon_is_expected(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await db.execute("UPDATE ticker SET horizon = $1", _at(3))
    await _walk(db, outbox, 5)
    assert set(await _gaps(db)) == {3, 4}


async def test_a_price_that_comes_late_fills_its_gap_and_the_ledger_keeps_it(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 2)
    await store(db, [row("btc_usd", _at(1))])
    assert await _gaps(db) == {0: "not_collected"}
    assert [(record["ts"], record["filled"]) for record in await db.fetch(LEDGER)] == [(_at(0), False), (_at(1), True)]


async def test_what_was_set_aside_is_a_gap_for_want_of_storage(dsn: str, db: Database, outbox: Outbox) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO reject (ticker, ts, entry, reason) VALUES ('btc_usd', $1, '{}', 'no')", _at(1))
    await connection.close()
    await track(db, "btc_usd")
    await _walk(db, outbox, 2)
    assert await _gaps(db) == {0: "not_collected", 1: "storage"}


async def test_three_days_are_walked_in_bounded_transactions(db: Database, outbox: Outbox) -> None:
    tickers = [f"t{i}_usd" for i in range(4)]
    await track(db, *tickers)
    reconciled = await _walk(db, outbox, 3 * 1440)
    assert sum(reconciled.opened.values()) == 4 * 3 * 1440 > MAX_BATCH_MINUTES
    most = await db.fetchval("SELECT max(count) FROM (SELECT sum(count) AS count FROM change GROUP BY xmin::text) AS one")
    assert most <= MAX_BATCH_MINUTES
    assert await db.fetchval("SELECT sum(count) FROM change WHERE kind = 'gap_opened'") == 4 * 3 * 1440


async def test_readers_are_told_of_each_thing_that_happens_to_a_gap(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 3)
    await store(db, [row("btc_usd", _at(0), source=Source.BACKFILL)])
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [_at(1)])
    told = await db.fetch("SELECT kind, from_ts, to_ts, count FROM change ORDER BY id")
    assert [tuple(record) for record in told] == [
        ("tracking", _at(0), None, None),
        ("gap_opened", _at(0), _at(3), 3),
        ("gap_closed", _at(0), _at(1), 1),
        ("gap_given_up", _at(1), _at(2), 1),
    ]


@pytest.mark.parametrize("outage", [3, 180, 3 * 1440])
async def test_after_an_outage_every_minute_is_explained(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, outage: int
) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _at(0))])
    simulator.clock.set(at=_at(outage) + 2)
    watchlist = Watchlist(["btc_usd"])
    reconciled = await reconcile(_at(outage), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert sum(reconciled.opened.values()) == outage - 1
    fine = min(outage - 1, 1440)  # the simulator's chart of a day has a step of 60 s, that of two days one of 120 s
    assert reconciled.backfilled.filled == pytest.approx(fine, abs=1)
    assert simulator.calls["get_index_chart_data"] <= 5
    missing = await _gaps(db)
    assert len(await minutes(db, "btc_usd")) + len(missing) == outage
    assert reconciled.backfilled.given_up + reconciled.backfilled.remaining == len(missing)
    assert reconciled.backfilled.remaining <= 1, "at most the one at the edge of a window; a later run knows"


async def test_a_backlog_of_old_messages_costs_nothing_and_keeps_no_gap_from_its_turn(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await track(db, "btc_usd", "eth_usd")
    simulator.clock.set(at=_at(180) + 2)
    watchlist = Watchlist(["btc_usd", "eth_usd"])
    for number in range(1, 181):
        await reconcile(_at(number), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert simulator.calls["get_index_chart_data"] <= 4
    assert await db.fetchval("SELECT count(*) FROM gap WHERE filled_at IS NOT NULL") >= 2 * 178


async def test_a_price_that_waits_for_an_emptied_database_brings_its_period_back(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(at=_at(0) + 2)
    watchlist = Watchlist(["btc_usd", "eth_usd"])
    await reconcile(_at(0), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    await db.execute("TRUNCATE ticker, tracking, import_period, price, gap, change")
    await outbox.put([row("btc_usd", _at(0)), row("eth_usd", _at(0))])
    simulator.clock.set(at=_at(1) + 2)
    await reconcile(_at(1), watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    assert await db.fetchval("SELECT count(*) FROM tracking WHERE until IS NULL") == 2


async def test_a_name_taken_back_keeps_the_gaps_of_its_earlier_periods(db: Database, outbox: Outbox) -> None:
    await track(db, "btc_usd")
    await _walk(db, outbox, 3)
    await track(db, since=_at(3))
    await _walk(db, outbox, 5)
    await track(db, "btc_usd", since=_at(5))
    await _walk(db, outbox, 6)
    async with write_lock.write_transaction(db) as connection:
        await tracking.remove_unknown_ticker(connection, "btc_usd", _at(6))
    assert set(await _gaps(db)) == {0, 1, 2}


async def test_a_walk_probes_for_prices_and_never_reads_the_history(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", _at(i)) for i in range(20_000)])
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("ANALYZE")
        plan = await connection.fetch(f"EXPLAIN {gaps.DETECT_GAPS}", ["btc_usd"], [_at(19_990)], [_at(20_001)], [], [], [])
    finally:
        await connection.close()
    assert not [line[0] for line in plan if "Seq Scan on price" in line[0]]


# For any set of stored, pending and tracked minutes: what the model says, and the same however often it is asked.

NUMBERS = st.sets(st.integers(0, 25), max_size=20)
PERIODS = st.lists(st.integers(0, 25), min_size=1, max_size=5, unique=True).map(sorted)


@pytest.fixture
async def emptied(db: Database, redis_url: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_url(redis_url)

    async def empty() -> None:
        await db.execute("TRUNCATE price, gap, tracking, import_period, ticker, change")
        await client.flushall()

    yield empty
    await client.aclose()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=NUMBERS,
    waiting=NUMBERS,
    failed=st.dictionaries(st.integers(0, 25), st.sampled_from(Reason)),
    borders=PERIODS,
    horizon=st.one_of(st.none(), st.integers(0, 25)),
    walks=st.lists(st.integers(0, 25), min_size=1, max_size=4).map(sorted),
)
async def test_for_any_minutes_nothing_is_invented_and_nothing_forgotten(
    db: Database,
    outbox: Outbox,
    emptied: Any,
    stored: set[int],
    waiting: set[int],
    failed: dict[int, Reason],
    borders: list[int],
    horizon: int | None,
    walks: list[int],
) -> None:
    await emptied()
    for place, border in enumerate(borders):  # tracked from the first to the second, from the third to the fourth, …
        async with write_lock.write_transaction(db) as connection:
            await follow(connection, [] if place % 2 else ["btc_usd"], _at(border))
    if horizon is not None:
        await db.execute("UPDATE ticker SET horizon = $1", _at(horizon))
    if stored:
        await store(db, [row("btc_usd", _at(i)) for i in stored])
    await outbox.put([row("btc_usd", _at(i)) for i in waiting])
    await outbox.record_failures({("btc_usd", _at(i)): reason for i, reason in failed.items()})
    for end in walks:
        await _walk(db, outbox, end)

    ends = [*borders, 26][: len(borders) + 1]
    periods = [range(ends[i], ends[i + 1]) for i in range(0, len(ends) - 1, 2)]
    until = min(walks[-1], *waiting) if waiting else walks[-1]
    expected = {i for period in periods for i in period if i >= (horizon or 0) and i < until}
    found = await _gaps(db)
    assert set(found) == expected - stored
    assert found == {i: failed.get(i, Reason.NOT_COLLECTED).value for i in found}
    assert set(await minutes(db, "btc_usd")) == {_at(i) for i in stored}, "nothing is invented"
