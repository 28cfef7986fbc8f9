"""Answers that are kept until the next commit: the same to everybody, and never those of before."""

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
from tests.graph.conftest import Api, serving
from tests.stored import MINUTE, prices_locked, row, store, track
from tests.waiting import PATIENCE_S, until

LATEST = '{ latest(ticker: "btc_usd") { ts price } }'


async def _ask(api: Api, query: str = LATEST, **headers: str) -> Any:
    async with api.session.post(f"{api.url}/graphql", json={"query": query}, headers=headers) as response:
        return json.loads(await response.text())


async def _kept(api: Api, ran: list[str], query: str = LATEST) -> bool:
    """Whether the question is answered without asking the database."""
    await _ask(api, query)
    ran.clear()
    await _ask(api, query)
    return ran == []


@pytest.fixture
async def api(dsn: str) -> AsyncIterator[Api]:
    async with serving(Settings(database_url=dsn, answer_cache_mb=64)) as running:
        yield running


@pytest.fixture
async def one(db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE)])


@pytest.fixture
async def hearing(api: Api, one: None, ran: list[str]) -> Api:
    """The API, which hears of commits."""
    await until(lambda: _kept(api, ran))
    return api


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (LATEST, True),
        ('{ prices(ticker: "btc_usd") { nodes { price } pageInfo { endCursor } } }', True),
        ("{ __schema { queryType { name } } }", True),
        ("{ tickers { name latest { ts } } }", True),
        ("{ tickers { ageS } }", False),
        (f'{{ coverage(ticker: "btc_usd", from: {MINUTE}) {{ expected }} }}', False),
        ('{ latest(ticker: "nobody_usd") { ts } }', False),
        ("{ nothing }", False),
    ],
)
async def test_what_is_only_of_what_is_stored_is_kept(hearing: Api, ran: list[str], query: str, kept: bool) -> None:
    assert await _kept(hearing, ran, query) is kept


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/prices/last?ticker=btc_usd", True),
        (f"/v1/prices/range?ticker=btc_usd&from_ts={MINUTE}&to_ts={MINUTE + 60}", True),
        ("/prices?ticker=btc_usd", False),
        ("/health", False),
    ],
)
async def test_rest_is_kept_where_its_coverage_cannot_change(hearing: Api, ran: list[str], path: str, kept: bool) -> None:
    for _ in range(2):
        ran.clear()
        async with hearing.session.get(hearing.url + path) as response:
            assert response.status == 200
            assert response.headers["X-Request-ID"]
    assert (ran == []) is kept


async def test_after_a_commit_the_answer_is_a_new_one(hearing: Api, db: Database) -> None:
    for number in range(1, 30):
        await store(db, [row("btc_usd", MINUTE + 60 * number)])
        await until(functools.partial(_is_newest, hearing, MINUTE + 60 * number))


async def _is_newest(api: Api, minute: int) -> bool:
    newest: int = (await _ask(api))["data"]["latest"]["ts"]
    return newest == minute


async def test_who_asks_differently_gets_another_answer(hearing: Api, ran: list[str]) -> None:
    await _ask(hearing)
    for headers in ({"Accept": "application/graphql-response+json"}, {"Accept-Encoding": "identity"}):
        ran.clear()
        await _ask(hearing, LATEST, **headers)
        assert ran != []
    ran.clear()
    await _ask(hearing, LATEST.replace("price", "source"))
    assert ran != []


async def test_the_same_question_at_once_is_asked_once(hearing: Api, dsn: str, ran: list[str]) -> None:
    query = LATEST.replace("price", "price source")
    async with prices_locked(dsn):
        ran.clear()
        asking = [asyncio.create_task(_ask(hearing, query)) for _ in range(20)]
        await until(lambda: any("FROM" in statement for statement in ran))
    answers = await asyncio.gather(*asking)
    assert all(answer == answers[0] and "data" in answer for answer in answers)
    assert len([statement for statement in ran if "FROM" in statement]) == 1


async def test_who_joined_a_question_whose_client_goes_is_answered(hearing: Api, dsn: str, ran: list[str]) -> None:
    query = LATEST.replace("price", "price id")
    async with prices_locked(dsn):
        ran.clear()
        first = asyncio.create_task(_ask(hearing, query))
        await until(lambda: any("FROM" in statement for statement in ran))
        second = asyncio.create_task(_ask(hearing, query))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.wait([first])
    assert (await second)["data"]["latest"]["ts"] == MINUTE


@pytest.mark.usefixtures("one")
async def test_while_commits_cannot_be_heard_nothing_is_kept(hearing: Api, db: Database, ran: list[str]) -> None:
    await db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%pg_notify($1%'"
    )
    assert (await _ask(hearing))["data"]["latest"]["ts"] == MINUTE
    await store(db, [row("btc_usd", MINUTE + 60)])
    await until(lambda: _is_newest(hearing, MINUTE + 60))
    await until(lambda: _kept(hearing, ran))


