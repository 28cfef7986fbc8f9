"""Delivery prices, the mean of our own data beside them, and the exchange's estimates."""

import logging
from decimal import Decimal
from typing import Any

import pytest

from db import times
from db.pool import Database
from db.queries import delivery_prices
from ingest.deribit import protocol
from ingest.deribit.client import Deribit
from ingest.deribit.models import Envelope
from ingest.errors import RetryableError
from ingest.jobs.collect import collect
from ingest.jobs.delivery_prices import LATE_RETRY_INTERVAL_S, RETRY_INTERVAL_S, DeliveryPriceCollector, mean_of_chart
from ingest.jobs.store_ranges import store_ranges
from ingest.jobs.watchlist import Watchlist
from ingest.outbox import Outbox
from ingest.simulator import market
from ingest.simulator.server import Simulator
from ingest.source import ChartPoint
from ingest.ticks import MinuteTicks, Tick
from tests.sample_data import START_TS, track

DELIVERY = START_TS // times.DAY * times.DAY + delivery_prices.DELIVERY_SECOND


async def watch(db: Database, minutes: int) -> None:
    """Stores the ranges of the last minutes before the delivery, from the simulator's ticks."""
    watched = []
    for ts in range(DELIVERY - 60 * minutes, DELIVERY, 60):
        minute = MinuteTicks("btc_usd", ts)
        for second in range(ts, ts + 60):
            minute.add(Tick("btc_usd", second * 1_000, market.price("btc_usd", second), 1))
        watched.append(minute)
    await store_ranges(db, watched)


async def collect_at(second: int, db: Database, deribit: Deribit, simulator: Simulator, *names: str) -> int:
    simulator.clock.set(at=second, stands=True)
    return await DeliveryPriceCollector().collect(second, names or ("btc_usd",), source=deribit, db=db)


async def stored_delivery(db: Database) -> dict[str, Any]:
    found = await delivery_prices.get(db, "btc_usd", DELIVERY)
    assert found is not None
    return dict(found)


async def test_the_mean_of_watched_minutes_is_the_delivery_price(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, "btc_usd")
    await watch(db, 30)
    assert await collect_at(DELIVERY + 300, db, deribit, simulator) == 1
    found = await stored_delivery(db)
    assert (found["price"], found["basis"]) == (market.delivery_price("btc_usd", DELIVERY), "RANGE")
    assert abs(found["difference_bps"]) < 0.5
    assert await db.fetchval("SELECT count(*) FROM delivery_price") == 30, "earlier ones that the exchange lists"


