"""The rate limit: how much cost one caller may spend per minute."""

import asyncio
import contextlib
import hashlib
import re
import time
from typing import Any

import pytest
from multidict import CIMultiDictProxy

from db.pool import Database
from graph.engine.rate_limit import CostBudget
from graph.errors import RateLimitedError, TooComplexError
from graph.http.caller import address_of
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import open_socket
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S

WINDOW_QUERY = f'{{ range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 600}) {{ ts price }} }}'
"""A query with a cost of 20: ten rows of two fields."""


async def _post_query(api: Api, query: str = WINDOW_QUERY, **headers: str) -> tuple[int, CIMultiDictProxy[str], Any]:
    async with api.session.post(f"{api.url}/graphql", json={"query": query}, headers=headers) as response:
        return response.status, response.headers, await response.json()


@pytest.fixture
async def btc(db: Database) -> None:
    await track(db, "btc_usd")


@pytest.mark.usefixtures("btc", "no_refill")
async def test_a_caller_over_its_rate_limit_gets_retry_after(dsn: str, work_log: list[str]) -> None:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50)) as api:
        status, headers, _ = await _post_query(api)
        assert status == 200
        assert headers["RateLimit-Policy"] == '"cost";q=50;w=60'
        left = re.fullmatch(r'"cost";r=(\d+);t=(\d+)', headers["RateLimit"])
        assert left is not None, headers["RateLimit"]
        assert (int(left[1]), int(left[2])) == (30, 24)
        assert (await _post_query(api))[0] == 200
        work_log.clear()
        status, headers, result = await _post_query(api)
        (error,) = result["errors"]
        assert (status, error["extensions"]["code"]) == (429, "RATE_LIMITED")
        assert 0 < int(headers["Retry-After"]) == error["extensions"]["retryAfterS"] <= 20
        assert "50 per minute" in error["message"]
        assert [one for one in work_log if one != "validation"] == []


@pytest.mark.usefixtures("btc", "no_refill")
async def test_rest_requests_count_against_the_rate_limit(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=5_000)) as api:
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd&limit=600") as response:
            assert response.status == 200
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd&limit=600") as response:
            assert (response.status, (await response.json())["code"]) == (429, "RATE_LIMITED")
            assert int(response.headers["Retry-After"]) > 0
        async with api.session.get(f"{api.url}/prices/last?ticker=btc_usd") as response:
            assert response.status == 404


@pytest.mark.usefixtures("btc", "no_refill")
async def test_websocket_operations_count_against_the_rate_limit(dsn: str) -> None:
    async with (
        run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50)) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket,
    ):
        assert (await _post_query(api))[0] == 200
        await socket.send_json({"type": "connection_init"})
        assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "connection_ack"
        messages = []
        for name in ("1", "2"):
            await socket.send_json({"type": "subscribe", "id": name, "payload": {"query": WINDOW_QUERY}})
            messages.append(await socket.receive_json(timeout=WAIT_TIMEOUT_S))
            if messages[-1]["type"] == "next":
                await socket.receive_json(timeout=WAIT_TIMEOUT_S)
    assert [one["type"] for one in messages] == ["next", "error"]
    assert messages[1]["payload"][0]["extensions"]["code"] == "RATE_LIMITED"


@pytest.mark.usefixtures("btc", "no_refill")
async def test_each_key_has_its_own_rate_limit(dsn: str) -> None:
    keys = tuple(hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50, api_keys=keys)) as api:
        for key in ("one", "two"):
            assert [(await _post_query(api, **{"X-API-Key": key}))[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.usefixtures("no_refill")
async def test_every_request_costs_at_least_one(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=2)) as api:
        statuses = []
        for _ in range(3):
            async with api.session.get(f"{api.url}/nothing-here") as response:
                statuses.append(response.status)
    assert statuses == [404, 404, 429]


async def test_a_cost_over_the_whole_limit_is_query_too_complex(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=10)) as api:
        _, _, result = await _post_query(api)
    assert result["errors"][0]["extensions"] == {"code": "QUERY_TOO_COMPLEX", "cost": 20, "most": 10}


