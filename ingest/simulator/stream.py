"""The index channels of the simulator over WebSocket: a tick a second for each index, and the failures of such a stream.

The ticks are a pure function of index and time, like the prices. Every valid tick is recorded right before it is sent.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import orjson
from aiohttp import WSMsgType, web

from ingest.simulator import market
from ingest.simulator.faults import Fault

CHANNEL_PREFIX: Final = "deribit_price_index."
METHOD: Final = "stream"
"""The method of a fault of this server."""
POLL_INTERVAL_S: Final = 0.05
FLOOD_TICKS: Final = 200
SIX_HOURS_MS: Final = 6 * 3_600_000

TICK_FAULTS: Final = {
    "tick_dropped": "a tick is not sent",
    "tick_duplicated": "a tick is sent twice",
    "tick_replayed": "a tick is followed by that of five seconds before",
    "tick_out_of_order": "a tick is sent after the next one",
    "tick_zero": "the price of a tick is 0",
    "tick_nan": "the price of a tick is NaN",
    "tick_wrong_index": "a tick names another index",
    "tick_late": "a tick is six hours old",
    "tick_future": "a tick is six hours ahead",
    "tick_flood": "a tick is preceded by many others of the last 300 milliseconds",
    "stream_close": "the connection is closed instead of a tick",
}
CONNECTION_FAULTS: Final = {
    "stream_silent": "nothing is sent",
    "stream_half_open": "nothing is sent or read",
    "stream_testnet": "responses are those of the testnet",
    "subscribe_refused": "a subscription is answered with an error",
    "channel_missing": "a subscription leaves out a channel",
    "heartbeat_unanswered": "`public/test` gets no response",
    "stream_refused": "a new connection gets HTTP 503",
}
STREAM_FAULTS: Final = TICK_FAULTS | CONNECTION_FAULTS
"""The faults of the stream by name. Those of a tick end after `times` ticks, those of a connection when they are cleared."""


@dataclass(frozen=True)
class ServedTick:
    """A valid tick that was sent."""

    ticker: str
    at_ms: int
    price: str


@dataclass
class _Connection:
    socket: web.WebSocketResponse
    sent_until: dict[str, int] = field(default_factory=dict)
    """The last second whose tick was sent, by subscribed index."""
    held: list[tuple[str, int, Decimal]] = field(default_factory=list)


@lru_cache
def offset_ms(ticker: str) -> int:
    """Returns when in each second the index is published, in milliseconds."""
    return int.from_bytes(hashlib.sha256(ticker.encode()).digest()[:2]) % 1_000


class IndexStream:
    """The WebSocket server of the simulator."""

    def __init__(self, names: Callable[[], tuple[str, ...]], now_us: Callable[[], int], faults: list[Fault]) -> None:
        self._names = names
        self._now_us = now_us
        self._faults = faults
        self.served: list[ServedTick] = []
        self.connection_count = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serves one connection until it ends."""
        if self._is_active("stream_refused"):
            return web.Response(status=503)
        socket = web.WebSocketResponse(autoclose=True, compress=False)
        await socket.prepare(request)
        self.connection_count += 1
        connection = _Connection(socket)
        ticking = asyncio.create_task(self._send_ticks(connection))
        try:
            async for message in socket:
                while self._is_active("stream_half_open"):  # noqa: ASYNC110  a fault is removed without an event
                    await asyncio.sleep(POLL_INTERVAL_S)
                if message.type is WSMsgType.TEXT:
                    await self._respond(connection, json.loads(message.data))
        except ConnectionError:
            pass  # the client is gone
        finally:
            ticking.cancel()
        return socket

    def _is_active(self, name: str, index: str | None = None) -> bool:
        return any(fault.name == name and fault.index in (None, index) and fault.times != 0 for fault in self._faults)

    def _consume(self, index: str) -> str:
        """Returns the fault of the next tick; empty if there is none."""
        found = (fault for fault in self._faults if fault.name in TICK_FAULTS and fault.consume(METHOD, index))
        return next((fault.name for fault in found), "")

    async def _respond(self, connection: _Connection, request: dict[str, Any]) -> None:
        us_in, method = self._now_us(), request.get("method")
        channels = [str(one).removeprefix(CHANNEL_PREFIX) for one in request.get("params", {}).get("channels", [])]
        payload: dict[str, Any] = {"result": "ok"}
        if method == "public/test":
            if self._is_active("heartbeat_unanswered"):
                return
            payload = {"result": {"version": "1.2.26"}}
        elif method == "public/subscribe":
            payload = self._subscribe(connection, channels)
        elif method == "public/unsubscribe":
            for name in channels:
                connection.sent_until.pop(name, None)
            payload = {"result": [CHANNEL_PREFIX + name for name in channels]}
        us_out = self._now_us()
        envelope = {"jsonrpc": "2.0", "id": request.get("id"), **payload, "usIn": us_in, "usOut": us_out}
        await self._send(connection, envelope | {"usDiff": us_out - us_in, "testnet": self._is_active("stream_testnet")})

    def _subscribe(self, connection: _Connection, channels: list[str]) -> dict[str, Any]:
        if self._is_active("subscribe_refused"):
            return {"error": {"code": 10028, "message": "too_many_requests"}}
        found = [name for name in channels if name in self._names() and not self._is_active("channel_missing", name)]
        for name in found:
            connection.sent_until.setdefault(name, self._due_second(name))
        return {"result": [CHANNEL_PREFIX + name for name in found]}

    def _due_second(self, name: str) -> int:
        """Returns the last second whose tick is due."""
        return (self._now_us() // 1_000 - offset_ms(name)) // 1_000

    async def _send_ticks(self, connection: _Connection) -> None:
        while not connection.socket.closed:
            try:
                for name, sent_until in list(connection.sent_until.items()):
                    due = self._due_second(name)
                    connection.sent_until[name] = max(due, sent_until)
                    for second in range(max(sent_until, due - 60) + 1, due + 1):
                        await self._send_tick(connection, name, second * 1_000 + offset_ms(name), market.price(name, second))
            except (ConnectionError, RuntimeError):
                return  # the client is gone
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _send_tick(self, connection: _Connection, name: str, at_ms: int, price: Decimal) -> None:
        fault = self._consume(name)
        if fault in INVALID_TICKS:
            await self._send_text(connection, INVALID_TICKS[fault](name, at_ms, price))
        elif fault == "stream_close":
            await connection.socket.close()
        elif fault == "tick_out_of_order":
            connection.held.append((name, at_ms, price))
        elif fault != "tick_dropped":
            swings = range(-FLOOD_TICKS // 2, FLOOD_TICKS // 2) if fault == "tick_flood" else ()
            ticks = [(name, at_ms - FLOOD_TICKS - swing, price + price * swing / 1_000_000) for swing in swings]
            ticks += [(name, at_ms, price)] * (2 if fault == "tick_duplicated" else 1)
            if fault == "tick_replayed":
                ticks.append((name, at_ms - 5_000, market.price(name, at_ms // 1_000 - 5)))
            ticks += [held for held in connection.held if held[0] == name]
            connection.held = [held for held in connection.held if held[0] != name]
            for tick in ticks:
                await self._send_valid(connection, *tick)

    async def _send_valid(self, connection: _Connection, name: str, at_ms: int, price: Decimal) -> None:
        if not self._is_active("stream_silent") and not self._is_active("stream_half_open"):
            self.served.append(ServedTick(name, at_ms, f"{price:f}"))
            await self._send_text(connection, _tick_text(name, name, at_ms, f"{price:f}"))

    async def _send(self, connection: _Connection, message: dict[str, Any]) -> None:
        await self._send_text(connection, orjson.dumps(message).decode())

    async def _send_text(self, connection: _Connection, text: str) -> None:
        if not self._is_active("stream_silent") and not self._is_active("stream_half_open"):
            await connection.socket.send_str(text)


def _tick_text(channel: str, index: str, at_ms: int, price: str) -> str:
    data = f'{{"timestamp":{at_ms},"price":{price},"index_name":"{index}"}}'
    params = f'{{"channel":"{CHANNEL_PREFIX}{channel}","data":{data}}}'
    return f'{{"jsonrpc":"2.0","method":"subscription","params":{params}}}'


INVALID_TICKS: Final[dict[str, Callable[[str, int, Decimal], str]]] = {
    "tick_zero": lambda name, at_ms, _: _tick_text(name, name, at_ms, "0"),
    "tick_nan": lambda name, at_ms, _: _tick_text(name, name, at_ms, "NaN"),
    "tick_wrong_index": lambda name, at_ms, price: _tick_text(name, "another_index", at_ms, f"{price * 2:f}"),
    "tick_late": lambda name, at_ms, price: _tick_text(name, name, at_ms - SIX_HOURS_MS, f"{price * 2:f}"),
    "tick_future": lambda name, at_ms, price: _tick_text(name, name, at_ms + SIX_HOURS_MS, f"{price * 2:f}"),
}
"""The message that is sent instead of a tick, by fault."""
