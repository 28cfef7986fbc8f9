"""TradingView's data feed protocol, message by message. The charting library itself is not freely available."""

import time
from typing import Any

import orjson
import pytest

from db.pool import Database
from tests.graph.conftest import Api
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

HOUR, DAY = 3_600, 86_400
START = START_TS // DAY * DAY


async def read(api: Api, path: str, status: int = 200, **params: Any) -> Any:
    async with api.session.get(f"{api.url}/udf/{path}", params=params) as response:
        text = await response.read()
        assert response.status == status, text
        assert response.content_type == "application/json"
        return orjson.loads(text)


@pytest.fixture
async def prices(db: Database) -> None:
    """Minutes of two hours of one day, of one hour of the next day, and of one hour a month later."""
    await track(db, "btc_usd", "eth_btc")
    for begin in (START, START + 5 * HOUR, START + DAY, START + 31 * DAY):
        await store(db, [row("btc_usd", begin + 60 * n, f"{100 + n % 7}.25") for n in range(60)])
    await store_ranges(db, [range_row("btc_usd", START, "90", "110.125")])
    await store(db, [row("eth_btc", START, "0.031234")])


@pytest.mark.usefixtures("prices")
async def test_the_feed_describes_itself_and_its_symbols(api: Api) -> None:
    found = await read(api, "config")
    assert found["supported_resolutions"] == ["1", "5", "15", "30", "60", "240", "720", "1D", "1W", "1M"]
    assert (found["supports_search"], found["supports_group_request"], found["supports_time"]) == (True, False, True)
    async with api.session.get(f"{api.url}/udf/time") as response:
        assert response.content_type == "text/plain"
        assert abs(int(await response.text()) - time.time()) < 60
    for symbol in ("btc_usd", "BTC_USD", "DERIBIT:btc_usd"):
        info = await read(api, "symbols", symbol=symbol)
        assert (info["ticker"], info["session"], info["timezone"], info["minmov"]) == ("btc_usd", "24x7", "Etc/UTC", 1)
        assert (info["pricescale"], info["description"], info["currency_code"]) == (100, "BTC / USD index", "USD")
        assert {info[f"has_{name}"] for name in ("intraday", "daily", "weekly_and_monthly")} == {True}
    assert (await read(api, "symbols", symbol="eth_btc"))["pricescale"] == 10**6
    assert await read(api, "symbols", 404, symbol="doge_usd") == {"s": "error", "errmsg": "unknown_symbol"}
    assert (await read(api, "symbols", 422))["s"] == "error"


@pytest.mark.usefixtures("prices")
async def test_symbols_are_found_by_parts_of_their_names(api: Api) -> None:
    for text, names in (("btc", ["btc_usd", "eth_btc"]), ("BTC/USD", ["btc_usd"]), ("DERIBIT:eth", ["eth_btc"]), ("x", [])):
        found = await read(api, "search", query=text, type="", exchange="", limit=30)
        assert [one["symbol"] for one in found] == names
        assert all(set(one) >= {"symbol", "full_name", "description", "exchange", "ticker", "type"} for one in found)
    assert len(await read(api, "search", query="", limit=1)) == 1
    assert await read(api, "search", query="btc", exchange="NASDAQ") == []


@pytest.mark.usefixtures("prices")
async def test_bars_are_the_candles_of_the_window(api: Api) -> None:
    window: dict[str, Any] = {"symbol": "btc_usd", "from": START, "to": START + 2 * DAY, "currencyCode": "USD"}
    found = await read(api, "history", resolution="60", **window)
    arguments = f'ticker: "btc_usd", interval: ONE_HOUR, from: {START}, to: {START + 2 * DAY}'
    candles = (await api.data(f"{{ candles({arguments}) {{ ts open high low close }} }}"))["candles"]
    assert found["s"] == "ok"
    assert found["t"] == [candle["ts"] for candle in candles] == [START, START + 5 * HOUR, START + DAY]
    for key, name in zip("ohlc", ("open", "high", "low", "close"), strict=True):
        assert found[key] == [float(candle[name]) for candle in candles]
    assert found["h"][0] == 110.125, "with the ticks of the minute"
    assert len(found["v"]) == 3
    for resolution in ("1D", "D"):
        assert (await read(api, "history", resolution=resolution, **window))["t"] == [START, START + DAY]
    assert (await read(api, "history", resolution="1", **window))["t"][:2] == [START, START + 60]
    assert (
        await read(api, "history", resolution="1M", symbol="btc_usd", **{"from": START - 40 * DAY, "to": START + 40 * DAY})
    )["t"] == [1_704_067_200, 1_706_745_600]


