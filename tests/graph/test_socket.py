"""GraphQL over WebSocket, exactly as the graphql-transport-ws protocol says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from db.pool import Database
from graph.http.request import MAX_BODY_BYTES
from graph.http.socket import MAX_OPERATIONS
from graph.settings import Settings
from tests.graph.conftest import Api, serving
from tests.stored import MINUTE, prices_locked, row, store, track
from tests.waiting import PATIENCE_S

PROTOCOL = "graphql-transport-ws"
QUERY = {"query": "{ __typename }"}


@asynccontextmanager
async def connected(api: Api, *, greeted: bool = True) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,)) as socket:
        if greeted:
            await socket.send_json({"type": "connection_init"})
            assert await socket.receive_json(timeout=PATIENCE_S) == {"type": "connection_ack"}
        yield socket


async def _closed(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    while not socket.closed:
        await socket.receive(timeout=PATIENCE_S)
    return socket.close_code


async def _ask(socket: aiohttp.ClientWebSocketResponse, payload: dict[str, Any], name: str = "1") -> dict[str, Any]:
    await socket.send_json({"type": "subscribe", "id": name, "payload": payload})
    message: dict[str, Any] = await socket.receive_json(timeout=PATIENCE_S)
    return message


async def test_a_query_is_answered_and_completed(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE, "68241.5")])
    query = "query a($t: String!) { latest(ticker: $t) { price } }"
    async with connected(api) as socket:
        answer = await _ask(socket, {"query": query, "variables": {"t": "btc_usd"}, "operationName": "a"})
        assert answer == {"type": "next", "id": "1", "payload": {"data": {"latest": {"price": "68241.5"}}}}
        assert await socket.receive_json(timeout=PATIENCE_S) == {"type": "complete", "id": "1"}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": ""}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{ nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query ($a: String!) { latest(ticker: $a) { ts } }", "variables": None}, "BAD_USER_INPUT"),
        ({"query": "query a { __typename } query b { __typename }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "{ " + " ".join(f"a{i}: __typename" for i in range(60)) + " }"}, "QUERY_TOO_COMPLEX"),
    ],
)
async def test_a_bad_operation_gets_its_error_and_the_connection_goes_on(api: Api, payload: dict[str, Any], code: str) -> None:
    async with connected(api) as socket:
        answer = await _ask(socket, payload)
        assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", code)
        assert (await _ask(socket, QUERY, "2"))["payload"] == {"data": {"__typename": "Query"}}


async def test_a_ping_is_answered(api: Api) -> None:
    async with connected(api, greeted=False) as socket:
        await socket.send_json({"type": "ping", "payload": {"a": 1}})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "pong"
        await socket.send_json({"type": "pong"})
        await socket.send_json({"type": "connection_init", "payload": {}})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "connection_ack"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{", 4400),
        ("7", 4400),
        ("null", 4400),
        ("[]", 4400),
        ("{}", 4400),
        ('{"type": 7}', 4400),
        ('{"type": "unheard_of"}', 4400),
        ('{"type": "connection_init", "payload": 7}', 4400),
        ('{"type": "connection_init"}', 4429),
        ('{"type": "subscribe"}', 4400),
        ('{"type": "subscribe", "id": "1"}', 4400),
        ('{"type": "subscribe", "id": 7, "payload": {"query": "{ a }"}}', 4400),
        ('{"type": "subscribe", "id": "1", "payload": {"query": 7}}', 4400),
        ('{"type": "subscribe", "id": "1", "payload": {"query": "{ a }", "variables": 7}}', 4400),
        ('{"type": "complete"}', 4400),
        (json.dumps({"type": "ping", "payload": {"pad": " " * MAX_BODY_BYTES}}), 1009),
    ],
)
async def test_a_message_that_breaks_the_protocol_closes_with_its_code(api: Api, sent: str, code: int) -> None:
    async with connected(api) as socket:
        await socket.send_str(sent)
        assert await _closed(socket) == code


async def test_bytes_are_no_message(api: Api) -> None:
    async with connected(api) as socket:
        await socket.send_bytes(b"{}")
        assert await _closed(socket) == 4400


async def test_who_asks_before_greeting_is_closed(api: Api) -> None:
    async with connected(api, greeted=False) as socket:
        await socket.send_json({"type": "subscribe", "id": "1", "payload": QUERY})
        assert await _closed(socket) == 4401


async def test_a_name_in_use_closes(dsn: str, api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with db.transaction() as connection:
        await connection.execute("LOCK TABLE price")
        async with connected(api) as socket:
            latest = {"query": '{ latest(ticker: "btc_usd") { price } }'}
            for _ in range(2):
                await socket.send_json({"type": "subscribe", "id": "1", "payload": latest})
            assert await _closed(socket) == 4409


@pytest.mark.parametrize("protocols", [(), ("graphql-ws",), ("unheard-of",)])
async def test_another_subprotocol_is_not_accepted(api: Api, protocols: tuple[str, ...]) -> None:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=protocols) as socket:
        assert await _closed(socket) == 4406


@pytest.mark.parametrize(
    ("origin", "accepted"), [("https://elsewhere.example", False), ("https://ours.example", True), (None, True)]
)
async def test_a_page_of_another_site_cannot_connect(dsn: str, origin: str | None, accepted: bool) -> None:
    async with serving(Settings(database_url=dsn, cors_origins=("https://ours.example",))) as api:
        headers = {} if origin is None else {"Origin": origin}
        connecting = api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,), headers=headers)
        if accepted:
            async with connecting as socket:
                assert socket.protocol == PROTOCOL
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connecting
            assert refused.value.status == 403


KEY = "a-key"


@pytest.mark.parametrize(
    ("headers", "payload", "close_code"),
    [
        ({}, None, 4403),
        ({}, {}, 4403),
        ({}, {"Authorization": "Bearer another"}, 4403),
        ({}, {"Authorization": 7}, 4403),
        ({"X-API-Key": KEY}, {"authorization": "Bearer another"}, 4403),
        ({}, {"Authorization": f"Bearer {KEY}"}, None),
        ({}, {"authorization": f"bearer {KEY}"}, None),
        ({}, {"X-API-Key": KEY, "\u2028": "\xe9"}, None),
        ({"Authorization": f"Bearer {KEY}"}, {"more": "beside"}, None),
        ({"X-API-Key": KEY}, None, None),
    ],
)
async def test_with_keys_a_connection_needs_one(
    dsn: str, headers: dict[str, str], payload: dict[str, Any] | None, close_code: int | None
) -> None:
    settings = Settings(database_url=dsn, api_keys=(sha256(KEY.encode()).hexdigest(),))
    async with (
        serving(settings) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,), headers=headers) as socket,
    ):
        await socket.send_json({"type": "connection_init"} | ({} if payload is None else {"payload": payload}))
        if close_code is None:
            assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "connection_ack"
            assert (await _ask(socket, QUERY))["payload"] == {"data": {"__typename": "Query"}}
        else:
            assert await _closed(socket) == close_code


async def test_the_admins_token_in_the_first_message_lets_ask_for_prices(dsn: str, redis_url: str, db: Database) -> None:
    await track(db, "btc_usd")
    settings = Settings(database_url=dsn, redis_url=redis_url, admin_token=SecretStr("the-admin"))
    fetch = {"query": "mutation { fetchPrices { queued } }"}
    async with serving(settings) as api:
        async with connected(api) as socket:
            assert (await _ask(socket, fetch))["payload"]["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        async with connected(api, greeted=False) as socket:
            await socket.send_json({"type": "connection_init", "payload": {"Authorization": "Bearer the-admin"}})
            assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "connection_ack"
            assert (await _ask(socket, fetch))["payload"] == {"data": {"fetchPrices": {"queued": True}}}


async def test_operations_beyond_a_connections_share_are_refused_and_the_others_go_on(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    latest = {"query": '{ latest(ticker: "btc_usd") { price } }'}
    async with serving(Settings(database_url=dsn)) as api, prices_locked(dsn), connected(api) as socket:
        for number in range(MAX_OPERATIONS + 1):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": latest})
        refused = [await socket.receive_json(timeout=PATIENCE_S) for _ in range(MAX_OPERATIONS + 1 - 64)]
        assert {one["payload"][0]["extensions"]["code"] for one in refused} == {"RATE_LIMITED", "UNAVAILABLE"}
        assert str(MAX_OPERATIONS) in {one["id"] for one in refused}


async def test_an_operation_may_take_as_long_as_a_request(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    settings = Settings(database_url=dsn, request_timeout_s=0.2)
    async with serving(settings) as api, prices_locked(dsn), connected(api) as socket:
        answer = await _ask(socket, {"query": '{ latest(ticker: "btc_usd") { price } }'})
        assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", "TIMEOUT")
        assert (await _ask(socket, QUERY, "2"))["payload"] == {"data": {"__typename": "Query"}}


async def test_many_operations_run_beside_each_other(api: Api) -> None:
    async with connected(api) as socket:
        for number in range(50):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": QUERY})
        async with asyncio.timeout(PATIENCE_S):
            messages = [await socket.receive_json() for _ in range(100)]
    assert {message["id"] for message in messages if message["type"] == "complete"} == {str(number) for number in range(50)}


@pytest.mark.parametrize("message", [{"type": "x" * 300}, {"type": "é" * 100}])
async def test_a_reason_that_is_too_long_is_cut(api: Api, message: dict[str, Any]) -> None:
    async with connected(api) as socket:
        await socket.send_json(message)
        assert await _closed(socket) == 4400


async def test_a_mistake_of_ours_is_told_and_logged(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> int:
        raise ZeroDivisionError("the inside")

    async with connected(api) as socket:
        with monkeypatch.context() as broken_for_now:
            broken_for_now.setattr("graph.engine.limits.estimate_cost", broken)
            (error,) = (await _ask(socket, QUERY))["payload"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert "the inside" not in error["message"]
        assert "the inside" in caplog.text
        assert (await _ask(socket, QUERY))["payload"] == {"data": {"__typename": "Query"}}


async def test_an_address_may_keep_only_so_many_connections(dsn: str) -> None:
    async with serving(Settings(database_url=dsn, max_sockets_per_client=2)) as api, connected(api), connected(api):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,))
        assert refused.value.status == 429
        assert refused.value.headers is not None
        assert refused.value.headers["Retry-After"] == "2"


@pytest.mark.parametrize("payload", [None, {}, {"Authorization": None}])
async def test_a_greeting_without_a_payload_may_say_so_by_null(api: Api, payload: dict[str, Any] | None) -> None:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket:
        await socket.send_json({"type": "connection_init", "payload": payload})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "connection_ack"
        await socket.send_json({"type": "ping", "payload": None})
        assert (await socket.receive_json(timeout=PATIENCE_S))["type"] == "pong"