async def test_a_cost_equal_to_the_whole_limit_is_allowed(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=20)) as api:
        assert (await _post_query(api))[0] == 200


@pytest.mark.usefixtures("no_refill")
async def test_rejected_websocket_operations_are_charged(dsn: str) -> None:
    async with (
        run_api(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=5)) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket,
    ):
        await socket.send_json({"type": "connection_init"})
        await socket.receive_json(timeout=WAIT_TIMEOUT_S)
        codes = []
        for number in range(7):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": {"query": "{ nothing }"}})
            codes.append((await socket.receive_json(timeout=WAIT_TIMEOUT_S))["payload"][0]["extensions"]["code"])
    assert codes == ["GRAPHQL_VALIDATION_FAILED"] * 5 + ["RATE_LIMITED"] * 2


async def test_without_the_setting_there_is_no_rate_limit(api: Api) -> None:
    _, headers, _ = await _post_query(api, "{ __typename }")
    assert "RateLimit" not in headers


def test_processes_share_the_rate_limit() -> None:
    assert (
        Settings(database_url="postgresql://a/b", answer_cache_mb=0, rate_limit=100, web_concurrency=4).rate_limit_per_process
        == 25
    )
    assert (
        Settings(database_url="postgresql://a/b", answer_cache_mb=0, rate_limit=1, web_concurrency=4).rate_limit_per_process
        == 1
    )
    assert Settings(database_url="postgresql://a/b").rate_limit_per_process is None


def test_the_budget_refills_steadily() -> None:
    cost_budget = CostBudget(6_000_000)  # 100,000 a second
    cost_budget.charge("a", 6_000_000)
    assert cost_budget.remaining("b") == 6_000_000
    with pytest.raises(RateLimitedError) as error_info:
        cost_budget.charge("a", 3_000_000)
    assert 28 <= error_info.value.extensions["retryAfterS"] <= 30
    with pytest.raises(TooComplexError):
        cost_budget.charge("b", 6_000_001)
    while not cost_budget.remaining("a"):
        pass
    cost_budget.charge("a", 1)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(address: str, key: str) -> None:
    assert address_of({"client": (address, 1)}) == key


def test_clients_without_an_address_share_one_key() -> None:
    assert address_of({"client": None}) == ""


async def test_missed_events_are_charged_as_rows_for_every_subscription(dsn: str, db: Database) -> None:
    """A hundred subscriptions resume from the first event. The server delivers what the budget allows, and then waits."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * number) for number in range(200)])
    async with run_api(Settings(database_url=dsn, rate_limit=600)) as api, open_socket(api) as socket:
        started_at = time.monotonic()
        query = 'subscription { priceAdded(after: "0") { ts } }'
        for number in range(100):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": {"query": query}})
        delivered = 0
        while delivered <= 300:
            delivered += (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "next"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    delivered += (await socket.receive_json())["type"] == "next"
        budget = 600 + (time.monotonic() - started_at) * 10
        assert delivered <= budget, "more of the 20,000 events than the budget allows"


async def test_a_streamed_window_is_charged_while_it_is_sent(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", since=0)
    insert = (
        "INSERT INTO price (ticker, ts, price, source) SELECT 'btc_usd', i * 60, 1, 'IMPORT' FROM generate_series(1, 60000) i"
    )
    await db.execute(insert)
    limit = 415_000  # more than the first 50,000 rows of seven fields cost, less than all of them
    async with run_api(Settings(database_url=dsn, rate_limit=limit)) as api:
        started_at = time.monotonic()
        async with api.session.get(f"{api.url}/prices/range?ticker=btc_usd") as response:
            assert len(await response.json()) == 60_000
        status, headers, _ = await _post_query(api)
        refilled = limit / 60 * (time.monotonic() - started_at)
        assert int(headers["RateLimit"].partition("r=")[2].partition(";")[0]) <= refilled
        assert status in (200, 429)
