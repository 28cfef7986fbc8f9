"""The results of each query field."""

import time

import pytest

from db.pool import Database
from db.rows import Source
from tests.graph.conftest import Api
from tests.sample_data import START_TS, row, store, track


@pytest.fixture
async def five_prices(db: Database) -> None:
    """Five minutes of btc_usd; eth_usd is tracked and has no prices."""
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"6824{i}.50") for i in range(5)])


@pytest.mark.usefixtures("five_prices")
async def test_latest_returns_every_field_of_the_newest_price(api: Api) -> None:
    data = await api.data('{ latest(ticker: "btc_usd") { id ticker ts time price observedAt source __typename } }')
    assert int(data["latest"].pop("id")) > 0
    assert data["latest"] == {
        "ticker": "btc_usd",
        "ts": START_TS + 240,
        "time": "2024-01-15T11:44:00Z",
        "price": "68244.5",
        "observedAt": "2024-01-15T11:44:01Z",
        "source": "LIVE",
        "__typename": "Price",
    }


@pytest.mark.usefixtures("five_prices")
async def test_a_ticker_without_prices_is_null_and_an_unknown_one_is_an_error_with_a_suggestion(api: Api) -> None:
    assert await api.data('{ latest(ticker: "eth_usd") { price } }') == {"latest": None}
    assert await api.data('{ ticker(name: "eth_uds") { name } }') == {"ticker": None}
    for query in (
        '{ latest(ticker: "eth_uds") { price } }',
        '{ latestPrices(tickers: ["btc_usd", "eth_uds"]) { price } }',
        '{ prices(ticker: "eth_uds") { nodes { price } } }',
        f'{{ range(ticker: "eth_uds", from: {START_TS}, to: {START_TS + 60}) {{ price }} }}',
        f'{{ priceAt(ticker: "eth_uds", at: {START_TS}) {{ price }} }}',
    ):
        code, message = await api.error(query)
        assert code == "UNKNOWN_TICKER"
        assert message == "Unknown ticker: eth_uds. Did you mean eth_usd? Tracked tickers: btc_usd, eth_usd"


@pytest.mark.usefixtures("five_prices")
async def test_latest_prices_are_in_the_requested_order(api: Api, db: Database) -> None:
    await store(db, [row("eth_usd", START_TS)])
    data = await api.data('{ latestPrices(tickers: ["eth_usd", "btc_usd", "eth_usd"]) { ticker } }')
    assert [price["ticker"] for price in data["latestPrices"]] == ["eth_usd", "btc_usd"]
    data = await api.data("{ latestPrices { ticker } }")
    assert [price["ticker"] for price in data["latestPrices"]] == ["btc_usd", "eth_usd"]


