"""The failures of Deribit, by name: error codes, HTTP statuses, malformed bodies, broken connections."""

import asyncio
import contextlib
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

Envelope = dict[str, Any]
FaultHandler = Callable[[web.Request, Envelope], Awaitable[web.StreamResponse]]
"""Takes the request and the regular envelope, and returns the response to send instead."""


@dataclass
class Fault:
    """An active fault: for one method or index or for all, for `times` calls or, with None, permanently."""

    name: str
    method: str | None = None
    index: str | None = None
    times: int | None = None

    def consume(self, method: str, index: str | None) -> bool:
        """Returns whether the fault applies to this call. If so, decrements `times`."""
        if self.times == 0 or self.method not in (None, method) or self.index not in (None, index):
            return False
        if self.times is not None:
            self.times -= 1
        return True


def respond(envelope: Envelope, *, status: int = 200) -> web.Response:
    """Returns the envelope as JSON. Each Decimal keeps its digits."""
    body = orjson.dumps(envelope, default=lambda number: orjson.Fragment(str(number)))
    return web.Response(body=body, content_type="application/json", status=status)


def _rpc_error(code: int, message: str, *, status: int = 400, data: Any = None) -> FaultHandler:
    async def handle(_request: web.Request, envelope: Envelope) -> web.StreamResponse:
        error = {"code": code, "message": message} | ({"data": data} if data is not None else {})
        return respond({k: v for k, v in envelope.items() if k != "result"} | {"error": error}, status=status)

    return handle


def _http(status: int, body: str = "", headers: dict[str, str] | None = None) -> FaultHandler:
    async def handle(_request: web.Request, _envelope: Envelope) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers, content_type="text/html")

    return handle


def _raw(body: bytes, content_type: str = "application/json") -> FaultHandler:
    async def handle(_request: web.Request, _envelope: Envelope) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type)

    return handle


def _with_changes(**changes: Any) -> FaultHandler:
    async def handle(_request: web.Request, envelope: Envelope) -> web.StreamResponse:
        return respond({k: v for k, v in (envelope | changes).items() if v is not None})

    return handle


def _price(literal: str) -> FaultHandler:
    async def handle(_request: web.Request, envelope: Envelope) -> web.StreamResponse:
        rest = ",".join(f'"{key}":{envelope[key]}' for key in ("usIn", "usOut", "usDiff"))
        body = f'{{"jsonrpc":"2.0","result":{{"index_price":{literal}}},{rest},"testnet":false}}'
        return web.Response(text=body, content_type="application/json")

    return handle


async def _six_hours_ahead(_request: web.Request, envelope: Envelope) -> web.StreamResponse:
    return respond(envelope | {"usOut": envelope["usOut"] + 6 * 3600 * 10**6})


async def _redirect(request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": str(request.url.with_path("/elsewhere"))})


async def _hang(_request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError("the client did not disconnect within an hour")


async def _reset(request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _break_off(request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"jsonrpc":"2.0","result":')
    if request.transport is not None:
        request.transport.abort()
    return response


async def _endless(request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client disconnects
        for _ in range(200):
            await response.write(b" " * 65_536)
    return response


async def _gzip_undeclared(_request: web.Request, _envelope: Envelope) -> web.StreamResponse:
    return web.Response(body=gzip.compress(b'{"jsonrpc":"2.0","result":{"index_price":1}}'), content_type="application/json")


HTML = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"

FAULTS: dict[str, FaultHandler] = {
    "too_many_requests": _rpc_error(10028, "too_many_requests"),
    "too_many_concurrent_requests": _rpc_error(10066, "too_many_concurrent_requests"),
    "http_429": _http(429, headers={"Retry-After": "1"}),
    "retry": _rpc_error(10040, "retry"),
    "settlement_in_progress": _rpc_error(10041, "settlement_in_progress"),
    "internal_server_error": _rpc_error(11094, "internal_server_error", status=500),
    "internal_error": _rpc_error(-32603, "Internal error", status=500),
    "temporarily_unavailable": _rpc_error(13028, "temporarily_unavailable"),
    "timed_out": _rpc_error(13888, "timed_out"),
    "http_500": _http(500, HTML),
    "http_502": _http(502, HTML),
    "http_503": _http(503, headers={"Retry-After": "1"}),
    "system_maintenance": _rpc_error(11051, "system_maintenance"),
    "unauthenticated_disabled": _rpc_error(11056, "unauthenticated_public_requests_temporarily_disabled"),
    "maintenance_13025": _rpc_error(13025, "maintenance"),
    "maintenance_13503": _rpc_error(13503, "unavailable"),
    "invalid_params": _rpc_error(-32602, "Invalid params"),
    "method_not_found": _rpc_error(-32601, "Method not found"),
    "invalid_arguments": _rpc_error(11029, "invalid_arguments"),
    "bad_request": _rpc_error(11050, "bad_request"),
    "unknown_index": _rpc_error(-32602, "Invalid params", data={"reason": "invalid index", "param": "index_name"}),
    "unheard_of_code": _rpc_error(99999, "unknown"),
    "http_403": _http(403, HTML),
    "http_404": _http(404, HTML),
    "testnet": _with_changes(testnet=True),
    "no_clock": _with_changes(usIn=None, usOut=None, usDiff=None),
    "no_result": _with_changes(result=None),
    "html": _raw(HTML.encode(), "text/html"),
    "empty": _raw(b""),
    "truncated": _raw(b'{"jsonrpc":"2.0","result":{"index_pr'),
    "not_an_object": _raw(b"[1,2,3]"),
    "nested": _raw(b"[" * 100_000),
    "not_utf8": _raw(b'{"jsonrpc":"2.0","result":{"index_price":\xff}}'),
    "gzip_undeclared": _gzip_undeclared,
    "endless": _endless,
    "price_zero": _price("0"),
    "price_negative": _price("-1"),
    "price_nan": _price("NaN"),
    "price_infinite": _price("1e999999"),
    "price_tiny": _price("1e-999999999"),
    "price_huge_integer": _price("9" * 6000),
    "price_exponent": _price("1e9999999999999999999"),
    "price_null": _price("null"),
    "price_text": _price('"68000"'),
    "half_a_surrogate": _raw(b'{"jsonrpc":"2.0","error":{"code":10040,"message":"\\ud800 retry"}}'),
    "clock_ahead": _six_hours_ahead,
    "redirect": _redirect,
    "hang": _hang,
    "reset": _reset,
    "break_off": _break_off,
}
"""Every fault by name."""
