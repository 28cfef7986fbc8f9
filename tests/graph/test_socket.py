"""GraphQL over WebSocket by the graphql-transport-ws protocol."""

import asyncio
import json
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from db.pool import Database
from graph.http.request import MAX_BODY_BYTES
from graph.http.socket import MAX_OPERATIONS
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.graph.subscriptions import PROTOCOL, open_socket
from tests.sample_data import START_TS, lock_price_table, row, store, track
from tests.wait import WAIT_TIMEOUT_S

QUERY = {"query": "{ __typename }"}


async def _close_code(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    while not socket.closed:
        await socket.receive(timeout=WAIT_TIMEOUT_S)
    return socket.close_code


async def _execute(socket: aiohttp.ClientWebSocketResponse, payload: dict[str, Any], operation_id: str = "1") -> dict[str, Any]:
    await socket.send_json({"type": "subscribe", "id": operation_id, "payload": payload})
    message: dict[str, Any] = await socket.receive_json(timeout=WAIT_TIMEOUT_S)
    return message


async def test_a_query_gets_its_result_and_complete(api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS, "68241.5")])
    query = "query a($t: String!) { latest(ticker: $t) { price } }"
    async with open_socket(api) as socket:
        result = await _execute(socket, {"query": query, "variables": {"t": "btc_usd"}, "operationName": "a"})
        assert result == {"type": "next", "id": "1", "payload": {"data": {"latest": {"price": "68241.5"}}}}
        assert await socket.receive_json(timeout=WAIT_TIMEOUT_S) == {"type": "complete", "id": "1"}


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
async def test_an_invalid_operation_gets_its_error_and_the_connection_stays_open(
    api: Api, payload: dict[str, Any], code: str
) -> None:
    async with open_socket(api) as socket:
        result = await _execute(socket, payload)
        assert (result["type"], result["payload"][0]["extensions"]["code"]) == ("error", code)
        assert (await _execute(socket, QUERY, "2"))["payload"] == {"data": {"__typename": "Query"}}


async def test_a_ping_gets_a_pong(api: Api) -> None:
    async with open_socket(api, sends_init=False) as socket:
        await socket.send_json({"type": "ping", "payload": {"a": 1}})
        assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "pong"
        await socket.send_json({"type": "pong"})
        await socket.send_json({"type": "connection_init", "payload": {}})
        assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "connection_ack"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 4400),
        ("7", 4400),
        ("null", 4400),
        ("[]", 4400),
        ("{}", 4400),
        ('{"type": 7}', 4400),
        ('{"type": "unknown"}', 4400),
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
async def test_an_invalid_message_closes_with_its_code(api: Api, text: str, code: int) -> None:
    async with open_socket(api) as socket:
        await socket.send_str(text)
        assert await _close_code(socket) == code


async def test_binary_messages_are_rejected(api: Api) -> None:
    async with open_socket(api) as socket:
        await socket.send_bytes(b"{}")
        assert await _close_code(socket) == 4400


async def test_an_operation_before_connection_init_closes(api: Api) -> None:
    async with open_socket(api, sends_init=False) as socket:
        await socket.send_json({"type": "subscribe", "id": "1", "payload": QUERY})
        assert await _close_code(socket) == 4401


async def test_an_operation_id_in_use_closes(dsn: str, api: Api, db: Database) -> None:
    await track(db, "btc_usd")
    async with db.transaction() as connection:
        await connection.execute("LOCK TABLE price")
        async with open_socket(api) as socket:
            latest = {"query": '{ latest(ticker: "btc_usd") { price } }'}
            for _ in range(2):
                await socket.send_json({"type": "subscribe", "id": "1", "payload": latest})
            assert await _close_code(socket) == 4409


@pytest.mark.parametrize("protocols", [(), ("graphql-ws",), ("unknown",)])
async def test_another_subprotocol_is_not_accepted(api: Api, protocols: tuple[str, ...]) -> None:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=protocols) as socket:
        assert await _close_code(socket) == 4406


@pytest.mark.parametrize(
    ("origin", "accepted"), [("https://elsewhere.example", False), ("https://ours.example", True), (None, True)]
)
async def test_a_page_of_another_site_cannot_connect(dsn: str, origin: str | None, accepted: bool) -> None:
    async with run_api(Settings(database_url=dsn, cors_origins=("https://ours.example",))) as api:
        headers = {} if origin is None else {"Origin": origin}
        connection = api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,), headers=headers)
        if accepted:
            async with connection as socket:
                assert socket.protocol == PROTOCOL
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error_info:
                await connection
            assert error_info.value.status == 403


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
        ({"Authorization": f"Bearer {KEY}"}, {"more": "value"}, None),
        ({"X-API-Key": KEY}, None, None),
    ],
)
async def test_with_api_keys_a_connection_needs_a_key(
    dsn: str, headers: dict[str, str], payload: dict[str, Any] | None, close_code: int | None
) -> None:
    settings = Settings(database_url=dsn, api_keys=(sha256(KEY.encode()).hexdigest(),))
    async with (
        run_api(settings) as api,
        api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,), headers=headers) as socket,
    ):
        await socket.send_json({"type": "connection_init"} | ({} if payload is None else {"payload": payload}))
        if close_code is None:
            assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "connection_ack"
            assert (await _execute(socket, QUERY))["payload"] == {"data": {"__typename": "Query"}}
        else:
            assert await _close_code(socket) == close_code