async def test_without_watched_minutes_the_chart_just_after_the_delivery_is_used(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    await track(db, "btc_usd")
    await watch(db, 29)
    await collect_at(DELIVERY + 300, db, deribit, simulator)
    found = await stored_delivery(db)
    assert found["basis"] == "CHART"
    assert abs(found["difference_bps"]) < 0.5


async def test_if_too_little_is_known_there_is_no_mean(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, "btc_usd")
    await collect_at(DELIVERY + 2 * 3_600, db, deribit, simulator)  # the finest chart no longer reaches back
    found = await stored_delivery(db)
    assert (found["mean"], found["basis"], found["difference_bps"]) == (None, None, None)


async def test_a_difference_is_an_error(
    db: Database, deribit: Deribit, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await track(db, "btc_usd")
    await watch(db, 30)
    regular = market.delivery_price
    monkeypatch.setattr(market, "delivery_price", lambda name, at: regular(name, at) * Decimal("1.001"))
    await collect_at(DELIVERY + 300, db, deribit, simulator)
    assert (await stored_delivery(db))["difference_bps"] == pytest.approx(-10, abs=0.5)
    assert [record.levelno for record in caplog.records if "delivery price is" in record.message] == [logging.ERROR]


async def test_nothing_is_requested_before_the_delivery_or_twice(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, "btc_usd")
    now = 0.0
    jobs = DeliveryPriceCollector(lambda: now)

    async def collected_at(second: int) -> int:
        simulator.clock.set(at=second, stands=True)
        return await jobs.collect(second, ["btc_usd"], source=deribit, db=db)

    assert await collected_at(DELIVERY + 60) == 0
    assert simulator.calls.get("get_delivery_prices") is None
    simulator.fail("http_503", method="get_delivery_prices", times=1)
    assert await collected_at(DELIVERY + 180) == 0
    assert await collected_at(DELIVERY + 240) == 0, "it waits before it tries again"
    now += RETRY_INTERVAL_S
    assert await collected_at(DELIVERY + 900) == 1
    now += RETRY_INTERVAL_S
    assert await collected_at(DELIVERY + 1_800) == 0
    assert simulator.calls["get_delivery_prices"] == 2


async def test_a_new_installation_has_delivery_prices_at_once_and_retries_rarely(
    db: Database, deribit: Deribit, simulator: Simulator
) -> None:
    await track(db, "btc_usd")
    now, late = 0.0, DELIVERY + 20 * 3_600
    simulator.clock.set(at=late, stands=True)
    jobs = DeliveryPriceCollector(lambda: now)
    simulator.fail("http_503", method="get_delivery_prices", times=1)
    assert await jobs.collect(late, ["btc_usd"], source=deribit, db=db) == 0
    now += RETRY_INTERVAL_S
    assert await jobs.collect(late, ["btc_usd"], source=deribit, db=db) == 0
    now += LATE_RETRY_INTERVAL_S
    assert await jobs.collect(late, ["btc_usd"], source=deribit, db=db) == 1


async def test_an_index_without_delivery_prices_stops_no_other(db: Database, deribit: Deribit, simulator: Simulator) -> None:
    await track(db, "btc_usd", "eth_usd")
    simulator.fail("unknown_index", method="get_delivery_prices", index="btc_usd")
    assert await collect_at(DELIVERY + 300, db, deribit, simulator, "btc_usd", "eth_usd") == 1


def test_malformed_delivery_prices_are_skipped() -> None:
    data = [
        {"date": "2024-01-15", "delivery_price": 60000},
        {"date": "2024-01-14", "delivery_price": Decimal("1.5")},
        {"date": "2024-01-13", "delivery_price": 0},
        {"date": "yesterday", "delivery_price": 1},
        {"date": "2024-01-12"},
        7,
    ]
    found = protocol.delivery_prices(Envelope(result={"data": data, "records_total": 6}))
    assert found == {DELIVERY: Decimal(60_000), DELIVERY - times.DAY: Decimal("1.5")}
    with pytest.raises(RetryableError):
        protocol.delivery_prices(Envelope(result=[]))


@pytest.mark.parametrize(
    ("step_s", "hole", "expected"), [(6, False, Decimal(5)), (60, False, Decimal(5)), (6, True, None), (120, False, None)]
)
def test_a_chart_counts_only_if_it_is_fine_and_complete(step_s: int, hole: bool, expected: Decimal | None) -> None:
    points = [ChartPoint(at * 1_000, Decimal(5)) for at in range(DELIVERY - 3_000, DELIVERY + 300, step_s)]
    if hole:
        del points[300]
    assert mean_of_chart(points, DELIVERY) == expected


async def test_an_estimate_is_stored_where_it_differs(
    db: Database, outbox: Outbox, deribit: Deribit, simulator: Simulator
) -> None:
    for minute in (DELIVERY - 3_600, DELIVERY - 600):
        simulator.clock.set(at=minute + 1, stands=True)
        await collect(minute, watchlist=Watchlist(["btc_usd"]), source=deribit, db=db, outbox=outbox)
    estimate = market.estimated_delivery_price("btc_usd", DELIVERY - 599)
    minutes = [("btc_usd", DELIVERY - 3_600), ("btc_usd", DELIVERY - 600)]
    assert await delivery_prices.estimates_of(db, minutes) == {minutes[1]: estimate}
    assert estimate != market.price("btc_usd", DELIVERY - 599)


@pytest.mark.parametrize("literal", ["null", '"70000"', "-1", "0", "[]", "true"])
def test_an_invalid_estimate_does_not_invalidate_the_price(literal: str) -> None:
    body = f'{{"jsonrpc":"2.0","result":{{"index_price":5,"estimated_delivery_price":{literal}}}}}'.encode()
    assert protocol.price(protocol.parse_envelope(200, {}, body)) == (Decimal(5), None)
