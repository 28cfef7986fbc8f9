"""Limits on concurrent requests and on the duration of a request."""

import asyncio
import itertools
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.types import Message, Receive, Scope, Send

from db.pool import Database
from graph.http.admission import AdmissionMiddleware, ConcurrencyLimiter
from graph.http.caller import Authenticator
from graph.http.request_state import create_state
from graph.schema.executable import LARGE_RESPONSE_COST, MAX_CONCURRENT_LARGE_RESPONSES
from graph.settings import Settings
from tests.graph.conftest import LONG_TIMEOUT_S, Api, run_api
from tests.sample_data import START_TS, lock_price_table, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

NUMBERS = itertools.count()
"""Numbers the requests, because identical ones would share a statement."""
ACTIVE_STATEMENTS = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = 'tickgraph api' AND state = 'active' AND datname = current_database()
"""
# HistoryWatch also polls and may wait for the lock. Its statement belongs to no request.
ACTIVE_REQUEST_STATEMENTS = f"{ACTIVE_STATEMENTS} AND query NOT LIKE '%database_identity()%'"


def long_timeout_settings(dsn: str, **settings: Any) -> Settings:
    """Returns settings with a request timeout that is longer than any test holds a lock."""
    return Settings(database_url=dsn, request_timeout_s=LONG_TIMEOUT_S, **settings)


@pytest.fixture
async def prices(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])


async def _request(api: Api, path: str = "/graphql", **headers: str) -> tuple[int, str, str]:
    if path == "/graphql":
        query = f'{{ latest(ticker: "btc_usd") {{ price{next(NUMBERS)}: price }} }}'
        request = api.session.post(api.url + path, json={"query": query}, headers=headers)
    else:
        request = api.session.get(api.url + path, headers=headers)
    async with request as response:
        return response.status, response.headers.get("Retry-After", ""), await response.text()


async def _count_running(db: Database) -> int:
    """Returns how many statements of requests PostgreSQL executes."""
    count: int = await db.fetchval(ACTIVE_REQUEST_STATEMENTS)
    return count


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/graphql", {}),
        ("/prices/last?ticker=btc_usd", {}),
        ("/prices/last?ticker=btc_usd", {"Content-Length": "0"}),
    ],
)
async def test_a_statement_ends_when_its_client_disconnects(
    dsn: str, db: Database, path: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with run_api(long_timeout_settings(dsn)) as api, lock_price_table(dsn):
        pending = asyncio.create_task(_request(api, path, **headers))

        async def is_running() -> bool:
            return await _count_running(db) == 1

        async def has_ended() -> bool:
            return await _count_running(db) == 0

        await wait_until(is_running)
        pending.cancel()
        await wait_until(has_ended)
        await wait_until(lambda: bool(caplog.records))
    assert [getattr(record, "status", None) for record in caplog.records] == [0], (
        "status 0: the client disconnected before the response"
    )


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("path", ["/graphql", "/prices/last?ticker=btc_usd"])
async def test_a_request_ends_with_504_after_its_timeout(dsn: str, path: str) -> None:
    async with run_api(Settings(database_url=dsn, request_timeout_s=0.5)) as api, lock_price_table(dsn):
        status, _, body = await _request(api, path)
    assert status == 504
    assert "exceeded the timeout of 0.5 s" in body
    assert "TIMEOUT" in body


async def test_a_disconnect_after_the_timeout_does_not_interrupt_the_cleanup_of_the_request() -> None:
    cleaned_up = asyncio.Event()
    disconnected = asyncio.Event()

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            disconnected.set()
            for _ in range(10):
                await asyncio.sleep(0)
            cleaned_up.set()

    async def receive() -> Message:
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        return None

    slots = ConcurrencyLimiter("requests", "concurrent requests", 1, 1)
    middleware = AdmissionMiddleware(application, Authenticator((), None), (), slots, None, 0.1)
    scope: Scope = {"type": "http", "method": "GET", "path": "/prices", "headers": [], "client": ("192.0.2.1", 1)}
    create_state(scope, "test")
    await middleware(scope, receive, send)
    assert cleaned_up.is_set()
    slots.acquire("192.0.2.1").release()


@pytest.mark.usefixtures("prices")
async def test_requests_over_the_concurrency_limit_are_rejected_immediately(dsn: str, db: Database) -> None:
    async with run_api(long_timeout_settings(dsn, answer_cache_mb=0, max_in_flight=3)) as api:
        async with lock_price_table(dsn):
            pending = [asyncio.create_task(_request(api)) for _ in range(3)]

            async def all_are_running() -> bool:
                return await _count_running(db) == 3

            await wait_until(all_are_running)
            for path in ("/graphql", "/prices/last?ticker=btc_usd", "/health"):
                status, retry_after, body = await _request(api, path)
                assert (status, retry_after) == (503, "2"), body
                assert "3 concurrent requests" in body
        assert [status for status, _, _ in await asyncio.gather(*pending)] == [200] * 3
        assert (await _request(api))[0] == 200, "requests succeed after the lock is released"


@pytest.mark.usefixtures("prices")
async def test_one_address_cannot_use_all_slots_and_only_trusted_proxies_may_forward_addresses(dsn: str, db: Database) -> None:
    for trusted, expected_status in (((), 429), (("127.0.0.1",), 200)):
        settings = long_timeout_settings(dsn, answer_cache_mb=0, max_in_flight_per_client=2, trusted_proxies=trusted)
        async with run_api(settings) as api:
            async with lock_price_table(dsn):
                pending = [asyncio.create_task(_request(api, **{"X-Forwarded-For": "192.0.2.1"})) for _ in range(2)]

                async def both_are_running() -> bool:
                    return await _count_running(db) == 2

                await wait_until(both_are_running)
                assert (await _request(api, **{"X-Forwarded-For": "192.0.2.1"}))[0] == 429
                other_request = asyncio.create_task(_request(api, **{"X-Forwarded-For": "192.0.2.2"}))
                if expected_status == 429:
                    assert (await other_request)[0] == 429
            assert (await other_request)[0] == expected_status
            await asyncio.gather(*pending)


async def test_a_request_whose_body_arrives_slowly_times_out(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, request_timeout_s=0.5)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head.encode())
        assert b" 504 " in await asyncio.wait_for(reader.readline(), WAIT_TIMEOUT_S)
        writer.close()


async def test_large_responses_wait_for_each_other_and_small_ones_do_not(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")

    async def request_large(api: Api, number: int) -> str:
        query = f'{{ range(ticker: "btc_usd", from: {60 * number}, to: {60 * (LARGE_RESPONSE_COST + number)}) {{ ts }} }}'
        async with api.session.post(f"{api.url}/graphql", json={"query": query}) as response:
            return await response.text()

    async with run_api(long_timeout_settings(dsn, answer_cache_mb=0)) as api:
        async with lock_price_table(dsn):
            pending = [asyncio.create_task(request_large(api, number)) for number in range(6)]

            async def allowed_large_ones_are_running() -> bool:
                return await _count_running(db) == MAX_CONCURRENT_LARGE_RESPONSES

            await wait_until(allowed_large_ones_are_running)
            small = [asyncio.create_task(_request(api)) for _ in range(3)]

            async def small_ones_are_running() -> bool:
                return await _count_running(db) == MAX_CONCURRENT_LARGE_RESPONSES + 3

            await wait_until(small_ones_are_running)
        assert await asyncio.gather(*pending) == ['{"data":{"range":[]}}'] * 6
        await asyncio.gather(*small)


def _saturated(limit: str) -> float:
    return REGISTRY.get_sample_value("tickgraph_saturated_total", {"limit": limit}) or 0.0


@pytest.mark.usefixtures("prices")
async def test_an_exhausted_connection_pool_is_reported_as_busy_and_counted(dsn: str, db: Database) -> None:
    previous = _saturated("database_connections")
    async with run_api(long_timeout_settings(dsn, answer_cache_mb=0)) as api:
        async with lock_price_table(dsn):
            pending = [asyncio.create_task(_request(api, f"/prices?ticker=btc_usd&offset={n}")) for n in range(30)]

            async def all_connections_are_busy() -> bool:
                return bool(await db.fetchval(ACTIVE_STATEMENTS) == 10)

            await wait_until(all_connections_are_busy)
            responses = [await one for one in itertools.islice(asyncio.as_completed(pending), 20)]
        busy = [body for status, _, body in responses if status == 503]
        await asyncio.gather(*pending)
    assert len(busy) == 20
    assert all("all its connections to the database are in use" in body for body in busy)
    assert _saturated("database_connections") >= previous + len(busy)


@pytest.mark.usefixtures("prices")
async def test_per_client_saturation_is_counted_apart_from_server_saturation(dsn: str, db: Database) -> None:
    previous = _saturated("requests_per_client"), _saturated("requests")
    async with run_api(long_timeout_settings(dsn, answer_cache_mb=0, max_in_flight_per_client=1)) as api:
        async with lock_price_table(dsn):
            pending = asyncio.create_task(_request(api))

            async def is_running() -> bool:
                return await _count_running(db) == 1

            await wait_until(is_running)
            status, retry_after, body = await _request(api)
            assert (status, int(retry_after) > 0, "RATE_LIMITED" in body) == (429, True, True)
        await pending
    assert (_saturated("requests_per_client"), _saturated("requests")) == (previous[0] + 1, previous[1])
