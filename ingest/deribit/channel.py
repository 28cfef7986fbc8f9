"""The protocol of Deribit's index channels over WebSocket, without I/O: received texts in; ticks, and messages to send, out.

Sources: https://docs.deribit.com (public/subscribe, public/set_heartbeat, deribit_price_index). As observed by other clients, a
channel that does not exist is missing in the response to `subscribe`, and an unanswered `test_request` ends the connection.
"""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from db.rows import Reason
from ingest.deribit.protocol import load_json
from ingest.errors import PermanentError, RetryableError
from ingest.ticks import ClockReading, StreamMessage, Tick, TickRejection, parse_price

CHANNEL_PREFIX: Final = "deribit_price_index."
MAX_MESSAGE_BYTES: Final = 1 << 20
GROUP_SIZE: Final = 20
"""Channels of one `subscribe`."""
SUBSCRIBE_INTERVAL_S: Final = 0.5
"""Time between two `subscribe` messages, far below the rate that Deribit allows."""
HEARTBEAT_INTERVAL_S: Final = 10
"""Deribit's minimum."""
CLOCK_INTERVAL_S: Final = 10.0
"""How often the exchange's clock is read."""
RESPONSE_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 10.0
"""A connection with subscribed channels is dead after this time without any message."""
MAX_CHANNEL_SILENCE_S: Final = 30.0
"""A channel is subscribed again after this time without a tick, while the connection is alive."""
REFUSED_INTERVAL_S: Final = 60.0
"""How soon a channel that Deribit left out is requested again."""


@dataclass
class _Request:
    method: str
    channels: tuple[str, ...]
    sent_at: float
    sent_us: int


