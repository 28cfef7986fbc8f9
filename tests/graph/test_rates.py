"""How much one caller may ask a minute, by what its questions cost."""

import asyncio
import contextlib
import hashlib
import time
from typing import Any

import pytest
from multidict import CIMultiDictProxy

from db.pool import Database
from graph.engine.rate_limit import CostBudget
from graph.errors import RateLimitedError, TooComplexError
from graph.http.caller import address_of
from graph.settings import Settings
from tests.graph.conftest import Api, serving
from tests.graph.test_socket import connected
from tests.stored import MINUTE, row, store, track
from tests.waiting import PATIENCE_S

WINDOW = f'{{ range(ticker: "btc_usd", from: {MINUTE}, to: {MINUTE + 600}) {{ ts price }} }}'
"""Costs 20."""


async def _ask(api: Api, query: str = WINDOW, **headers: str) -> tuple[int, CIMultiDictProxy[str], Any]:
    async with api.session.post(f"{api.url}/graphql", json={"query": query}, headers=headers) as response:
        return response.status, response.headers, await response.json()


@pytest.fixture
async def btc(db: Database) -> None:
    await track(db, "btc_usd")


@pytest.mark.usefixtures("btc")
async def test_a_caller_that_has_spent_its_share_is_told_when_to_come_back(dsn: str, ran: list[str]) -> None:
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50)) as api:
        status, headers, _ = await _ask(api)
        assert status == 200
        assert headers["RateLimit-Policy"] == '"cost";q=50;w=60'
        assert headers["RateLimit"] == '"cost";r=30;t=24'
        assert (await _ask(api))[0] == 200
        ran.clear()
        status, headers, answer = await _ask(api)
        (error,) = answer["errors"]
        assert (status, error["extensions"]["code"]) == (429, "RATE_LIMITED")
        assert 0 < int(headers["Retry-After"]) == error["extensions"]["retryAfterS"] <= 20
        assert "50 per minute" in error["message"]
        assert [one for one in ran if one != "validation"] == []


@pytest.mark.usefixtures("btc")
async def test_rest_is_counted_as_well(dsn: str) -> None:
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=5_000)) as api:
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd&limit=600") as response:
            assert response.status == 200
        async with api.session.get(f"{api.url}/prices?ticker=btc_usd&limit=600") as response:
            assert (response.status, (await response.json())["code"]) == (429, "RATE_LIMITED")
            assert int(response.headers["Retry-After"]) > 0
        async with api.session.get(f"{api.url}/prices/last?ticker=btc_usd") as response:
            assert response.status == 404


@pytest.mark.usefixtures("btc")
async def test_a_websocket_spends_the_same_share(dsn: str) -> None:
    async with (
        serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50)) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket,
    ):
        assert (await _ask(api))[0] == 200
        await socket.send_json({"type": "connection_init"})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "connection_ack"
        found = []
        for name in ("1", "2"):
            await socket.send_json({"type": "subscribe", "id": name, "payload": {"query": WINDOW}})
            found.append(await socket.receive_json(timeout=PATIENCE_S))
            if found[-1]["type"] == "next":
                await socket.receive_json(timeout=PATIENCE_S)
    assert [one["type"] for one in found] == ["next", "error"]
    assert found[1]["payload"][0]["extensions"]["code"] == "RATE_LIMITED"


@pytest.mark.usefixtures("btc")
async def test_each_key_has_a_share_of_its_own(dsn: str) -> None:
    keys = tuple(hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=50, api_keys=keys)) as api:
        for key in ("one", "two"):
            assert [(await _ask(api, **{"X-API-Key": key}))[0] for _ in range(3)] == [200, 200, 429]


async def test_every_request_costs_one_whatever_becomes_of_it(dsn: str) -> None:
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=2)) as api:
        statuses = []
        for _ in range(3):
            async with api.session.get(f"{api.url}/nothing-here") as response:
                statuses.append(response.status)
    assert statuses == [404, 404, 429]


async def test_what_costs_more_than_a_whole_minutes_share_is_told_so(dsn: str) -> None:
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=10)) as api:
        _, _, answer = await _ask(api)
    assert answer["errors"][0]["extensions"] == {"code": "QUERY_TOO_COMPLEX", "cost": 20, "most": 10}