@pytest.mark.usefixtures("one")
async def test_readers_beside_a_writer_never_go_back(dsn: str, db: Database) -> None:
    """And once the writer has told how far it is, none is further behind than the promise."""
    written = MINUTE
    async with serving(Settings(database_url=dsn, answer_cache_mb=64)) as api:

        async def write() -> None:
            nonlocal written
            for number in range(1, 150):
                await store(db, [row("btc_usd", MINUTE + 60 * number)])
                written = MINUTE + 60 * number

        async def read() -> None:
            newest = 0
            while not writing.done():
                ts = (await _ask(api))["data"]["latest"]["ts"]
                assert ts >= newest, "an answer of before"
                newest = ts

        writing = asyncio.create_task(write())
        await asyncio.gather(writing, *(read() for _ in range(4)))
        await until(lambda: _is_newest(api, written))


async def test_without_a_cache_everything_is_asked(dsn: str, db: Database, ran: list[str]) -> None:
    await track(db, "btc_usd")
    async with serving(Settings(database_url=dsn, answer_cache_mb=0)) as api:
        assert not await _kept(api, ran)


def test_a_feed_that_never_heard_anything_knows_nothing() -> None:
    assert CommitListener().version() is None


async def test_an_error_is_not_kept(hearing: Api, dsn: str) -> None:
    path = f"/prices/range?ticker=btc_usd&from_ts={MINUTE}&to_ts={MINUTE}"
    async with serving(Settings(database_url=dsn, answer_cache_mb=64, request_timeout_s=0.3)) as api:
        await until(lambda: _last(api, MINUTE))
        connection = await asyncpg.connect(dsn)
        async with connection.transaction():
            await connection.execute("LOCK TABLE tracking")
            async with api.session.get(api.url + path) as response:
                assert response.status == 504
        await connection.close()
        async with api.session.get(api.url + path) as response:
            assert response.status == 200


async def _last(api: Api, minute: int) -> bool:
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
async def test_headers_that_come_twice_poison_nothing(
    hearing: Api, ran: list[str], first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    kind = [] if "Content-Type" in dict(first) else [("Content-Type", "application/json")]
    body = json.dumps({"query": f"{LATEST} #{'x' * 2_000}"})
    for headers in (first, second):
        ran.clear()
        async with hearing.session.post(
            f"{hearing.url}/graphql", data=body, headers=[*kind, *headers], skip_auto_headers=["Accept", "Accept-Encoding"]
        ) as response:
            assert (await response.json(content_type=None))["data"]["latest"]["ts"] == MINUTE
    assert ran != [], "the second got the first's answer"


async def test_without_a_content_type_nothing_is_answered_although_it_is_kept(hearing: Api) -> None:
    body = json.dumps({"query": LATEST})
    await _ask(hearing)
    async with hearing.session.post(f"{hearing.url}/graphql", data=body, skip_auto_headers=["Content-Type"]) as response:
        assert response.status == 415


async def test_who_asks_the_same_does_not_wait_for_a_reader_that_takes_its_time(hearing: Api, db: Database) -> None:
    await store(db, [row("btc_usd", MINUTE + 60 * number) for number in range(1, 9_000)])
    window = f'range(ticker: "btc_usd", from: {MINUTE}, to: {MINUTE + 60 * 9_000})'
    query = f"{{ {window} {{ id ts time price source observedAt ticker a: id b: time c: time d: time }} }}"
    body = json.dumps({"query": query}).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", int(hearing.url.rpartition(":")[2])))
        deaf.sendall(head + body)
        async with asyncio.timeout(PATIENCE_S):
            assert len((await _ask(hearing, query))["data"]["range"]) == 9_000


async def test_a_question_of_before_a_commit_whose_body_comes_after_it_gets_the_answer_of_after(
    hearing: Api, db: Database
) -> None:
    await _ask(hearing)
    body = json.dumps({"query": LATEST}).encode()
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", int(hearing.url.rpartition(":")[2]))
    writer.write(head % len(body) + body[:5])
    await writer.drain()
    await store(db, [row("btc_usd", MINUTE + 60)])
    await until(functools.partial(_is_newest, hearing, MINUTE + 60))
    writer.write(body[5:])
    assert str(MINUTE + 60).encode() in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_what_is_never_kept_is_asked_beside_each_other(hearing: Api, dsn: str, ran: list[str]) -> None:
    query = f'{{ coverage(ticker: "btc_usd", from: {MINUTE}) {{ expected }} }}'
    async with prices_locked(dsn):
        ran.clear()
        asking = [asyncio.create_task(_ask(hearing, query)) for _ in range(MAX_CONCURRENT_LARGE_RESPONSES)]
        await until(lambda: sum("WITH period" in statement for statement in ran) == MAX_CONCURRENT_LARGE_RESPONSES)
    await asyncio.gather(*asking)
