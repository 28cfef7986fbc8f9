"""One clock that is wrong deletes nothing, begins nothing and invents nothing."""

import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from db.pool import Database, Executor
from db.queries import coverage, events, prices, retention, tickers, tracking, version, write_lock
from db.tables import Reason
from ingest.deribit.client import Deribit
from ingest.errors import JobsFailedError
from ingest.jobs.collect import collect
from ingest.jobs.reconcile import reconcile
from ingest.jobs.retain import RetentionRefusedError, retain
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.simulator.server import Simulator
from ingest.source import agree_on_time
from tests.stored import minutes, row, store, track

DAY = 86_400
YEAR = 365 * DAY
NOW = int(time.time()) // 60 * 60
BTC = ("btc_usd",)


def _clock(ahead_s: float = 0) -> Callable[[Executor], Awaitable[float]]:
    """A database's clock."""

    async def now(_db: Executor) -> float:
        return time.time() + ahead_s

    return now


async def _history(db: Database, days: int, *, every_s: int = 3_600) -> list[int]:
    """Prices of the last days, up to this minute."""
    stored = list(range(NOW - days * DAY, NOW + 1, every_s))
    await track(db, "btc_usd", since=stored[0])
    await store(db, [row("btc_usd", ts) for ts in stored])
    await db.execute("UPDATE ticker SET checked_until = $1", NOW)  # the minutes between are of no concern here
    return stored