async def test_the_admin_token_in_connection_init_allows_a_fetch(dsn: str, redis_url: str, db: Database) -> None:
    await track(db, "btc_usd")
    settings = Settings(database_url=dsn, redis_url=redis_url, admin_token=SecretStr("the-admin"))
    fetch = {"query": "mutation { fetchPrices { queued } }"}
    async with run_api(settings) as api:
        async with open_socket(api) as socket:
            assert (await _execute(socket, fetch))["payload"]["errors"][0]["extensions"]["code"] == "FORBIDDEN"
        async with open_socket(api, sends_init=False) as socket:
            await socket.send_json({"type": "connection_init", "payload": {"Authorization": "Bearer the-admin"}})
            assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "connection_ack"
            assert (await _execute(socket, fetch))["payload"] == {"data": {"fetchPrices": {"queued": True}}}


async def test_operations_over_the_limit_are_rejected_and_the_others_continue(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    latest = {"query": '{ latest(ticker: "btc_usd") { price } }'}
    async with run_api(Settings(database_url=dsn)) as api, lock_price_table(dsn), open_socket(api) as socket:
        for number in range(MAX_OPERATIONS + 1):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": latest})
        rejections = [await socket.receive_json(timeout=WAIT_TIMEOUT_S) for _ in range(MAX_OPERATIONS + 1 - 64)]
        assert {one["payload"][0]["extensions"]["code"] for one in rejections} == {"RATE_LIMITED", "UNAVAILABLE"}
        assert str(MAX_OPERATIONS) in {one["id"] for one in rejections}


async def test_an_operation_has_the_timeout_of_a_request(dsn: str, db: Database) -> None:
    await track(db, "btc_usd")
    settings = Settings(database_url=dsn, request_timeout_s=0.2)
    async with run_api(settings) as api, lock_price_table(dsn), open_socket(api) as socket:
        result = await _execute(socket, {"query": '{ latest(ticker: "btc_usd") { price } }'})
        assert (result["type"], result["payload"][0]["extensions"]["code"]) == ("error", "TIMEOUT")
        assert (await _execute(socket, QUERY, "2"))["payload"] == {"data": {"__typename": "Query"}}


async def test_many_operations_run_concurrently(api: Api) -> None:
    async with open_socket(api) as socket:
        for number in range(50):
            await socket.send_json({"type": "subscribe", "id": str(number), "payload": QUERY})
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            messages = [await socket.receive_json() for _ in range(100)]
    assert {message["id"] for message in messages if message["type"] == "complete"} == {str(number) for number in range(50)}


@pytest.mark.parametrize("message", [{"type": "x" * 300}, {"type": "é" * 100}])
async def test_a_close_reason_that_is_too_long_is_truncated(api: Api, message: dict[str, Any]) -> None:
    async with open_socket(api) as socket:
        await socket.send_json(message)
        assert await _close_code(socket) == 4400


async def test_an_internal_error_is_sent_and_logged(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> int:
        raise ZeroDivisionError("internal detail")

    async with open_socket(api) as socket:
        with monkeypatch.context() as patch:
            patch.setattr("graph.engine.limits.estimate_cost", fail)
            (error,) = (await _execute(socket, QUERY))["payload"]
        assert error["extensions"] == {"code": "INTERNAL_SERVER_ERROR"}
        assert "internal detail" not in error["message"]
        assert "internal detail" in caplog.text
        assert (await _execute(socket, QUERY))["payload"] == {"data": {"__typename": "Query"}}


async def test_connections_per_address_are_limited(dsn: str) -> None:
    async with run_api(Settings(database_url=dsn, max_sockets_per_client=2)) as api, open_socket(api), open_socket(api):
        with pytest.raises(aiohttp.WSServerHandshakeError) as error_info:
            await api.session.ws_connect(f"{api.url}/graphql", protocols=(PROTOCOL,))
        assert error_info.value.status == 429
        assert error_info.value.headers is not None
        assert error_info.value.headers["Retry-After"] == "2"


@pytest.mark.parametrize("payload", [None, {}, {"Authorization": None}])
async def test_connection_init_may_have_a_null_payload(api: Api, payload: dict[str, Any] | None) -> None:
    async with api.session.ws_connect(f"{api.url}/graphql", protocols=("graphql-transport-ws",)) as socket:
        await socket.send_json({"type": "connection_init", "payload": payload})
        assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "connection_ack"
        await socket.send_json({"type": "ping", "payload": None})
        assert (await socket.receive_json(timeout=WAIT_TIMEOUT_S))["type"] == "pong"