async def test_tickers_have_their_age_and_staleness(api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", "eth_usd", "old_usd", since=now - 600)
    await track(db, "btc_usd", "eth_usd", since=now - 60)
    await store(db, [row("btc_usd", now), row("old_usd", now - 600)])
    data = await api.data("{ tickers { name since tracked ageS stale latest { ts } } }")
    btc, eth, old = data["tickers"]
    assert 0 <= btc.pop("ageS") < 120
    assert btc == {"name": "btc_usd", "since": now - 600, "tracked": True, "stale": False, "latest": {"ts": now}}
    assert eth == {"name": "eth_usd", "since": now - 600, "tracked": True, "stale": True, "latest": None, "ageS": None}
    assert (old["tracked"], old["stale"], old["ageS"] >= 600) == (False, False, True)


@pytest.mark.usefixtures("five_prices")
@pytest.mark.parametrize("low", [str(START_TS + 60), '"2024-01-15T11:41:00Z"', '"2024-01-15T12:41:00+01:00"'])
async def test_range_is_half_open_and_accepts_both_time_formats(api: Api, low: str) -> None:
    data = await api.data(f'{{ range(ticker: "btc_usd", from: {low}, to: {START_TS + 180}) {{ ts }} }}')
    assert [price["ts"] for price in data["range"]] == [START_TS + 60, START_TS + 120]


@pytest.mark.usefixtures("five_prices")
async def test_adjacent_ranges_join_and_order_reverses_a_range(api: Api) -> None:
    query = """query ($a: UnixTime!, $b: UnixTime!, $c: UnixTime!) {
        left: range(ticker: "btc_usd", from: $a, to: $b) { ts }
        right: range(ticker: "btc_usd", from: $b, to: $c) { ts }
        back: range(ticker: "btc_usd", from: $a, to: $c, order: NEWEST_FIRST) { ts } }"""
    data = await api.data(query, a=START_TS, b=START_TS + 120, c=START_TS + 300)
    assert data["left"] + data["right"] == data["back"][::-1]
    assert len(data["back"]) == 5


@pytest.mark.usefixtures("five_prices")
async def test_a_range_without_an_end_extends_to_now(api: Api, db: Database) -> None:
    now = int(time.time()) // 60 * 60
    await store(db, [row("eth_usd", now)])
    data = await api.data('query ($a: UnixTime!) { range(ticker: "eth_usd", from: $a) { ts } }', a=now - 3600)
    assert data["range"] == [{"ts": now}]


@pytest.mark.usefixtures("five_prices")
async def test_price_at_returns_the_last_observed_price_and_none_older_than_max_age(api: Api) -> None:
    query = 'query ($at: UnixTime!, $age: Int! = 300) { priceAt(ticker: "btc_usd", at: $at, maxAge: $age) { ts } }'
    assert await api.data(query, at=START_TS) == {"priceAt": None}
    assert await api.data(query, at=START_TS + 1) == {"priceAt": {"ts": START_TS}}
    assert await api.data(query, at=START_TS + 60) == {"priceAt": {"ts": START_TS}}
    assert await api.data(query, at=START_TS + 541) == {"priceAt": {"ts": START_TS + 240}}
    assert await api.data(query, at=START_TS + 542) == {"priceAt": None}
    assert await api.data(query, at=START_TS + 542, age=301) == {"priceAt": {"ts": START_TS + 240}}
    assert await api.data(query, at=7_258_118_399, age=2**31 - 1) == {"priceAt": None}


@pytest.mark.usefixtures("five_prices")
async def test_prices_at_instants_are_those_of_price_at(api: Api) -> None:
    instants = [START_TS + second for second in (541, 0, 1, 60, 542, 60, 7_000)]
    one = 'query ($at: UnixTime!) { priceAt(ticker: "btc_usd", at: $at) { id ts price source } }'
    expected = [(await api.data(one, at=at))["priceAt"] for at in instants]
    many = 'query ($at: [UnixTime!]!) { pricesAt(ticker: "btc_usd", at: $at) { id ts price source } }'
    assert (await api.data(many, at=instants))["pricesAt"] == expected
    assert any(expected)
    assert (await api.data(many, at=[]))["pricesAt"] == []
    code, message = await api.error(many.replace("id ts price source", "ts"), at=[START_TS] * 10_001)
    assert (code, message) == ("BAD_USER_INPUT", "at: 10001 instants exceed the maximum of 10000")
    assert (await api.error(many.replace("btc_usd", "nope"), at=instants))[0] == "UNKNOWN_TICKER"


async def test_a_price_has_every_digit_and_its_source(api: Api, db: Database) -> None:
    await track(db, "s_usdc")
    await store(
        db,
        [
            row("s_usdc", START_TS, "0.0000059"),
            row("s_usdc", START_TS + 60, "60000", at_s=None, source=Source.IMPORT),
            row("s_usdc", START_TS + 120, "81110.428333", at_s=59.999999, source=Source.BACKFILL),
        ],
    )
    data = await api.data('{ prices(ticker: "s_usdc", order: OLDEST_FIRST) { nodes { price observedAt source } } }')
    assert [tuple(node.values()) for node in data["prices"]["nodes"]] == [
        ("0.0000059", "2024-01-15T11:40:01Z", "LIVE"),
        ("60000", None, "IMPORT"),
        ("81110.428333", "2024-01-15T11:42:59.999999Z", "BACKFILL"),
    ]
