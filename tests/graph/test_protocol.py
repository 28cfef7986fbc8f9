"""Limits of the HTTP protocol over a bare socket: the size of a request head, and timeouts."""

import asyncio
import contextlib
import json
import socket

import psutil
import pytest

from db.pool import Database
from graph.http import protocol
from graph.http.protocol import MAX_HEADER_BYTES
from graph.http.socket import SocketEndpoint
from graph.settings import Settings
from tests.graph.conftest import Api, run_api
from tests.sample_data import START_TS, row, store, track
from tests.wait import WAIT_TIMEOUT_S, wait_until

OVERSIZED_HEADS = {
    "the URL": b"GET /graphql?query=" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "one header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: bcd\r\n" * MAX_HEADER_BYTES + b"\r\n",
    "a header without end": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2 * MAX_HEADER_BYTES,
    "an endless URL": b"GET /" + b"a" * 2 * MAX_HEADER_BYTES,
    "a header of ten megabytes": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000_000,
}
UPGRADE = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n"
)


async def _send_raw(api: Api, *parts: bytes) -> bytes:
    """Sends the parts. Returns everything that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), WAIT_TIMEOUT_S)
    except ConnectionError:
        return b"reset"  # the server closed while the client was still sending
    finally:
        writer.close()


@pytest.mark.parametrize("case", OVERSIZED_HEADS)
async def test_the_size_of_a_request_head_is_limited(api: Api, case: str) -> None:
    response = (await _send_raw(api, OVERSIZED_HEADS[case])).split(b"\r\n")[0]
    expected = {b"HTTP/1.1 431 Request Header Fields Too Large"}
    if "URL" in case:
        expected.add(b"HTTP/1.1 400 Bad Request")  # by the parser's own limit
    if len(OVERSIZED_HEADS[case]) >= 2 * MAX_HEADER_BYTES:
        expected.add(b"reset")  # the server closes while the client still sends
    assert response in expected


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", b"Send exactly one Host header"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"Send exactly one Host header"),
        (UPGRADE + b"Content-Length: 2\r\n\r\n{}", b"A WebSocket upgrade request must not have a body"),
        (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"must not have a body"),
    ],
)
async def test_an_ambiguous_request_head_is_rejected(api: Api, head: bytes, reason: bytes) -> None:
    response = await _send_raw(api, head)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert reason in response


async def test_http_1_0_needs_no_host(api: Api) -> None:
    assert (await _send_raw(api, b"GET /health/live HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_websocket_handshake_without_a_response_times_out(api: Api, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(SocketEndpoint, "__call__", _wait_forever)
    async with run_api(Settings(database_url=dsn)) as silent_api:
        assert b"101" not in await _send_raw(silent_api, UPGRADE + b"\r\n")


async def _wait_forever(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_request_head_just_below_the_limit_is_accepted(api: Api) -> None:
    filler = b"X: " + b"a" * (MAX_HEADER_BYTES - 1_000)
    response = await _send_raw(api, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", filler, b"\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "partial_request",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a",
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ],
)
async def test_an_incomplete_request_times_out(api: Api, monkeypatch: pytest.MonkeyPatch, partial_request: bytes) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT_S", 0.2)
    assert (await _send_raw(api, partial_request)).split(b"\r\n")[0] in (b"", b"HTTP/1.1 408 Request Timeout")


async def test_pipelined_requests_all_get_a_response(api: Api) -> None:
    get_request = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"query": "{ __typename }"}'
    post = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    response = await _send_raw(
        api, get_request + post + body + get_request + get_request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    assert response.count(b"HTTP/1.1 404") == 3
    assert response.count(b'{"data":{"__typename":"Query"}}') == 1


async def test_bytes_that_are_not_http_get_400(api: Api) -> None:
    assert (await _send_raw(api, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_endless_trailers_time_out(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT_S", 0.3)
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with run_api(Settings(database_url=dsn, request_timeout_s=0.3)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        writer.write(head + b"1\r\n{\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(WAIT_TIMEOUT_S):
                while not reader.at_eof():
                    writer.write(b"a: b\r\n" * 1_000)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_an_empty_line_does_not_keep_a_connection_open(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "RECEIVE_TIMEOUT_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")
    writer.write(b"\r\n")
    assert await asyncio.wait_for(reader.read(), WAIT_TIMEOUT_S) == b""
    writer.close()


async def test_a_client_that_does_not_read_its_responses_is_disconnected(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.3)
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", START_TS + 60 * i) for i in range(10_000)])
    window = f"from: {START_TS}, to: {START_TS + 600_000}"
    body = json.dumps({"query": f'{{ range(ticker: "btc_usd", {window}) {{ id ts price time source observedAt }} }}'})
    with socket.socket() as slow_client:
        slow_client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow_client.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
        pipelined = (head.format(len(body)) + body).encode()
        slow_client.sendall(pipelined * 20)
        slow_client.setblocking(False)
        port = slow_client.getsockname()[1]
        await wait_until(lambda: not any(c.raddr and c.raddr.port == port for c in psutil.Process().net_connections("tcp")))


async def test_a_rejected_body_is_not_parsed_as_the_next_request(api: Api) -> None:
    body = b"a" * 1_000_000
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    response = await _send_raw(api, head + body, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 413")
    assert b"HTTP/1.1 404" in response
