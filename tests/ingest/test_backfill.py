"""A gap gets the first point inside its minute from the finest chart, and never an average over more than a minute."""

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.pool import Database
from db.queries import gaps, prices, write_lock
from db.rows import Reason
from ingest.deribit.client import Deribit
from ingest.jobs.backfill import Chart, backfill, fill_gaps
from ingest.outbox import Outbox
from ingest.simulator import market
from ingest.simulator.server import Simulator
from ingest.source import ChartPoint
from tests.sample_data import START_TS, minutes, row, track

NOW = START_TS + 2 * 86_400
"""The exchange's minute in these tests."""


@pytest.fixture(autouse=True)
def _set_exchange_clock(simulator: Simulator) -> None:
    simulator.clock.set(at=NOW + 2)


async def _open_gaps(db: Database, *ages: int, ticker: str = "btc_usd") -> list[int]:
    """Opens gaps that many minutes ago and returns their minutes, newest first."""
    await track(db, "btc_usd", "eth_usd", since=START_TS - 400 * 86_400)
    found = [NOW - 60 * age for age in sorted(ages)]
    async with write_lock.write_transaction(db) as connection:
        await gaps.open_gaps(connection, {(ticker, ts): Reason.TIMEOUT for ts in found})
    return found


async def _gap_states(db: Database) -> dict[int, tuple[str, int]]:
    """Returns state and number of failed attempts of each gap, by its age in minutes."""
    rows = await db.fetch("SELECT ts, attempts, filled_at, given_up_at FROM gap")
    return {
        (NOW - r["ts"]) // 60: ("filled" if r["filled_at"] else "given up" if r["given_up_at"] else "open", r["attempts"])
        for r in rows
    }


async def test_the_first_point_inside_the_minute_is_stored_as_a_backfilled_price(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    (ts,) = await _open_gaps(db, 5)
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.unrecoverable, result.remaining) == (1, 0, 0)
    stored = await prices.latest(db, "btc_usd", 0)
    assert stored is not None
    assert (stored["ts"], stored["source"], stored["observed_at"]) == (ts, "BACKFILL", ts * 10**6)
    assert stored["price"] == market.average("btc_usd", ts, 6)


async def test_a_thousand_minutes_take_two_calls_of_the_finest_windows(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, *range(1, 1001))
    assert (await backfill(NOW, source=deribit, db=db, outbox=outbox)).filled == 1000
    assert simulator.calls["get_index_chart_data"] == 2
    for age, step in ((59, 6), (61, 60), (1000, 60)):
        (stored,) = await prices.window(db, "btc_usd", NOW - 60 * age, NOW - 60 * age + 60, newest_first=False)
        assert stored["price"] == market.average("btc_usd", stored["ts"], step), age


@pytest.mark.parametrize(("step", "expected_state"), [(59, "filled"), (60, "filled"), (61, "given up"), (120, "given up")])
async def test_an_average_over_more_than_a_minute_is_never_stored(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, step: int, expected_state: str
) -> None:
    simulator.steps_s["1d"] = step
    (ts,) = await _open_gaps(db, 300)
    await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (await _gap_states(db))[300][0] == expected_state
    assert await minutes(db, "btc_usd") == ([ts] if expected_state == "filled" else [])


async def test_gaps_without_a_fine_window_are_unrecoverable_and_the_others_are_filled(
    db: Database, deribit: Deribit, outbox: Outbox
) -> None:
    await _open_gaps(db, 3, 600, 2000, 50_000, 550_000)
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.unrecoverable) == (2, 3)
    assert {age: state for age, (state, _) in (await _gap_states(db)).items()} == {
        3: "filled", 600: "filled", 2000: "given up", 50_000: "given up", 550_000: "given up"
    }  # fmt: skip


async def test_a_minute_missing_from_a_fine_chart_is_retried_with_growing_intervals(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, 5)
    simulator.clear_faults()
    simulator.chart_holes.append((NOW - 600, NOW))
    for elapsed_minutes in range(40):
        simulator.clock.set(at=NOW + 60 * elapsed_minutes + 2)
        await backfill(NOW + 60 * elapsed_minutes, source=deribit, db=db, outbox=outbox)
    state, attempts = (await _gap_states(db))[5]
    assert state == "open"
    assert attempts == 6 == simulator.calls["get_index_chart_data"], "six attempts for ages 5 to 44, not forty"
    simulator.chart_holes.clear()
    await backfill(NOW + 60 * 60, source=deribit, db=db, outbox=outbox)
    assert (await _gap_states(db))[5][0] == "filled"


async def test_a_queued_price_takes_precedence_over_a_chart_average(db: Database, deribit: Deribit, outbox: Outbox) -> None:
    (ts,) = await _open_gaps(db, 5)
    await outbox.put([row("btc_usd", ts, "1")])
    assert (await backfill(NOW, source=deribit, db=db, outbox=outbox)).filled == 0
    assert await minutes(db, "btc_usd") == []


