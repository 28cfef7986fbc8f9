"""The response cache: responses are shared until the next commit, and never stale after it."""

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from db.pool import Database
from graph.engine.commit_listener import CommitListener
from graph.schema.executable import MAX_CONCURRENT_LARGE_RESPONSES
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, lock_price_table, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

LATEST = '{ latest(ticker: "btc_usd") { ts price } }'


async def _post_query(api: Api, query: str = LATEST, **headers: str) -> Any:
    async with api.session.post(f"{api.url}/graphql", json={"query": query}, headers=headers) as response:
        return json.loads(await response.text())


async def _is_cached(api: Api, work_log: list[str], query: str = LATEST) -> bool:
    """Returns whether the second of two equal queries runs no SQL."""
    await _post_query(api, query)
    work_log.clear()
    await _post_query(api, query)
    return work_log == []


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Api]:
    async with run_api(Settings(database_url=dsn, answer_cache_mb=64)) as running:
        yield running


@pytest.fixture
async def one_price(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS)])


@pytest.fixture
async def caching_api(api: Api, one_price: None, work_log: list[str]) -> Api:
    """The API, once its commit listener is connected and it caches responses."""
    await wait_until(lambda: _is_cached(api, work_log))
    return api


@pytest.mark.parametrize(
    ("query", "cached"),
    [
        (LATEST, True),
        ('{ prices(ticker: "btc_usd") { nodes { price } pageInfo { endCursor } } }', True),
        ("{ __schema { queryType { name } } }", True),
        ("{ tickers { name latest { ts } } }", True),
        ("{ tickers { ageS } }", False),
        (f'{{ coverage(ticker: "btc_usd", from: {START_TS}) {{ expected }} }}', False),
        ('{ latest(ticker: "unknown_usd") { ts } }', False),
        ("{ nothing }", False),
    ],
)
async def test_only_responses_that_depend_on_stored_data_alone_are_cached(
    caching_api: Api, work_log: list[str], query: str, cached: bool
) -> None:
    assert await _is_cached(caching_api, work_log, query) is cached


@pytest.mark.parametrize(
    ("path", "cached"),
    [
        ("/prices/last?ticker=btc_usd", True),
        (f"/v1/prices/range?ticker=btc_usd&from_ts={START_TS}&to_ts={START_TS + 60}", True),
        ("/prices?ticker=btc_usd", False),
        ("/health", False),
    ],
)
async def test_rest_responses_are_cached_where_their_coverage_cannot_change(
    caching_api: Api, work_log: list[str], path: str, cached: bool
) -> None:
    for _ in range(2):
        work_log.clear()
        async with caching_api.session.get(caching_api.url + path) as response:
            assert response.status == 200
            assert response.headers["X-Request-ID"]
    assert (work_log == []) is cached


async def test_a_commit_invalidates_cached_responses(caching_api: Api, db: Database) -> None:
    for number in range(1, 30):
        await store(db, [row("btc_usd", START_TS + 60 * number)])
        await wait_until(functools.partial(_is_newest, caching_api, START_TS + 60 * number))


async def _is_newest(api: Api, minute: int) -> bool:
    newest: int = (await _post_query(api))["data"]["latest"]["ts"]
    return newest == minute


async def test_requests_that_differ_in_headers_or_query_share_no_response(caching_api: Api, work_log: list[str]) -> None:
    await _post_query(caching_api)
    for headers in ({"Accept": "application/graphql-response+json"}, {"Accept-Encoding": "identity"}):
        work_log.clear()
        await _post_query(caching_api, LATEST, **headers)
        assert work_log != []
    work_log.clear()
    await _post_query(caching_api, LATEST.replace("price", "source"))
    assert work_log != []


async def test_concurrent_equal_queries_run_one_statement(caching_api: Api, dsn: str, work_log: list[str]) -> None:
    query = LATEST.replace("price", "price source")
    async with lock_price_table(dsn):
        work_log.clear()
        pending = [asyncio.create_task(_post_query(caching_api, query)) for _ in range(20)]
        await wait_until(lambda: any("FROM" in statement for statement in work_log))
    results = await asyncio.gather(*pending)
    assert all(result == results[0] and "data" in result for result in results)
    assert len([statement for statement in work_log if "FROM" in statement]) == 1


async def test_a_joined_request_gets_its_response_although_the_first_client_disconnects(
    caching_api: Api, dsn: str, work_log: list[str]
) -> None:
    query = LATEST.replace("price", "price id")
    async with lock_price_table(dsn):
        work_log.clear()
        first = asyncio.create_task(_post_query(caching_api, query))
        await wait_until(lambda: any("FROM" in statement for statement in work_log))
        second = asyncio.create_task(_post_query(caching_api, query))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.wait([first])
    assert (await second)["data"]["latest"]["ts"] == START_TS


@pytest.mark.usefixtures("one_price")
async def test_nothing_is_cached_while_the_commit_listener_is_disconnected(
    caching_api: Api, db: Database, work_log: list[str]
) -> None:
    await db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_notify($1%'"
    )
    assert (await _post_query(caching_api))["data"]["latest"]["ts"] == START_TS
    await store(db, [row("btc_usd", START_TS + 60)])
    await wait_until(lambda: _is_newest(caching_api, START_TS + 60))
    await wait_until(lambda: _is_cached(caching_api, work_log))


