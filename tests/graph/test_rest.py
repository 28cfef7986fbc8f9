"""Every REST path with valid and invalid parameters, and its agreement with GraphQL."""

# ruff: noqa: E501  a row of the table is a line

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from db.pool import Database
from db.rows import Source
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track

DAY = 1_705_276_800


@pytest.fixture
async def ten_prices(db: Database) -> None:
    """Ten minutes of btc_usd from MINUTE on; eth_usd is tracked and has no prices."""
    await track(db, "btc_usd", "eth_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i, f"6824{i}.50") for i in range(10)])


async def _get(api: Api, path: str) -> tuple[int, Any, dict[str, str]]:
    async with api.session.get(f"{api.url}{path}", allow_redirects=False) as response:
        return response.status, await response.json(content_type=None), dict(response.headers)


async def _minutes(api: Api, path: str) -> list[int]:
    status, rows, _ = await _get(api, path)
    assert status == 200, rows
    return [(r["ts"] - START_TS) // 60 for r in rows]


@pytest.mark.usefixtures("ten_prices")
async def test_a_row_has_every_field_that_older_clients_read(api: Api, db: Database) -> None:
    await store(db, [row("eth_usd", START_TS, "2536.1", at_s=None, source=Source.IMPORT)])
    status, body, _ = await _get(api, "/prices/last?ticker=btc_usd")
    assert status == 200
    assert body.pop("id") > 0
    assert body == {
        "ticker": "btc_usd",
        "price": "68249.5",
        "ts": START_TS + 540,
        "created_at": "2024-01-15T11:49:00Z",
        "observed_at": "2024-01-15T11:49:01.000000Z",
        "source": "LIVE",
    }
    _, body, _ = await _get(api, "/prices/latest?ticker=eth_usd")
    assert (body["observed_at"], body["source"]) == (None, "IMPORT")


@pytest.mark.usefixtures("ten_prices")
@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(
    ("path", "minutes"),
    [
        ("/prices?ticker=btc_usd", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("/prices/all?ticker=btc_usd&limit=3", [9, 8, 7]),
        ("/prices?ticker=btc_usd&limit=3&offset=8", [1, 0]),
        (f"/prices?ticker=btc_usd&start_date={START_TS + 120}", [2, 1, 0]),
        ("/prices?ticker=btc_usd&start_date=2024-01-15T11:41:59Z", [1, 0]),
        ("/prices?ticker=eth_usd", []),
        (f"/prices/filter?ticker=btc_usd&date_from={START_TS + 60}&date_to={START_TS + 180}", [1, 2, 3]),
        ("/prices/filter?ticker=btc_usd&date_from=2024-01-15T11:48:00Z", [8, 9]),
        ("/prices/filter?ticker=btc_usd&date_to=2024-01-15T12:41:00%2B01:00", [0, 1]),
        ("/prices/filter?ticker=btc_usd&date_to=2024-01-15T12:41:00+01:00", [0, 1]),
        ("/prices/filter?ticker=btc_usd", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("/prices/filter?ticker=btc_usd&limit=2", [0, 1]),
        (f"/prices/range?ticker=btc_usd&from_ts={START_TS + 60}&to_ts={START_TS + 60}", [1]),
        (f"/prices/range?ticker=btc_usd&to_ts={START_TS + 119}", [0, 1]),
        (f"/prices/range?ticker=eth_usd&from_ts={START_TS}", []),
        ("/prices/by-date?ticker=btc_usd&date=2024-01-15", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("/prices/by-date?ticker=btc_usd&date=2024-01-16", []),
    ],
)
async def test_lists_return_the_expected_minutes(api: Api, prefix: str, path: str, minutes: list[int]) -> None:
    assert await _minutes(api, f"{prefix}{path}") == minutes


@pytest.mark.usefixtures("ten_prices")
@pytest.mark.parametrize("date", [str(START_TS + 60), str(START_TS + 119), "2024-01-15T11:41:30Z"])
async def test_a_minute_is_found_by_any_time_in_it(api: Api, date: str) -> None:
    status, body, _ = await _get(api, f"/prices/filtered?ticker=btc_usd&date={date}")
    assert (status, body["ts"]) == (200, START_TS + 60)


@pytest.mark.usefixtures("ten_prices")
@pytest.mark.parametrize(
    ("path", "status", "code", "detail"),
    [
        ("/prices", 422, "BAD_USER_INPUT", "ticker: is required"),
        (
            "/export?ticker=btc_usd&period=1h",
            422,
            "BAD_USER_INPUT",
            "period: unknown parameter. Available parameters: ticker, as_of, from, to, format, columns, layout, interval, digest",
        ),
        (
            "/prices?ticker=B%20TC",
            422,
            "BAD_USER_INPUT",
            "ticker: 'b tc' is not an index name; names look like btc_usd or drbfix-btc_usdc",
        ),
        ("/prices?ticker=btc_usd&ticker=eth_usd", 422, "BAD_USER_INPUT", "ticker: sent 2 times. Send it once."),
        ("/prices?ticker=btc_usd&limit=0", 422, "BAD_USER_INPUT", "limit: '0' should be greater than or equal to 1"),
        ("/prices?ticker=btc_usd&limit=10001", 422, "BAD_USER_INPUT", "limit: '10001' should be less than or equal to 10000"),
        (
            "/prices?ticker=btc_usd&limit=many",
            422,
            "BAD_USER_INPUT",
            "limit: 'many' should be a valid integer",
        ),
        ("/prices?ticker=btc_usd&offset=-1", 422, "BAD_USER_INPUT", "offset: '-1' should be greater than or equal to 0"),
        (
            "/prices?ticker=btc_usd&start_date=soon",
            422,
            "BAD_USER_INPUT",
            "start_date: 'soon' is not a valid time. Use UNIX seconds (1705318800) or ISO 8601 (2024-01-15T11:40:00Z)",
        ),
        (
            "/prices?ticker=btc_usd&start_date=1705318800000",
            422,
            "BAD_USER_INPUT",
            "start_date: '1705318800000' appears to be in milliseconds. Divide by 1000; times are UNIX seconds",
        ),
        (
            "/prices/filter?ticker=btc_usd&date_from=120&date_to=60",
            422,
            "BAD_USER_INPUT",
            "date_from (1970-01-01T00:02:00Z) must not be after date_to (1970-01-01T00:01:00Z)",
        ),
        (
            "/prices/range?ticker=btc_usd&from_ts=1969-01-01",
            422,
            "BAD_USER_INPUT",
            "from_ts: '1969-01-01' is outside the years 1970 to 2200",
        ),
        ("/prices/filtered?ticker=btc_usd", 422, "BAD_USER_INPUT", "date: is required"),
        (
            "/prices/by-date?ticker=btc_usd&date=2024-02-30",
            422,
            "BAD_USER_INPUT",
            "date: '2024-02-30' does not exist in the calendar: use an existing day, for example 2024-01-15",
        ),
        (
            "/prices/by-date?ticker=btc_usd&date=1705318800",
            422,
            "BAD_USER_INPUT",
            "date: '1705318800' is not a valid day: use YYYY-MM-DD, for example 2024-01-15",
        ),
        ("/prices/last?ticker=eth_usd", 404, "NOT_FOUND", "eth_usd has no price yet. Retry in a minute."),
        (
            "/prices/filtered?ticker=btc_usd&date=2024-01-15T10:00:00Z",
            404,
            "NOT_FOUND",
            "btc_usd has no price for the minute 2024-01-15T10:00:00Z",
        ),
        (
            "/prices?ticker=eth_uds",
            404,
            "UNKNOWN_TICKER",
            "Unknown ticker: eth_uds. Did you mean eth_usd? Tracked tickers: btc_usd, eth_usd",
        ),
        ("/prices/last?ticker=xrp", 404, "UNKNOWN_TICKER", "Unknown ticker: xrp. Tracked tickers: btc_usd, eth_usd"),
        (
            "/prices/by-date?ticker=xrp&date=2024-01-15",
            404,
            "UNKNOWN_TICKER",
            "Unknown ticker: xrp. Tracked tickers: btc_usd, eth_usd",
        ),
        ("/prices/nothing", 404, "NOT_FOUND", "This path does not exist. See /docs for the available paths."),
    ],
)
async def test_an_invalid_request_gets_a_problem_with_the_remedy(
    api: Api, path: str, status: int, code: str, detail: str
) -> None:
    actual_status, body, headers = await _get(api, path)
    assert (actual_status, body["status"], body["code"], body["detail"]) == (status, status, code, detail)
    assert headers["Content-Type"] == "application/problem+json"


async def test_another_method_is_rejected_with_allow(api: Api) -> None:
    async with api.session.post(f"{api.url}/prices") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
        assert (await response.json(content_type=None))["code"] == "METHOD_NOT_ALLOWED"


async def test_an_unavailable_database_is_503_with_retry_after() -> None:
    async with run_api(Settings(database_url="postgresql://user@127.0.0.1:1/none")) as api:
        status, body, headers = await _get(api, "/prices?ticker=btc_usd")
        assert (status, body["code"], headers["Retry-After"]) == (503, "UNAVAILABLE", "2")


@pytest.mark.usefixtures("ten_prices")
@pytest.mark.parametrize(
    "path",
    [
        "/prices?ticker=btc_usd&limit=3",
        "/prices/filter?ticker=btc_usd&limit=3",
        f"/v1/prices/range?ticker=btc_usd&limit=4&to_ts={START_TS + 540}",
    ],
)
async def test_link_headers_page_through_a_list_while_new_prices_arrive(api: Api, db: Database, path: str) -> None:
    seen: list[int] = []
    next_path: str | None = path
    while next_path:
        assert len(seen) < 30
        _, rows, headers = await _get(api, next_path)
        seen += [r["ts"] for r in rows]
        if path.startswith("/prices?"):
            await store(db, [row("btc_usd", START_TS + 60 * (10 + len(seen)))])
        next_path = headers["Link"].split(">")[0][1:] if "Link" in headers else None
    assert sorted(seen) == [START_TS + 60 * i for i in range(10)]


async def test_without_a_limit_a_window_of_any_length_is_sent(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await db.execute(
        "INSERT INTO price (ticker, ts, price, source) SELECT 'btc_usd', i * 60, 1, 'IMPORT' FROM generate_series(1, 50001) AS i"
    )
    for path in ("/prices/filter?ticker=btc_usd", "/v1/prices/range?ticker=btc_usd&from_ts=1&to_ts=1800000000"):
        status, rows, headers = await _get(api, path)
        assert (status, [r["ts"] for r in rows]) == (200, [60 * i for i in range(1, 50_002)])
        assert CIMultiDict(headers)["X-Coverage"].startswith("50001/"), headers
    status, rows, _ = await _get(api, "/prices/range?ticker=btc_usd&from_ts=120")
    assert (status, len(rows)) == (200, 50_000)


async def test_coverage_counts_every_row_of_the_response(api: Api, db: Database) -> None:
    """The rows include an import before tracking started, and the current minute, which has not ended."""
    now = int(time.time()) // 60 * 60
    await track(db, "btc_usd", since=now - 60)
    await store(db, [row("btc_usd", now - 600), row("btc_usd", now - 60), row("btc_usd", now)])
    _, rows, headers = await _get(api, "/prices/range?ticker=btc_usd")
    stored, expected = map(int, CIMultiDict(headers)["X-Coverage"].split("/"))
    assert stored == len(rows) == 3
    assert expected >= stored


async def test_a_ticker_may_be_written_in_capitals(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])
    assert (await _get(api, "/prices/last?ticker=%20BTC_USD"))[1]["ticker"] == "btc_usd"
    assert await api.data('{ latest(ticker: "BTC_USD ") { ticker } }') == {"latest": {"ticker": "btc_usd"}}


BOUNDS = st.one_of(st.none(), st.integers(START_TS - 120, START_TS + 720))


@pytest.mark.usefixtures("ten_prices")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(low=BOUNDS, high=BOUNDS)
async def test_rest_and_graphql_agree_on_any_window(api: Api, low: int | None, high: int | None) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    path = "/prices/range?ticker=btc_usd" + "".join(
        f"&{n}={v}" for n, v in (("from_ts", low), ("to_ts", high)) if v is not None
    )
    _, rows, _ = await _get(api, path)
    query = """query ($from: UnixTime, $to: UnixTime) { prices(ticker: "btc_usd", from: $from, to: $to, order: OLDEST_FIRST, first: 1000) {
        nodes { id ticker price ts createdAt: time observedAt source } } }"""
    data = await api.data(query, **{"from": low, "to": None if high is None else high + 1})
    expected_rows = [
        {
            "id": int(n["id"]),
            "ticker": n["ticker"],
            "price": n["price"],
            "ts": n["ts"],
            "created_at": n["createdAt"],
            "source": n["source"],
        }
        for n in data["prices"]["nodes"]
    ]
    assert [{k: v for k, v in r.items() if k != "observed_at"} for r in rows] == expected_rows


@pytest.fixture
async def admin_api(dsn: str, redis_url: str) -> AsyncIterator[Api]:
    async with run_api(
        Settings.model_validate({"database_url": dsn, "redis_url": redis_url, "admin_token": "let-me-in"})
    ) as api:
        yield api


async def test_the_admin_token_protects_the_rest_path_and_the_mutation(admin_api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    mutation = "mutation { fetchPrices { queued } }"
    for headers in ({}, {"Authorization": "bearer guess"}, {"Authorization": "Basic let-me-in"}):
        async with admin_api.session.get(f"{admin_api.url}/fetch-prices", headers=headers) as response:
            assert response.status == 403
        async with admin_api.session.post(f"{admin_api.url}/graphql", json={"query": mutation}, headers=headers) as response:
            assert (await response.json())["errors"][0]["extensions"]["code"] == "FORBIDDEN"
    headers = {"Authorization": "bearer let-me-in"}
    async with admin_api.session.get(f"{admin_api.url}/fetch-prices", headers=headers) as response:
        assert (response.status, (await response.json())["queued"]) == (202, True)
    assert (await admin_api.data("{ tickers { name } }"))["tickers"], "reading needs no token"


async def test_a_fetch_is_queued_once_a_minute_for_the_same_tickers(dsn: str, redis_url: str, db: Database) -> None:
    await track(db, "btc_usd", "eth_usd")
    async with run_api(Settings(database_url=dsn, redis_url=redis_url)) as api:
        while time.time() % 60 > 57:  # both requests must be in the same minute
            pass
        status, first, _ = await _get(api, "/v1/fetch-prices?ticker=eth_usd&ticker=btc_usd")
        assert status == 202
        assert first == {"ts": int(time.time()) // 60 * 60, "queued": True, "tickers": ["btc_usd", "eth_usd"]}
        second = await api.data('mutation { fetchPrices(tickers: ["btc_usd", "eth_usd"]) { ts queued tickers } }')
        assert second["fetchPrices"] == first | {"queued": False}
        assert (await _get(api, "/fetch-prices"))[1]["queued"] is True, "a fetch of all tickers is a different request"
        status, body, _ = await _get(api, "/fetch-prices?ticker=xrp_usd")
        assert (status, body["code"]) == (404, "UNKNOWN_TICKER")


async def test_only_get_triggers_a_fetch(api: Api) -> None:
    async with api.session.head(f"{api.url}/fetch-prices") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET")


async def test_without_redis_a_fetch_fails_fast_and_reads_succeed(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    async with run_api(Settings(database_url=dsn, redis_url="redis://127.0.0.1:1")) as api:
        status, body, _ = await _get(api, "/fetch-prices")
        assert (status, body["code"]) == (503, "UNAVAILABLE")
        code, _ = await api.error("mutation { fetchPrices { ts } }")
        assert code == "UNAVAILABLE"
        assert await _minutes(api, "/prices?ticker=btc_usd") == []


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202), (None, 202)]
)
async def test_a_page_of_another_site_cannot_trigger_a_fetch(
    dsn: str, redis_url: str, db: Database, site: str | None, status: int
) -> None:
    await track(db, "btc_usd")
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    async with (
        run_api(Settings(database_url=dsn, redis_url=redis_url)) as api,
        api.session.get(f"{api.url}/fetch-prices", headers=headers) as response,
    ):
        assert response.status == status, await response.text()
