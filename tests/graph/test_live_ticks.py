"""Ticks that the stream process publishes: subscriptions to them, and open candles that move with them."""

import asyncio
import time
from decimal import Decimal

import pytest

from db.pool import Database
from db.queries import ticks
from db.queries.ticks import MAX_PAYLOAD_BYTES, notify_ticks
from graph.engine import live_ticks
from graph.engine.live_ticks import LiveTicks
from tests.graph.conftest import Api
from tests.graph.subscriptions import subscribe
from tests.sample_data import START_TS, row, store, track

TICKS = "subscription ($tickers: [String!]) { tickUpdated(tickers: $tickers) { ticker at price __typename } }"


async def test_subscribers_get_the_newest_tick_and_each_later_one(api: Api, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    at_ms = START_TS * 1_000 + 123
    async with subscribe(api, TICKS, tickers=["btc_usd"]) as subscriber:
        received: list[str] = []
        for number in range(3):
            await notify_ticks(db, {"btc_usd": (at_ms + 1_000 * number, Decimal(100 + number)), "eth_usd": (1, Decimal(7))})
            (event,) = await subscriber.events(1)
            received.append(event["price"])
            assert event == {
                "ticker": "btc_usd",
                "at": f"2024-01-15T11:40:0{number}.123000Z",
                "price": str(100 + number),
                "__typename": "Tick",
            }
    async with subscribe(api, TICKS, tickers=None) as late:
        assert [event["price"] for event in await late.events(2)] == ["102", "7"]


async def test_an_unknown_ticker_is_rejected(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with subscribe(api, TICKS, tickers=["btc_usdd"]) as subscriber:
        assert (await subscriber.error())[0] == "UNKNOWN_TICKER"


async def test_an_open_candle_moves_with_ticks_and_keeps_its_extremes(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_ticks, "MAX_CLOSE_AGE_S", 600)  # a tick stays the close, however slow the machine is
    minute = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=minute)
    await store(db, [row("btc_usd", minute, "100")])
    query = 'subscription { candleUpdated(ticker: "btc_usd", interval: ONE_DAY%s) { o: open high low close count } }'
    candle = {"o": "100", "high": "100", "low": "100", "close": "100", "count": 1}
    async with subscribe(api, query % "") as subscriber, subscribe(api, query % ", basis: SAMPLE") as sampled:
        assert await subscriber.events(1) == [candle]
        assert await sampled.events(1) == [candle]
        for number, (price, change) in enumerate([("112.5", {"high": "112.5"}), ("90", {"low": "90"}), ("95", {})]):
            await notify_ticks(db, {"btc_usd": (minute * 1_000 + number, Decimal(price))})
            candle |= {"close": price} | change
            assert await subscriber.events(1) == [candle]
        await store(db, [row("btc_usd", minute - 60, "101")])
        assert (await sampled.events(1))[0]["high"] == "101", "samples do not move with ticks"


async def test_events_are_at_least_half_a_second_apart_and_an_invalid_notification_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    async def record_pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("graph.engine.live_ticks.asyncio.sleep", record_pause)
    now = 1_000.0
    live = LiveTicks(lambda: now)
    invalid = ['{"btc_usd": 1}', '{"btc_usd": [1, "x"]}', '{"btc_usd": [1, "NaN"]}', '{"BTC": [1, "1"]}', '{"a": [1.5, "1"]}']
    for payload in ("", "[]", "{", '{"btc_usd": [100000000000000000, "1"]}', '{"btc_usd": [1, "0"]}', *invalid):
        live.receive(payload)
    live.receive('{"btc_usd": [60000, "1"]}')
    await live._publishing  # type: ignore[misc]  # noqa: SLF001
    now += 0.1
    live.receive('{"btc_usd": [61000, "2"]}')
    live.receive('{"btc_usd": [62000, "3"]}')
    await live._publishing  # type: ignore[misc]  # noqa: SLF001
    assert pauses == [0.0, pytest.approx(0.4)]


def test_extremes_are_those_of_the_requested_minutes_and_an_old_tick_is_no_close() -> None:
    now = 0.0
    live = LiveTicks(lambda: now)

    async def receive() -> None:
        for at_ms, price in ((0, "5"), (59_999, "3"), (60_000, "9"), (61_000, "7")):
            live.receive(f'{{"btc_usd": [{at_ms}, "{price}"]}}')

    asyncio.run(receive())
    whole, first = live.extremes("btc_usd", 0, 3_600), live.extremes("btc_usd", 0, 60)
    assert whole is not None
    assert first is not None
    assert [str(whole.low), str(whole.high), str(whole.close), whole.is_live] == ["3", "9", "7", True]
    assert [str(first.low), str(first.high), str(first.close)] == ["3", "5", "3"]
    assert live.extremes("btc_usd", 120, 180) is None
    assert live.extremes("eth_usd", 0, 60) is None
    now += live_ticks.MAX_CLOSE_AGE_S + 1
    old = live.extremes("btc_usd", 0, 3_600)
    assert old is not None
    assert not old.is_live


def test_the_ticks_of_an_exchange_with_many_indexes_fit_into_notifications() -> None:
    names = {f"index_with_a_long_name_{number}": (1_705_318_800_000, Decimal("68241.123456")) for number in range(500)}
    payloads = list(ticks._payloads(names))  # noqa: SLF001
    assert max(map(len, payloads)) <= MAX_PAYLOAD_BYTES
    found: dict[str, tuple[int, Decimal]] = {}
    for payload in payloads:
        found |= ticks.parse_notification(payload)
    assert found == names