@pytest.mark.usefixtures("prices")
async def test_countback_finds_enough_bars_across_gaps(api: Api) -> None:
    end = START + 31 * DAY + HOUR
    found = await read(api, "history", symbol="btc_usd", resolution="60", countback=3, **{"from": end - HOUR, "to": end})
    assert found["t"] == [START + 5 * HOUR, START + DAY, START + 31 * DAY]
    found = await read(api, "history", symbol="btc_usd", resolution="1", countback=100, **{"from": end - 60, "to": end})
    assert len(found["t"]) == 60, "no more than 10,000 minutes are searched"


@pytest.mark.usefixtures("prices")
async def test_a_library_that_pages_back_gets_every_bar_once(api: Api) -> None:
    """As the library does: it requests older bars until `no_data` has no `nextTime`."""
    collected: list[int] = []
    end = START + 40 * DAY
    while True:
        found = await read(
            api, "history", symbol="btc_usd", resolution="1", countback=50, **{"from": max(0, end - 50 * 60), "to": end}
        )
        if found["s"] == "ok":
            collected = found["t"] + collected
            end = found["t"][0]
        elif "nextTime" in found:
            end = found["nextTime"] + 60
        else:
            break
    expected = [begin + 60 * n for begin in (START, START + 5 * HOUR, START + DAY, START + 31 * DAY) for n in range(60)]
    assert collected == expected


@pytest.mark.usefixtures("prices")
async def test_an_empty_window_names_the_last_bar_before_it(api: Api) -> None:
    window: dict[str, Any] = {"symbol": "btc_usd", "from": START + 10 * DAY, "to": START + 11 * DAY}
    assert await read(api, "history", resolution="60", **window) == {"s": "no_data", "nextTime": START + DAY}
    assert await read(api, "history", resolution="1D", **window) == {"s": "no_data", "nextTime": START + DAY}
    assert await read(api, "history", resolution="60", symbol="btc_usd", **{"from": 0, "to": START}) == {"s": "no_data"}
    assert (await read(api, "history", 422, resolution="7", **window))["errmsg"].startswith("resolution: '7' is not supported")
    unknown: dict[str, Any] = {**window, "symbol": "doge_usd"}
    assert (await read(api, "history", 404, resolution="60", **unknown))["errmsg"] == "unknown_symbol"


@pytest.mark.usefixtures("prices")
@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize(
    ("start", "end"), [(2**63, START), (10**30, 10**31), (START + 2 * DAY, START), (-(10**18), -5), (-(10**12), START)]
)
async def test_odd_windows_are_answered(api: Api, start: int, end: int) -> None:
    for resolution in ("1", "1W", "1M"):
        for countback in ({}, {"countback": 300}, {"countback": 10**12}):
            window: dict[str, Any] = {"from": start, "to": end, **countback}
            found = await read(api, "history", symbol="btc_usd", resolution=resolution, **window)
            assert found["s"] in ("ok", "no_data")
            assert all(ts < min(end, time.time() + 1) for ts in found.get("t", []))


@pytest.mark.usefixtures("prices")
async def test_no_bar_is_between_next_time_and_the_window(api: Api) -> None:
    window: dict[str, Any] = {"symbol": "btc_usd", "from": START + DAY + 600, "to": START + DAY + 7_200}
    assert await read(api, "history", resolution="1D", **window) == {"s": "no_data", "nextTime": START + DAY}


@pytest.mark.usefixtures("prices")
async def test_quotes_have_the_newest_price_and_its_change(api: Api) -> None:
    found = await read(api, "quotes", symbols="btc_usd,DERIBIT:eth_btc,doge_usd,!")
    assert found["s"] == "ok"
    btc, eth, unknown, invalid = found["d"]
    assert (btc["s"], btc["n"], btc["v"]["lp"], btc["v"]["open_price"]) == ("ok", "btc_usd", 103.25, 100.25)
    assert (btc["v"]["ch"], btc["v"]["chp"]) == (3, 2.9925)
    assert (eth["n"], eth["v"]["short_name"], eth["v"]["lp"]) == ("DERIBIT:eth_btc", "eth_btc", 0.031234)
    assert (unknown["s"], invalid["s"]) == ("error", "error")