class ChannelSubscriptions:
    """One connection: what is subscribed, what was requested, and when each channel was heard.

    `now` is always a monotonic time in seconds, `now_us` the local clock in UNIX microseconds.
    """

    def __init__(self, now: float) -> None:
        self._ids = itertools.count(1)
        self._pending: dict[int, _Request] = {}
        self._requested_tickers: tuple[str, ...] = ()
        self._last_tick_at: dict[str, float] = {}
        """When each subscribed channel was heard last; first the time of its confirmation."""
        self._retry_at: dict[str, float] = {}
        """When a channel that Deribit left out is requested again."""
        self._subscribed_at = -SUBSCRIBE_INTERVAL_S
        self._clock_requested_at = -CLOCK_INTERVAL_S
        self._last_message_at = now
        self._wants_heartbeat = True
        self._must_respond = False
        self.refused: set[str] = set()
        """Tickers whose channel does not exist, as far as Deribit says."""

    @property
    def subscribed(self) -> Collection[str]:
        """The tickers whose channels are confirmed."""
        return self._last_tick_at.keys()

    def set_tickers(self, names: Sequence[str]) -> None:
        """Sets the tickers to subscribe. `due_messages` returns the messages that lead there."""
        self._requested_tickers = tuple(names)
        self.refused &= set(names)

    def due_messages(self, now: float, now_us: int) -> list[str]:
        """Returns the messages to send now. Raises RetryableError if the connection is silent or a request has no response."""
        self._require_alive(now)
        messages = []
        if self._wants_heartbeat:
            self._wants_heartbeat = False
            messages.append(self._request("public/set_heartbeat", now, now_us, interval=HEARTBEAT_INTERVAL_S))
        if self._must_respond or now - self._clock_requested_at >= CLOCK_INTERVAL_S:
            self._must_respond, self._clock_requested_at = False, now
            messages.append(self._request("public/test", now, now_us))
        if now - self._subscribed_at >= SUBSCRIBE_INTERVAL_S:
            message = self._next_subscription(now, now_us)
            if message is not None:
                self._subscribed_at = now
                messages.append(message)
        return messages

    def receive(self, text: str, now: float, now_us: int) -> StreamMessage:
        """Processes a message. Raises RetryableError or PermanentError if the connection must end."""
        self._last_message_at = now
        received = StreamMessage()
        try:
            message = load_json(text)
        except (ValueError, RecursionError):
            received.rejections.append(TickRejection.INVALID)  # one message: the connection goes on
            return received
        match message:
            case {"method": "subscription", "params": {"channel": str(channel), "data": data}}:
                self._receive_tick(channel, data, now, now_us, received)
            case {"method": "heartbeat", "params": {"type": "test_request"}}:
                self._must_respond = True
            case {"method": _}:
                pass
            case {"id": int(number)} if number in self._pending:
                self._receive_response(self._pending.pop(number), message, now, now_us, received)
            case _:
                received.rejections.append(TickRejection.INVALID)
        return received

    def _require_alive(self, now: float) -> None:
        overdue = next((one for one in self._pending.values() if now - one.sent_at > RESPONSE_TIMEOUT_S), None)
        if overdue is not None:
            raise RetryableError(f"no response to {overdue.method} within {RESPONSE_TIMEOUT_S:g} s", Reason.TIMEOUT)
        if self._last_tick_at and now - self._last_message_at > IDLE_TIMEOUT_S:
            raise RetryableError(f"no message within {IDLE_TIMEOUT_S:g} s", Reason.TIMEOUT)

    def _next_subscription(self, now: float, now_us: int) -> str | None:
        """Returns the next message that brings the subscriptions closer to what is wanted; None if nothing is due."""
        requested = {name for request in self._pending.values() for name in request.channels}
        unwanted = [name for name in self._last_tick_at if name not in self._requested_tickers]
        # A channel can be silent although the connection is alive. Deribit ignores a second subscription, so the client
        # unsubscribes first.
        silent = [name for name, heard_at in self._last_tick_at.items() if now - heard_at > MAX_CHANNEL_SILENCE_S]
        if leaving := [name for name in dict.fromkeys([*unwanted, *silent]) if name not in requested][:GROUP_SIZE]:
            for name in leaving:
                del self._last_tick_at[name]
            return self._request("public/unsubscribe", now, now_us, leaving)
        missing = [
            name
            for name in self._requested_tickers
            if name not in self._last_tick_at and name not in requested and now >= self._retry_at.get(name, 0.0)
        ][:GROUP_SIZE]
        return self._request("public/subscribe", now, now_us, missing) if missing else None

    def _request(self, method: str, now: float, now_us: int, channels: Sequence[str] = (), **params: object) -> str:
        number = next(self._ids)
        self._pending[number] = _Request(method, tuple(channels), now, now_us)
        if channels:
            params["channels"] = [CHANNEL_PREFIX + name for name in channels]
        return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def _receive_response(
        self, request: _Request, message: Mapping[str, Any], now: float, now_us: int, received: StreamMessage
    ) -> None:
        if message.get("testnet") is True:
            raise PermanentError(
                "DERIBIT_WS_URL: the stream is from Deribit's testnet, whose prices are not real: set it to the production API",
                Reason.TESTNET,
            )
        if type(message.get("usOut")) is int:
            received.clock = ClockReading(message["usOut"], request.sent_us, now_us)
        if "error" in message:
            for name in request.channels:
                self._retry_at[name] = now + REFUSED_INTERVAL_S
            if request.method != "public/subscribe":
                raise RetryableError(f"Deribit refused {request.method}: {str(message['error'])[:200]}", Reason.REFUSED)
        elif request.method == "public/subscribe":
            result = message.get("result")
            confirmed = {str(one).removeprefix(CHANNEL_PREFIX) for one in result} if isinstance(result, list) else set()
            for name in request.channels:
                if name in confirmed:
                    self._last_tick_at[name] = now
                    self.refused.discard(name)
                else:
                    self._retry_at[name] = now + REFUSED_INTERVAL_S
                    self.refused.add(name)

    def _receive_tick(self, channel: str, data: Any, now: float, now_us: int, received: StreamMessage) -> None:
        name = channel.removeprefix(CHANNEL_PREFIX)
        if name not in self._last_tick_at:
            received.rejections.append(TickRejection.NOT_SUBSCRIBED)
            return
        self._last_tick_at[name] = now
        try:
            received.ticks.append(_parse_tick(name, data, now_us))
        except ValueError:
            received.rejections.append(TickRejection.INVALID)


def stream_url(rpc_url: str) -> str:
    """Returns the WebSocket address that belongs to the address of the HTTP API: `wss://www.deribit.com/ws/api/v2`."""
    scheme, _, rest = rpc_url.partition("://")
    host, _, path = rest.partition("/")
    return f"{'wss' if scheme == 'https' else 'ws'}://{host}/ws/{path}"


def _parse_tick(name: str, data: Any, arrived_us: int) -> Tick:
    """Returns the tick of an index. Raises ValueError if the data is anything else."""
    match data:
        case {"timestamp": int(at_ms), "price": (Decimal() | int()) as price, "index_name": index} if index == name:
            if at_ms < 0 or isinstance(price, bool):
                raise ValueError("the timestamp or the price is not a positive number")
            return Tick(name, at_ms, parse_price(price), arrived_us)
    raise ValueError("the data is not a tick of this index")
