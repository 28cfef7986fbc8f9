"""While a single clock is wrong, no price is deleted, no tracking period begins at a wrong minute, and no gap is created."""

import contextlib
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from db.pool import Database, Executor
from db.queries import coverage, events, prices, retention, tickers, tracking, version, write_lock
from db.rows import Reason
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs.collect import collect
from ingest.jobs.reconcile import reconcile
from ingest.jobs.retain import RetentionRefusedError, retain
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.simulator.server import Simulator
from ingest.source import agree_on_time
from tests.sample_data import minutes, row, store, track

DAY = 86_400
YEAR = 365 * DAY
NOW = 0
"""The minute in which the test began."""
BTC = ("btc_usd",)


@pytest.fixture(autouse=True)
def _set_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "NOW", int(time.time()) // 60 * 60)


def _clock(ahead_s: float = 0) -> Callable[[Executor], Awaitable[float]]:
    """Returns a database clock that is `ahead_s` seconds ahead."""

    async def now(_db: Executor) -> float:
        return time.time() + ahead_s

    return now


async def _store_history(db: Database, days: int, *, every_s: int = 3_600) -> list[int]:
    """Stores prices of the last days, up to the current minute."""
    stored = list(range(NOW - days * DAY, NOW + 1, every_s))
    await track(db, "btc_usd", since=stored[0])
    await store(db, [row("btc_usd", ts) for ts in stored])
    await db.execute("UPDATE ticker SET checked_until = $1", NOW)  # the minutes in between do not matter here
    return stored


