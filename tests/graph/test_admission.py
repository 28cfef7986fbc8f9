"""How many requests are answered at once, and for how long."""

import asyncio
import itertools
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from db.pool import Database
from graph.schema.executable import LARGE_RESPONSE_COST, MAX_CONCURRENT_LARGE_RESPONSES
from graph.settings import Settings
from tests.graph.conftest import STATEMENT_TIMEOUT_S, Api, serving
from tests.stored import MINUTE, prices_locked, row, store, track
from tests.waiting import PATIENCE_S, until

LATEST = {"query": '{ latest(ticker: "btc_usd") { price } }'}
ACTIVE = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = 'tickgraph api' AND state = 'active' AND datname = current_database()
"""
REQUESTED = f"{ACTIVE} AND query NOT LIKE '%database_identity()%'"  # HistoryWatch reads on its own, and waits for the lock, too


def patient(dsn: str, **settings: Any) -> Settings:
    """Settings under which a request waits for a lock as long as a test holds it."""
    return Settings(database_url=dsn, request_timeout_s=STATEMENT_TIMEOUT_S, **settings)


@pytest.fixture
async def prices(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])


async def _ask(api: Api, path: str = "/graphql", **headers: str) -> tuple[int, str, str]:
    if path == "/graphql":
        request = api.session.post(api.url + path, json=LATEST, headers=headers)
    else:
        request = api.session.get(api.url + path, headers=headers)
    async with request as response:
        return response.status, response.headers.get("Retry-After", ""), await response.text()


async def _running(db: Database) -> int:
    """Returns how many statements of requests PostgreSQL executes."""
    found: int = await db.fetchval(REQUESTED)
    return found


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("path", ["/graphql", "/prices/last?ticker=btc_usd"])
async def test_when_the_client_goes_its_statement_ends(
    dsn: str, db: Database, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "graph.access")
    async with serving(patient(dsn)) as api, prices_locked(dsn):
        asking = asyncio.create_task(_ask(api, path))

        async def runs() -> bool:
            return await _running(db) == 1

        async def ended() -> bool:
            return await _running(db) == 0

        await until(runs)
        asking.cancel()
        await until(ended)
        await until(lambda: bool(caplog.records))
    assert [getattr(record, "status", None) for record in caplog.records] == [0], "nobody was there for an answer"


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("path", ["/graphql", "/prices/last?ticker=btc_usd"])
async def test_a_request_ends_when_its_time_is_up(dsn: str, path: str) -> None:
    async with serving(Settings(database_url=dsn, request_timeout_s=0.5)) as api, prices_locked(dsn):
        status, _, body = await _ask(api, path)
    assert status == 504
    assert "exceeded the timeout of 0.5 s" in body
    assert "TIMEOUT" in body


@pytest.mark.usefixtures("prices")
async def test_more_than_may_be_answered_at_once_are_refused_at_once(dsn: str, db: Database) -> None:
    async with serving(patient(dsn, answer_cache_mb=0, max_in_flight=3)) as api:
        async with prices_locked(dsn):
            asking = [asyncio.create_task(_ask(api)) for _ in range(3)]

            async def all_run() -> bool:
                return await _running(db) == 3

            await until(all_run)
            for path in ("/graphql", "/prices/last?ticker=btc_usd", "/health"):
                status, retry_after, body = await _ask(api, path)
                assert (status, retry_after) == (503, "2"), body
                assert "3 concurrent requests" in body
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 3
        assert (await _ask(api))[0] == 200, "and then they are answered again"


@pytest.mark.usefixtures("prices")
async def test_one_address_cannot_take_all_and_only_trusted_proxies_name_another(dsn: str, db: Database) -> None:
    for trusted, second in (((), 429), (("127.0.0.1",), 200)):
        settings = patient(dsn, answer_cache_mb=0, max_in_flight_per_client=2, trusted_proxies=trusted)
        async with serving(settings) as api:
            async with prices_locked(dsn):
                asking = [asyncio.create_task(_ask(api, **{"X-Forwarded-For": "192.0.2.1"})) for _ in range(2)]

                async def both_run() -> bool:
                    return await _running(db) == 2

                await until(both_run)
                assert (await _ask(api, **{"X-Forwarded-For": "192.0.2.1"}))[0] == 429
                other = asyncio.create_task(_ask(api, **{"X-Forwarded-For": "192.0.2.2"}))
                if second == 429:
                    assert (await other)[0] == 429
            assert (await other)[0] == second
            await asyncio.gather(*asking)


async def test_a_client_that_sends_its_body_slowly_is_not_waited_for(dsn: str) -> None:
    async with serving(Settings(database_url=dsn, request_timeout_s=0.5)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head.encode())
        assert b" 504 " in await asyncio.wait_for(reader.readline(), PATIENCE_S)
        writer.close()


async def test_big_answers_wait_for_one_another_and_small_ones_do_not(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")

    async def big(api: Api, number: int) -> str:
        query = f'{{ range(ticker: "btc_usd", from: {60 * number}, to: {60 * (LARGE_RESPONSE_COST + number)}) {{ ts }} }}'
        async with api.session.post(f"{api.url}/graphql", json={"query": query}) as response:
            return await response.text()

    async with serving(patient(dsn, answer_cache_mb=0)) as api:
        async with prices_locked(dsn):
            asking = [asyncio.create_task(big(api, number)) for number in range(6)]

            async def all_that_may_are_running() -> bool:
                return await _running(db) == MAX_CONCURRENT_LARGE_RESPONSES

            await until(all_that_may_are_running)
            small = [asyncio.create_task(_ask(api)) for _ in range(3)]

            async def the_small_ones_too() -> bool:
                return await _running(db) == MAX_CONCURRENT_LARGE_RESPONSES + 3

            await until(the_small_ones_too)
        assert await asyncio.gather(*asking) == ['{"data":{"range":[]}}'] * 6
        await asyncio.gather(*small)


def _saturated(limit: str) -> float:
    return REGISTRY.get_sample_value("tickgraph_saturated_total", {"limit": limit}) or 0.0


@pytest.mark.usefixtures("prices")
async def test_a_pool_in_which_all_is_in_use_is_told_as_busy_and_counted(dsn: str, db: Database) -> None:
    before = _saturated("database_connections")
    async with serving(patient(dsn, answer_cache_mb=0)) as api:
        async with prices_locked(dsn):
            asking = [asyncio.create_task(_ask(api, "/prices/last?ticker=btc_usd")) for _ in range(30)]

            async def all_connections_run() -> bool:
                return bool(await db.fetchval(ACTIVE) == 10)

            await until(all_connections_run)
            answers = [await one for one in itertools.islice(asyncio.as_completed(asking), 20)]
        busy = [body for status, _, body in answers if status == 503]
        await asyncio.gather(*asking)
    assert len(busy) == 20
    assert all("all its connections to the database are in use" in body for body in busy)
    assert _saturated("database_connections") >= before + len(busy)


@pytest.mark.usefixtures("prices")
async def test_a_client_that_has_its_share_is_counted_apart_from_a_server_that_is_full(dsn: str, db: Database) -> None:
    before = _saturated("requests_per_client"), _saturated("requests")
    async with serving(patient(dsn, answer_cache_mb=0, max_in_flight_per_client=1)) as api:
        async with prices_locked(dsn):
            asking = asyncio.create_task(_ask(api))

            async def runs() -> bool:
                return await _running(db) == 1

            await until(runs)
            status, retry_after, body = await _ask(api)
            assert (status, int(retry_after) > 0, "RATE_LIMITED" in body) == (429, True, True)
        await asking
    assert (_saturated("requests_per_client"), _saturated("requests")) == (before[0] + 1, before[1])