@pytest.mark.usefixtures("one_price")
async def test_readers_never_see_older_data_while_a_writer_commits(dsn: str, db: Database) -> None:
    """No reader receives an older price than before, and after the last commit all receive the newest."""
    last_written = START_TS
    async with run_api(Settings(database_url=dsn, answer_cache_mb=64)) as api:

        async def write() -> None:
            nonlocal last_written
            for number in range(1, 150):
                await store(db, [row("btc_usd", START_TS + 60 * number)])
                last_written = START_TS + 60 * number

        async def read() -> None:
            newest = 0
            while not write_task.done():
                ts = (await _post_query(api))["data"]["latest"]["ts"]
                assert ts >= newest, "the response is older than the previous one"
                newest = ts

        write_task = asyncio.create_task(write())
        await asyncio.gather(write_task, *(read() for _ in range(4)))
        await wait_until(lambda: _is_newest(api, last_written))


async def test_without_a_cache_every_query_reads_the_database(dsn: str, db: Database, work_log: list[str]) -> None:
    await track(db, "btc_usd")
    async with run_api(Settings(database_url=dsn, answer_cache_mb=0)) as api:
        assert not await _is_cached(api, work_log)


def test_a_commit_listener_without_notifications_has_no_version() -> None:
    assert CommitListener().version() is None


CANCEL_WAITING = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def test_errors_are_not_cached(caching_api: Api, dsn: str) -> None:
    path = f"/prices/range?ticker=btc_usd&from_ts={START_TS}&to_ts={START_TS}"
    async with run_api(Settings(database_url=dsn, answer_cache_mb=64)) as api:
        await wait_until(lambda: _rest_is_newest(api, START_TS))
        connection = await asyncpg.connect(dsn)
        async with connection.transaction():
            await connection.execute("LOCK TABLE tracking")
            request = asyncio.create_task(api.session.get(api.url + path))
            await wait_until(lambda: connection.fetchval(CANCEL_WAITING))
            assert (await request).status == 504
        await connection.close()
        async with api.session.get(api.url + path) as response:
            assert response.status == 200


async def _rest_is_newest(api: Api, minute: int) -> bool:
    async with api.session.get(f"{api.url}/prices/last?ticker=btc_usd") as response:
        return bool((await response.json())["ts"] == minute)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([("Accept-Encoding", "gzip"), ("Accept-Encoding", "")], []),
        ([("Accept", "application/graphql-response+json"), ("Accept", "application/json")], [("Accept", "application/json")]),
        ([("Content-Type", "application/json")], [("Content-Type", "application/json; charset=utf-8")]),
    ],
)
async def test_repeated_headers_do_not_poison_the_cache(
    caching_api: Api, work_log: list[str], first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    content_type = [] if "Content-Type" in dict(first) else [("Content-Type", "application/json")]
    body = json.dumps({"query": f"{LATEST} #{'x' * 2_000}"})
    for headers in (first, second):
        work_log.clear()
        async with caching_api.session.post(
            f"{caching_api.url}/graphql",
            data=body,
            headers=[*content_type, *headers],
            skip_auto_headers=["Accept", "Accept-Encoding"],
        ) as response:
            assert (await response.json(content_type=None))["data"]["latest"]["ts"] == START_TS
    assert work_log != [], "the second request received the response of the first"


async def test_a_request_without_a_content_type_is_rejected_although_its_response_is_cached(caching_api: Api) -> None:
    body = json.dumps({"query": LATEST})
    await _post_query(caching_api)
    async with caching_api.session.post(
        f"{caching_api.url}/graphql", data=body, skip_auto_headers=["Content-Type"]
    ) as response:
        assert response.status == 415


async def test_an_equal_request_does_not_wait_for_a_slow_reader(caching_api: Api, db: Database) -> None:
    await store(db, [row("btc_usd", START_TS + 60 * number) for number in range(1, 9_000)])
    window = f'range(ticker: "btc_usd", from: {START_TS}, to: {START_TS + 60 * 9_000})'
    query = f"{{ {window} {{ id ts time price source observedAt ticker a: id b: time c: time d: time }} }}"
    body = json.dumps({"query": query}).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as slow_client:
        slow_client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow_client.connect(("127.0.0.1", int(caching_api.url.rpartition(":")[2])))
        slow_client.sendall(head + body)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            assert len((await _post_query(caching_api, query))["data"]["range"]) == 9_000


async def test_a_request_whose_body_arrives_after_a_commit_gets_the_data_after_the_commit(
    caching_api: Api, db: Database
) -> None:
    await _post_query(caching_api)
    body = json.dumps({"query": LATEST}).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(caching_api.url.rpartition(":")[2]))
    writer.write(head % len(body) + body[:5])
    await writer.drain()
    await store(db, [row("btc_usd", START_TS + 60)])
    await wait_until(functools.partial(_is_newest, caching_api, START_TS + 60))
    writer.write(body[5:])
    assert str(START_TS + 60).encode() in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_queries_that_are_never_cached_run_concurrently(caching_api: Api, dsn: str, work_log: list[str]) -> None:
    query = f'{{ coverage(ticker: "btc_usd", from: {START_TS}) {{ expected }} }}'
    async with lock_price_table(dsn):
        work_log.clear()
        pending = [asyncio.create_task(_post_query(caching_api, query)) for _ in range(MAX_CONCURRENT_LARGE_RESPONSES)]
        await wait_until(lambda: sum("WITH period" in statement for statement in work_log) == MAX_CONCURRENT_LARGE_RESPONSES)
    await asyncio.gather(*pending)