@pytest.mark.parametrize("ahead_s", [7_200, 60 * DAY, YEAR, -60 * DAY, -YEAR])
@pytest.mark.parametrize("wrong", ["scheduler", "exchange", "database", "scheduler and exchange"])
async def test_while_a_clock_is_wrong_nothing_is_deleted(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, wrong: str, ahead_s: int
) -> None:
    stored = await _store_history(db, 21)
    simulator.clock.set(offset_s=ahead_s if "exchange" in wrong else 0)
    sent = NOW + (ahead_s if "scheduler" in wrong else 0)
    database_clock = _clock(ahead_s if wrong == "database" else 0)
    watchlist = Watchlist(BTC)
    for _ in range(3):
        with contextlib.suppress(JobsFailedError):  # the error says that nothing is deleted
            await reconcile(
                sent // 60 * 60,
                watchlist=watchlist,
                source=deribit,
                db=db,
                outbox=outbox,
                resume_days=7,
                retention_days=20,
                database_clock=database_clock,
            )
    latest_gap = await db.fetchval("SELECT max(ts) FROM gap")
    assert latest_gap is None or latest_gap <= time.time(), "no future minute is a gap"
    # If only the scheduler is wrong, the worker uses the current minute and deletes what is expired by all clocks.
    assert set(await minutes(db, "btc_usd")) >= {ts for ts in stored if ts >= NOW // DAY * DAY - 20 * DAY}
    assert await retention.future_horizons(db, NOW) == {}


def test_all_clocks_must_agree_and_the_earliest_counts() -> None:
    assert agree_on_time(100.0, 130.0, 90.5) == 90
    assert agree_on_time(100.0, None, 90.5) is None
    assert agree_on_time(100.0, 90.5, 100.0 + 3_601) is None


async def test_a_horizon_step_of_more_than_two_days_is_refused_with_an_error(db: Database) -> None:
    stored = await _store_history(db, 40)
    with pytest.raises(RetentionRefusedError, match=r"python -m db forget --before \d{4}-\d\d-\d\dT00:00:00Z --yes"):
        await retain(NOW, 30, db)
    assert await minutes(db, "btc_usd") == stored
    assert await retention.horizons(db) == {}


async def test_a_horizon_never_passes_the_newest_price(db: Database) -> None:
    begin = NOW // DAY * DAY - 100 * DAY
    await track(db, "btc_usd", since=begin)
    await store(db, [row("btc_usd", begin + 60 * n) for n in range(3)])
    await retain(NOW, 8, db)
    assert len(await minutes(db, "btc_usd")) == 3


async def test_a_future_horizon_deletes_nothing_hides_nothing_and_can_be_reset(db: Database) -> None:
    stored = await _store_history(db, 2)
    await db.execute("UPDATE ticker SET horizon = $1", (NOW + YEAR) // 60 * 60)
    await retain(NOW, None, db)
    await retain(NOW, 8, db)
    assert await minutes(db, "btc_usd") == stored
    counts = await coverage.count(db, "btc_usd", 0, NOW, NOW)
    assert counts.expected == (NOW - stored[0]) // 60
    assert await retention.future_horizons(db, NOW) == {"btc_usd": (NOW + YEAR) // 60 * 60}
    async with write_lock.write_transaction(db) as connection:
        assert await retention.reset(connection, NOW) == {"btc_usd": stored[0]}
    assert await retention.future_horizons(db, NOW) == {}


@pytest.mark.parametrize("ahead_s", [3 * DAY, YEAR, -30 * DAY])
async def test_tracking_begins_by_the_exchange_clock_whatever_the_scheduler_sends(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, ahead_s: int
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist, sent = Watchlist(BTC), (NOW + ahead_s) // 60 * 60
    await collect(sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    await reconcile(sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    (since,) = await db.fetch("SELECT since FROM tracking")
    assert abs(since["since"] - time.time()) < 180
    assert await db.fetchval("SELECT count(*) FROM gap") == 0, "no gap is invented"


async def test_without_an_exchange_response_tracking_begins_by_the_database_clock_or_not_at_all(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.fail("http_500")
    watchlist = Watchlist(BTC)
    await collect(NOW + 3 * DAY, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=0.3)
    assert await db.fetchval("SELECT count(*) FROM tracking") == 0
    await collect(NOW, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=0.3)
    assert abs(await db.fetchval("SELECT since FROM tracking") - time.time()) < 180


async def test_a_period_that_a_wrong_clock_began_too_late_is_repaired(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    """The clock was three days ahead at the start, then correct. Minutes 0 to 2, 8 and 9 were stored, 3 to 7 missed."""
    simulator.clock.set(offset_s=0)
    first = NOW - 600
    await track(db, "btc_usd", since=NOW + 3 * DAY)
    await store(db, [row("btc_usd", first + 60 * n) for n in (0, 1, 2, 8, 9)])
    simulator.fail("http_500", method="get_index_chart_data")
    await reconcile(NOW, watchlist=Watchlist(BTC), source=deribit, db=db, outbox=outbox)
    assert await db.fetchval("SELECT since FROM tracking") == first
    missing = [record["ts"] for record in await db.fetch("SELECT ts FROM gap WHERE ts < $1 ORDER BY ts", NOW)]
    assert missing == [first + 60 * n for n in range(3, 8)]


async def test_an_instant_ahead_of_the_local_clock_and_of_the_other_responses_is_not_stored(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(offset_s=0)
    simulator.fail("clock_ahead", index="eth_usd")
    watchlist = Watchlist(("btc_usd", "eth_usd"))
    collected = await collect(NOW, watchlist=watchlist, source=deribit, db=db, outbox=outbox, max_retries=0)
    assert {name: failure.reason for name, failure in collected.failures.items()} == {"eth_usd": Reason.CLOCK}
    assert await minutes(db, "eth_usd") == []
    now = deribit.clock.now(NOW)
    assert now is not None
    assert abs(now - time.time()) < 5, "the wrong response moves no clock"


async def test_the_instant_of_a_single_ticker_is_compared_with_another_response(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist = Watchlist(BTC)
    await watchlist.tickers(source=deribit)
    deribit.clock._last_by_subject.clear()  # noqa: SLF001  as if the list of names had been read long ago
    simulator.fail("clock_ahead", method="get_index_price")
    collected = await collect(NOW, watchlist=watchlist, source=deribit, db=db, outbox=outbox, max_retries=0)
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert await minutes(db, "btc_usd") == []


async def test_future_rows_are_never_the_latest(db: Database) -> None:
    await track(db, "btc_usd", since=NOW - 60)
    await store(db, [row("btc_usd", NOW - 60, "1"), row("btc_usd", NOW + 6 * 3_600, "2")])
    latest = await prices.latest(db, "btc_usd", time.time())
    assert latest is not None
    assert latest["ts"] == NOW - 60
    assert [record["ts"] for record in await prices.latest_of_each(db, BTC, time.time())] == [NOW - 60]
    assert [record["ts"] for record in await tickers.list_tickers(db, time.time())] == [NOW - 60]
    # A clock that is behind hides nothing.
    latest = await prices.latest(db, "btc_usd", NOW - YEAR)
    assert latest is not None
    assert latest["ts"] == NOW - 60


@pytest.mark.parametrize("wrong", ["database", "scheduler"])
async def test_while_a_clock_is_wrong_no_change_is_deleted(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, wrong: str
) -> None:
    simulator.clock.set(offset_s=0)
    await _store_history(db, 1)
    state_before = (
        await events.oldest_resumable_id(db),
        await db.fetchval("SELECT count(*) FROM change"),
        await version.current(db),
    )
    await reconcile(
        NOW + (YEAR if wrong == "scheduler" else 0),
        watchlist=Watchlist(BTC),
        source=deribit,
        db=db,
        outbox=outbox,
        resume_days=1,
        database_clock=_clock(YEAR if wrong == "database" else 0),
    )
    assert await events.oldest_resumable_id(db) == state_before[0] == 0
    assert await db.fetchval("SELECT count(*) FROM change") >= state_before[1]


async def test_manually_collected_prices_before_a_period_do_not_move_its_beginning(db: Database) -> None:
    await track(db, "btc_usd", since=NOW - 600)
    await store(db, [row("btc_usd", NOW - 5 * 3_600 + 60 * number) for number in range(3)])
    async with write_lock.write_transaction(db) as connection:
        assert await tracking.repair(connection, NOW) == []
    await store(db, [row("btc_usd", NOW - 600 - 60 * number) for number in (2, 7, 30)])
    async with write_lock.write_transaction(db) as connection:
        (moved,) = await tracking.repair(connection, NOW)
    assert (moved["previous_since"], moved["since"]) == (NOW - 600, NOW - 600 - 1_800), "minutes that adjoin the period move it"


async def test_with_an_unknown_clock_nothing_is_deleted_and_no_clock_is_reported_as_wrong(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    stored = await _store_history(db, 21)
    simulator.fail("http_503")
    await reconcile(NOW, watchlist=Watchlist(BTC), source=deribit, db=db, outbox=outbox, retention_days=20)
    assert await minutes(db, "btc_usd") == stored