async def test_an_unavailable_exchange_does_not_count_as_an_attempt(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, 5, 6)
    simulator.fail("http_503")
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.remaining) == (0, 2)
    assert await _gap_states(db) == {5: ("open", 0), 6: ("open", 0)}
    simulator.clear_faults()
    assert (await backfill(NOW, source=deribit, db=db, outbox=outbox)).filled == 2


async def test_a_ticker_the_exchange_no_longer_lists_blocks_no_other(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, 4, ticker="eth_usd")
    await _open_gaps(db, 5)
    simulator.names = ("btc_usd",)
    simulator.fail("unknown_index", method="get_index_chart_data", index="eth_usd")
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.remaining) == (1, 1)
    assert await minutes(db, "btc_usd") == [NOW - 300]


async def test_an_invalid_chart_of_one_ticker_blocks_no_other(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, 4, ticker="eth_usd")
    await _open_gaps(db, 4)
    simulator.fail("no_result", method="get_index_chart_data", index="btc_usd")
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.remaining) == (1, 1)
    assert await minutes(db, "eth_usd") == [NOW - 240]


@pytest.mark.parametrize("fault", ["html", "no_result", "price_nan", "truncated", "testnet", "too_many_requests"])
async def test_an_invalid_chart_response_changes_no_gap(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox, fault: str
) -> None:
    await _open_gaps(db, 5)
    simulator.fail(fault, method="get_index_chart_data")
    assert (await backfill(NOW, source=deribit, db=db, outbox=outbox)).filled == 0
    assert await _gap_states(db) == {5: ("open", 0)}


async def test_a_chart_request_that_times_out_changes_no_gap(
    db: Database, hasty_deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await test_an_invalid_chart_response_changes_no_gap(db, hasty_deribit, simulator, outbox, "hang")


async def test_a_chart_that_does_not_cover_a_minute_changes_no_gap_and_takes_one_call(
    db: Database, deribit: Deribit, simulator: Simulator, outbox: Outbox
) -> None:
    await _open_gaps(db, *range(100, 1000))
    simulator.chart_holes.append((0, NOW - 99 * 60))
    simulator.steps_s["1d"] = 120
    result = await backfill(NOW, source=deribit, db=db, outbox=outbox)
    assert (result.filled, result.unrecoverable, result.remaining) == (0, 0, 900)
    assert simulator.calls["get_index_chart_data"] == 1


async def test_a_manual_backfill_retries_unrecoverable_gaps(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    (ts,) = await _open_gaps(db, 300)
    async with write_lock.write_transaction(db) as connection:
        await gaps.mark_unrecoverable(connection, "btc_usd", [ts])
    found = await gaps.unfilled(db, "btc_usd", 0, NOW, 10)
    assert (await fill_gaps(found, NOW, source=deribit, db=db)).filled == 1
    assert (await _gap_states(db))[300][0] == "filled"


def _points(instants: list[int]) -> list[ChartPoint]:
    return [ChartPoint(at, Decimal(at + 1)) for at in sorted(instants)]


@given(
    st.lists(st.integers(0, 3_600_000), max_size=80),
    st.lists(st.integers(0, 59).map(lambda number: number * 60), max_size=30, unique=True),
)
def test_for_any_chart_no_point_is_invented_or_misplaced(instants: list[int], wanted: list[int]) -> None:
    points = _points(instants)
    rows = {found.ts: found for found in Chart(points).rows("btc_usd", wanted)}
    distances = sorted(later - earlier for earlier, later in pairwise(sorted(set(instants))))
    is_fine = bool(distances) and (distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2 <= 60_000
    assert set(rows) <= set(wanted)
    for ts in wanted:
        instants_inside = [at for at in sorted(instants) if ts * 1000 <= at < (ts + 60) * 1000]
        if ts in rows:
            assert rows[ts].observed_at == instants_inside[0] * 1000, "the first point inside, at its own instant"
            assert rows[ts].price == Decimal(instants_inside[0] + 1)
            assert is_fine
        elif instants_inside and is_fine:
            nearest = min(abs(at - instants_inside[0]) for at in instants if at != instants_inside[0])
            assert nearest > 60_000, "only an isolated point is left out"


@given(st.integers(1, 300), st.integers(0, 59_999))
def test_a_regular_chart_fills_every_minute_or_none(step_s: int, offset_ms: int) -> None:
    points = _points([offset_ms + step_s * 1000 * i for i in range(1 + 3600 // step_s)])
    wanted = [60 * number for number in range(1, 59)]
    filled_minutes = {found.ts for found in Chart(points).rows("btc_usd", wanted)}
    assert filled_minutes == (set(wanted) if step_s <= 60 else set())
