"""The head of a request over a bare socket: how long it may be, and how long it may take."""

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
from tests.graph.conftest import Api, serving
from tests.stored import MINUTE, row, store, track
from tests.waiting import PATIENCE_S, until

TOO_LONG = {
    "the address": b"GET /graphql?query=" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "one header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: bcd\r\n" * MAX_HEADER_BYTES + b"\r\n",
    "a header without end": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2 * MAX_HEADER_BYTES,
    "an address without end": b"GET /" + b"a" * 2 * MAX_HEADER_BYTES,
    "a header of ten megabytes": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000_000,
}
UPGRADE = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: graphql-transport-ws\r\n"
)


async def _said(api: Api, *parts: bytes) -> bytes:
    """What the server says to the parts, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except ConnectionError:
        return b"reset"  # it went while we were still sending
    finally:
        writer.close()


@pytest.mark.parametrize("what", TOO_LONG)
async def test_a_head_may_only_be_so_long(api: Api, what: str) -> None:
    said = (await _said(api, TOO_LONG[what])).split(b"\r\n")[0]
    wanted = {b"HTTP/1.1 431 Request Header Fields Too Large"}
    if "address" in what:
        wanted.add(b"HTTP/1.1 400 Bad Request")  # by the parser's own bound
    if len(TOO_LONG[what]) >= 2 * MAX_HEADER_BYTES:
        wanted.add(b"reset")  # it goes while we still send
    assert said in wanted


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", b"Send exactly one Host header"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"Send exactly one Host header"),
        (UPGRADE + b"Content-Length: 2\r\n\r\n{}", b"A WebSocket upgrade request must not have a body"),
        (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"must not have a body"),
    ],
)
async def test_a_head_that_leaves_something_open_is_refused(api: Api, head: bytes, why: bytes) -> None:
    said = await _said(api, head)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert why in said


async def test_http_1_0_needs_no_host(api: Api) -> None:
    assert (await _said(api, b"GET /health/live HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_handshake_that_is_not_answered_is_not_waited_for(api: Api, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.2)
    monkeypatch.setattr(SocketEndpoint, "__call__", _forever)
    async with serving(Settings(database_url=dsn)) as silent:
        assert b"101" not in await _said(silent, UPGRADE + b"\r\n")


async def _forever(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_head_just_below_is_answered(api: Api) -> None:
    filler = b"X: " + b"a" * (MAX_HEADER_BYTES - 1_000)
    said = await _said(api, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", filler, b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a",
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ],
)
async def test_a_request_that_does_not_come_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.2)
    assert (await _said(api, begun)).split(b"\r\n")[0] in (b"", b"HTTP/1.1 408 Request Timeout")


async def test_requests_in_one_packet_are_all_answered(api: Api) -> None:
    one = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"query": "{ __typename }"}'
    post = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    said = await _said(api, one + post + body + one + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert said.count(b"HTTP/1.1 404") == 3
    assert said.count(b'{"data":{"__typename":"Query"}}') == 1


async def test_what_is_no_http_is_told_so(api: Api) -> None:
    assert (await _said(api, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_trailers_without_end_are_neither_kept_nor_waited_for(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.3)
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(Settings(database_url=dsn, request_timeout_s=0.3)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        writer.write(head + b"1\r\n{\r\n0\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while not reader.at_eof():
                    writer.write(b"a: b\r\n" * 1_000)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_an_empty_line_does_not_keep_a_connection_open(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404")
    writer.write(b"\r\n")
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    writer.close()


async def test_an_answer_that_is_not_read_is_not_held(api: Api, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.3)
    await track(db, "btc_usd")
    await store(db, [row("btc_usd", MINUTE + 60 * i) for i in range(10_000)])
    window = f"from: {MINUTE}, to: {MINUTE + 600_000}"
    body = json.dumps({"query": f'{{ range(ticker: "btc_usd", {window}) {{ id ts price time source observedAt }} }}'})
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        head = "POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
        many = (head.format(len(body)) + body).encode()
        deaf.sendall(many * 20)
        deaf.setblocking(False)
        port = deaf.getsockname()[1]
        await until(lambda: not any(c.raddr and c.raddr.port == port for c in psutil.Process().net_connections("tcp")))


async def test_a_body_that_was_refused_is_no_head_of_the_next_request(api: Api) -> None:
    body = b"a" * 1_000_000
    head = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    said = await _said(api, head + body, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413")
    assert b"HTTP/1.1 404" in said
