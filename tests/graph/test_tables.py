"""`/candles`, `/tickers` and `/coverage`: the same numbers as GraphQL, as JSON and as CSV."""

import csv
import io
from typing import Any

import orjson
import pytest

from db.pool import Database
from db.queries import version
from db.queries.candles import Interval
from tests.graph.conftest import Api
from tests.sample_data import START_TS, range_row, row, store, store_ranges, track

WINDOW = f"from={START_TS - 600}&to={START_TS + 3_600}"


@pytest.fixture
async def prices(db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * n, f"{100 + n}.125") for n in range(0, 60, 2)])
    await store_ranges(db, [range_row("btc_usd", START_TS, "90", "110")])


async def read(api: Api, path: str, status: int = 200) -> tuple[bytes, str]:
    async with api.session.get(api.url + path) as response:
        body = await response.read()
        assert response.status == status, body
        return body, response.headers["Content-Type"]


def parse_csv(body: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(body.decode())))


def _as_text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize(
    "path",
    [f"/candles?ticker=btc_usd&interval=FIVE_MINUTES&{WINDOW}", "/tickers?", f"/coverage?ticker=btc_usd&{WINDOW}"],
)
async def test_a_table_has_the_same_values_in_each_format(api: Api, path: str) -> None:
    body, media_type = await read(api, path)
    rows = orjson.loads(body)
    assert media_type == "application/json"
    assert rows
    text, media_type = await read(api, f"{path}&format=csv")
    assert media_type == "text/csv; charset=utf-8"
    found = parse_csv(text)
    assert [list(one.values()) for one in found] == [[_as_text(value) for value in one.values()] for one in rows]
    assert list(found[0]) == list(rows[0])
    numbers = orjson.loads((await read(api, f"{path}&numbers=true"))[0])
    for text_row, number_row in zip(rows, numbers, strict=True):
        for name, value in text_row.items():
            is_price = isinstance(value, str) and name not in ("time", "ticker")
            assert number_row[name] == (float(value) if is_price else value)
    v1, _ = await read(api, f"/v1{path}")
    assert len(orjson.loads(v1)) == len(rows)


@pytest.mark.usefixtures("prices")
async def test_candles_are_those_of_graphql(api: Api) -> None:
    for interval in Interval.__members__:
        for basis in ("RANGE", "SAMPLE"):
            arguments = (
                f'ticker: "btc_usd", interval: {interval}, from: {START_TS - 600}, to: {START_TS + 3_600}, basis: {basis}'
            )
            expected = (await api.data(f"{{ candles({arguments}) {{ ts end open high low close twap count }} }}"))["candles"]
            body, _ = await read(api, f"/candles?ticker=btc_usd&interval={interval}&basis={basis}&{WINDOW}")
            assert [{name: found[name] for name in expected[0]} for found in orjson.loads(body)] == expected


@pytest.mark.usefixtures("prices")
async def test_coverage_and_tickers_are_those_of_graphql(api: Api) -> None:
    (found,) = orjson.loads((await read(api, f"/coverage?ticker=btc_usd&{WINDOW}"))[0])
    assert (found["expected"], found["stored"], found["missing"], found["live"]) == (60, 30, 30, 30)
    btc, eth = orjson.loads((await read(api, "/tickers"))[0])
    assert (btc["ticker"], btc["price"], btc["ts"], btc["stale"]) == ("btc_usd", "158.125", START_TS + 58 * 60, True)
    assert (eth["ticker"], eth["price"], eth["age_s"]) == ("eth_usd", None, None)
    numbers = (await read(api, "/tickers?numbers=true"))[0]
    assert b'"price":158.125' in numbers


async def test_a_number_has_all_digits_of_the_price(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "123456789.000000000000000001")])
    body = (await read(api, f"/candles?ticker=btc_usd&numbers=true&interval=ONE_MINUTE&{WINDOW}"))[0]
    assert b'"close":123456789.000000000000000001' in body


@pytest.mark.usefixtures("prices")
async def test_tables_are_read_as_of_a_version(api: Api, db: Database) -> None:
    paths = [f"/candles?ticker=btc_usd&{WINDOW}", f"/coverage?ticker=btc_usd&{WINDOW}"]
    as_of = f"&as_of={await version.current(db)}"
    before = [await read(api, path + as_of) for path in paths]
    await store(db, [row("btc_usd", START_TS + 60)])
    assert [await read(api, path + as_of) for path in paths] == before
    assert [await read(api, path) for path in paths] != before


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        (f"/candles?ticker=btc_usd&interval=1h&{WINDOW}", 422, "interval"),
        ("/candles?ticker=btc_usd", 422, "from"),
        (f"/candles?ticker=nope&{WINDOW}", 404, "Unknown ticker: nope"),
        (f"/coverage?ticker=nope&{WINDOW}", 404, "Unknown ticker: nope"),
        ("/tickers?format=xml", 422, "format"),
        ("/candles?ticker=btc_usd&interval=ONE_MINUTE&from=0&to=4000000000", 422, "the maximum is 10000"),
    ],
)
async def test_invalid_parameters_are_named(api: Api, path: str, status: int, detail: str) -> None:
    body, media_type = await read(api, path, status)
    assert media_type == "application/problem+json"
    assert detail in orjson.loads(body)["detail"]