async def test_what_costs_exactly_a_minutes_share_can_be_asked(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    async with serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=20)) as api:
        assert (await _ask(api))[0] == 200


async def test_refused_operations_of_a_websocket_are_spent_too(dsn: str) -> None:
    async with (
        serving(Settings(database_url=dsn, answer_cache_mb=0, rate_limit=5)) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket,
    ):
        await socket.send_json({"type": "connection_init"})
        await socket.receive_json(timeout=PATIENCE_S)
        codes = []
        for number in range(7):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": {"query": "{ nothing }"}})
            codes.append((await socket.receive_json(timeout=PATIENCE_S))["payload"][0]["extensions"]["code"])
    assert codes == ["GRAPHQL_VALIDATION_FAILED"] * 5 + ["RATE_LIMITED"] * 2


async def test_without_the_setting_there_is_no_bound(api: Api) -> None:
    _, headers, _ = await _ask(api, "{ __typename }")
    assert "RateLimit" not in headers


def test_processes_share_it() -> None:
    assert (
        Settings(database_url="postgresql://a/b", answer_cache_mb=0, rate_limit=100, web_concurrency=4).rate_limit_per_process
        == 25
    )
    assert (
        Settings(database_url="postgresql://a/b", answer_cache_mb=0, rate_limit=1, web_concurrency=4).rate_limit_per_process
        == 1
    )
    assert Settings(database_url="postgresql://a/b").rate_limit_per_process is None


def test_what_was_spent_comes_back_steadily() -> None:
    cost_budget = CostBudget(6_000_000)  # 100,000 a second
    cost_budget.charge("a", 6_000_000)
    assert cost_budget.remaining("b") == 6_000_000
    with pytest.raises(RateLimitedError) as refused:
        cost_budget.charge("a", 3_000_000)
    assert 28 <= refused.value.extensions["retryAfterS"] <= 30
    with pytest.raises(TooComplexError):
        cost_budget.charge("b", 6_000_001)
    while not cost_budget.remaining("a"):
        pass
    cost_budget.charge("a", 1)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("nonsense", "nonsense"),
    ],
)
def test_one_client_is_one_address_or_one_network_of_ipv6(address: str, counted: str) -> None:
    assert address_of({"client": (address, 1)}) == counted


def test_without_an_address_all_are_one() -> None:
    assert address_of({"client": None}) == ""


async def test_events_of_the_past_are_charged_as_rows_however_many_subscriptions_ask(dsn: str, db: Database) -> None:
    """A hundred times everything since the beginning: what is given is what may be spent, and then it waits."""
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * number) for number in range(200)])
    async with serving(Settings(database_url=dsn, rate_limit=600)) as api, connected(api) as socket:
        began = time.monotonic()
        query = 'subscription { priceAdded(after: "0") { ts } }'
        for number in range(100):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": {"query": query}})
        given = 0
        while given <= 300:
            given += (await socket.receive_json(timeout=PATIENCE_S))["type"] == "next"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    given += (await socket.receive_json())["type"] == "next"
        may = 600 + (time.monotonic() - began) * 10
        assert given <= may, "of 20,000"


async def test_a_window_that_is_sent_as_it_is_read_is_paid_for_as_it_goes_on(dsn: str, db: Database) -> None:
    await track(db, "btc_usd", since=0)
    made = (
        "INSERT INTO price (ticker, ts, price, source) SELECT 'btc_usd', i * 60, 1, 'IMPORT' FROM generate_series(1, 60000) i"
    )
    await db.execute(made)
    limit = 415_000  # more than the first 50,000 rows of seven fields cost, less than all of them
    async with serving(Settings(database_url=dsn, rate_limit=limit)) as api:
        async with api.session.get(f"{api.url}/prices/range?ticker=btc_usd") as response:
            assert len(await response.json()) == 60_000
        status, headers, _ = await _ask(api)
        assert int(headers["RateLimit"].partition("r=")[2].partition(";")[0]) < 10_000
        assert status in (200, 429)
