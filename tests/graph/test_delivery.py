"""Delivery prices and estimates as the API serves them."""

from decimal import Decimal

from db import times
from db.pool import Database
from db.queries import delivery_prices, write_lock
from db.rows import DeliveryBasis
from tests.graph.conftest import Api
from tests.graph.subscriptions import subscribe_and_wait
from tests.sample_data import START_TS, row, store, track

DELIVERY = START_TS // times.DAY * times.DAY + delivery_prices.DELIVERY_SECOND


async def test_a_delivery_price_is_found_by_its_day(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    prices = {DELIVERY: Decimal(70_000), DELIVERY - times.DAY: Decimal(69_000)}
    async with write_lock.write_transaction(db) as connection:
        means = {DELIVERY: (Decimal("70000.7"), DeliveryBasis.RANGE)}
        await delivery_prices.store(connection, "btc_usd", prices, means)
    query = '{ deliveryPrice(ticker: "btc_usd", date: "%s") { ticker ts price mean basis differenceBps } }'
    found = (await api.data(query % "2024-01-15"))["deliveryPrice"]
    expected = {"ticker": "btc_usd", "ts": DELIVERY, "price": "70000", "mean": "70000.7", "basis": "RANGE"}
    assert found == expected | {"differenceBps": 0.1}
    assert (await api.data(query % "2024-01-15T23:00:00Z"))["deliveryPrice"] == found
    earlier = (await api.data(query % "2024-01-14"))["deliveryPrice"]
    assert (earlier["price"], earlier["mean"], earlier["basis"], earlier["differenceBps"]) == ("69000", None, None, None)
    assert (await api.data(query % "2024-01-16"))["deliveryPrice"] is None
    assert (await api.error(query.replace("btc_usd", "nope_usd") % "2024-01-15"))[0] == "UNKNOWN_TICKER"


async def test_an_estimate_is_part_of_its_price_and_of_its_event(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    subscription = "subscription { priceAdded { ts estimatedDeliveryPrice } }"
    async with subscribe_and_wait(api, subscription) as subscriber:
        await store(db, [row("btc_usd", START_TS)])
        await store(db, [row("btc_usd", START_TS + 60).model_copy(update={"estimated_delivery_price": Decimal("101.5")})])
        events = await subscriber.events(2)
    expected = [{"ts": START_TS, "estimatedDeliveryPrice": None}, {"ts": START_TS + 60, "estimatedDeliveryPrice": "101.5"}]
    assert events == expected
    window = f'range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 120})'
    assert (await api.data(f"{{ {window} {{ ts estimatedDeliveryPrice }} }}"))["range"] == expected
