"""The head of a request over a bare socket: how long it may be, and how long it may take."""

import asyncio

import pytest

from graph.http import protocol
from graph.http.protocol import HEAD_MOST
from tests.graph.conftest import Api

TOO_LONG = {
    "the address": b"GET /graphql?query=" + b"a" * HEAD_MOST + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "one header": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEAD_MOST + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: bcd\r\n" * HEAD_MOST + b"\r\n",
    "a header without end": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2 * HEAD_MOST,
    "an address without end": b"GET /" + b"a" * 2 * HEAD_MOST,
    "a header of ten megabytes": b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000_000,
}


async def _said(api: Api, *parts: bytes) -> bytes:
    """What the server says to the parts, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b"reset"  # it went while we were still sending
    finally:
        writer.close()


@pytest.mark.parametrize("what", TOO_LONG)
async def test_a_head_may_only_be_so_long(api: Api, what: str) -> None:
    assert (await _said(api, TOO_LONG[what])).split(b"\r\n")[0] in (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"HTTP/1.1 400 Bad Request",  # the parser's own bound, for addresses
        b"reset",
    )


async def test_a_head_just_below_is_answered(api: Api) -> None:
    filler = b"X: " + b"a" * (HEAD_MOST - 1_000)
    said = await _said(api, b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", filler, b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX: a"])
async def test_a_head_that_does_not_come_is_not_waited_for(api: Api, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.2)
    assert await _said(api, begun) == b""


async def test_requests_in_one_packet_are_all_answered(api: Api) -> None:
    one = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"query": "{ __typename }"}'
    post = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    said = await _said(api, one + post + body + one + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert said.count(b"HTTP/1.1 404") == 3
    assert said.count(b'{"data":{"__typename":"Query"}}') == 1


async def test_what_is_no_http_is_told_so(api: Api) -> None:
    assert (await _said(api, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400")