@pytest.mark.parametrize("ahead_s", [7_200, 60 * DAY, YEAR, -60 * DAY, -YEAR])
@pytest.mark.parametrize("wrong", ["scheduler", "exchange", "database", "scheduler and exchange"])
async def test_while_a_clock_is_wrong_nothing_is_forgotten(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, wrong: str, ahead_s: int
) -> None:
    stored = await _history(db, 21)
    simulator.clock.set(offset_s=ahead_s if "exchange" in wrong else 0)
    sent = NOW + (ahead_s if "scheduler" in wrong else 0)
    database_clock = _clock(ahead_s if wrong == "database" else 0)
    watchlist = Watchlist(BTC)
    for _ in range(3):
        with contextlib.suppress(JobsFailedError):  # it says that nothing is forgotten
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
    assert latest_gap is None or latest_gap <= time.time(), "no minute to come is a gap"
    # Where a scheduler alone is wrong, the worker goes on with the present minute, and forgets what is due by all clocks.
    assert set(await minutes(db, "btc_usd")) >= {ts for ts in stored if ts >= NOW // DAY * DAY - 20 * DAY}
    assert await retention.future_horizons(db, NOW) == {}


def test_clocks_agree_only_all_of_them_and_the_earliest_counts() -> None:
    assert agree_on_time(100.0, 130.0, 90.5) == 90
    assert agree_on_time(100.0, None, 90.5) is None
    assert agree_on_time(100.0, 90.5, 100.0 + 3_601) is None


async def test_a_step_of_more_than_two_days_is_refused_and_said(db: Database) -> None:
    stored = await _history(db, 40)
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


async def test_a_horizon_of_the_future_deletes_nothing_hides_nothing_and_is_taken_back(db: Database) -> None:
    stored = await _history(db, 2)
    await db.execute("UPDATE ticker SET horizon = $1", (NOW + YEAR) // 60 * 60)
    await retain(NOW, None, db)
    await retain(NOW, 8, db)
    assert await minutes(db, "btc_usd") == stored
    counted = await coverage.count(db, "btc_usd", 0, NOW, NOW)
    assert counted.expected == (NOW - stored[0]) // 60
    assert await retention.future_horizons(db, NOW) == {"btc_usd": (NOW + YEAR) // 60 * 60}
    async with write_lock.write_transaction(db) as connection:
        assert await retention.reset(connection, NOW) == {"btc_usd": stored[0]}
    assert await retention.future_horizons(db, NOW) == {}


@pytest.mark.parametrize("ahead_s", [3 * DAY, YEAR, -30 * DAY])
async def test_tracking_begins_by_the_exchanges_clock_whatever_the_scheduler_says(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, ahead_s: int
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist, sent = Watchlist(BTC), (NOW + ahead_s) // 60 * 60
    await collect(sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=2)
    await reconcile(sent, watchlist=watchlist, source=deribit, db=db, outbox=outbox)
    (since,) = await db.fetch("SELECT since FROM tracking")
    assert abs(since["since"] - time.time()) < 180
    assert await db.fetchval("SELECT count(*) FROM gap") == 0, "no gap is invented"


async def test_where_the_exchange_was_never_heard_tracking_begins_by_the_databases_clock_or_not_at_all(
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
    """Three days ahead at the start, right soon after: minutes 0 to 2 were stored, 3 to 7 missed, 8 to 9 stored."""
    simulator.clock.set(offset_s=0)
    first = NOW - 600
    await track(db, "btc_usd", since=NOW + 3 * DAY)
    await store(db, [row("btc_usd", first + 60 * n) for n in (0, 1, 2, 8, 9)])
    simulator.fail("http_500", method="get_index_chart_data")
    await reconcile(NOW, watchlist=Watchlist(BTC), source=deribit, db=db, outbox=outbox)
    assert await db.fetchval("SELECT since FROM tracking") == first
    missing = [record["ts"] for record in await db.fetch("SELECT ts FROM gap WHERE ts < $1 ORDER BY ts", NOW)]
    assert missing == [first + 60 * n for n in range(3, 8)]


async def test_an_instant_ahead_of_the_local_clock_and_of_the_other_answers_is_not_stored(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(offset_s=0)
    simulator.fail("clock_ahead", index="eth_usd")
    watchlist = Watchlist(("btc_usd", "eth_usd"))
    collected = await collect(NOW, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=0.5)
    assert {name: failure.reason for name, failure in collected.failures.items()} == {"eth_usd": Reason.CLOCK}
    assert await minutes(db, "eth_usd") == []
    now = deribit.clock.now(NOW)
    assert now is not None
    assert abs(now - time.time()) < 5, "the wrong answer moves no clock"


async def test_a_single_ticker_whose_instants_are_ahead_is_held_against_another_answer(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    simulator.clock.set(offset_s=0)
    watchlist = Watchlist(BTC)
    await watchlist.tickers(source=deribit)
    deribit.clock._last_by_subject.clear()  # noqa: SLF001  as if the list of names had been read long ago
    simulator.fail("clock_ahead", method="get_index_price")
    collected = await collect(NOW, watchlist=watchlist, source=deribit, db=db, outbox=outbox, budget_s=0.5)
    assert collected.failures["btc_usd"].reason is Reason.CLOCK
    assert await minutes(db, "btc_usd") == []


async def test_rows_of_the_future_are_never_the_latest(db: Database) -> None:
    await track(db, "btc_usd", since=NOW - 60)
    await store(db, [row("btc_usd", NOW - 60, "1"), row("btc_usd", NOW + 6 * 3_600, "2")])
    latest = await prices.latest(db, "btc_usd", time.time())
    assert latest is not None
    assert latest["ts"] == NOW - 60
    assert [record["ts"] for record in await prices.latest_of_each(db, BTC, time.time())] == [NOW - 60]
    assert [record["ts"] for record in await tickers.list_tickers(db, time.time())] == [NOW - 60]
    # One clock that is behind hides nothing.
    latest = await prices.latest(db, "btc_usd", NOW - YEAR)
    assert latest is not None
    assert latest["ts"] == NOW - 60


@pytest.mark.parametrize("wrong", ["database", "scheduler"])
async def test_while_a_clock_is_wrong_no_change_is_forgotten(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, wrong: str
) -> None:
    simulator.clock.set(offset_s=0)
    await _history(db, 1)
    before = await events.oldest_resumable_id(db), await db.fetchval("SELECT count(*) FROM change"), await version.current(db)
    await reconcile(
        NOW + (YEAR if wrong == "scheduler" else 0),
        watchlist=Watchlist(BTC),
        source=deribit,
        db=db,
        outbox=outbox,
        resume_days=1,
        database_clock=_clock(YEAR if wrong == "database" else 0),
    )
    assert await events.oldest_resumable_id(db) == before[0] == 0
    assert await db.fetchval("SELECT count(*) FROM change") >= before[1]


async def test_prices_collected_by_hand_before_a_period_do_not_move_its_beginning(db: Database) -> None:
    await track(db, "btc_usd", since=NOW - 600)
    await store(db, [row("btc_usd", NOW - 5 * 3_600 + 60 * number) for number in range(3)])
    async with write_lock.write_transaction(db) as connection:
        assert await tracking.repair(connection, NOW) == []
    await store(db, [row("btc_usd", NOW - 600 - 60 * number) for number in (2, 7, 30)])
    async with write_lock.write_transaction(db) as connection:
        (moved,) = await tracking.repair(connection, NOW)
    assert (moved["before"], moved["since"]) == (NOW - 600, NOW - 600 - 1_800), "minutes that run into it do"


async def test_where_a_clock_is_unknown_nothing_is_forgotten_and_no_clock_is_blamed(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    stored = await _history(db, 21)
    simulator.fail("http_503")
    await reconcile(NOW, watchlist=Watchlist(BTC), source=deribit, db=db, outbox=outbox, retention_days=20)
    assert await minutes(db, "btc_usd") == stored
