"""Responses as server-sent events: the distinct connections mode of graphql-sse, usable with EventSource and curl.

https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md
"""

import asyncio
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from graph.engine.topics import ShuttingDownError
from graph.errors import ApiError
from graph.http.admission import ConcurrencyLimiter, hold_connection
from graph.http.middleware import STREAM_KIND
from graph.http.negotiation import EVENT_STREAM
from graph.http.request_state import state_of
from graph.schema.executable import RESPONSE_SUFFIX, SubscriptionStream, to_graphql_errors

MAX_SILENCE_S: Final = 12.0
"""Maximum seconds without data. After 6 to 12 s without data a comment is sent, so that proxies keep the connection open."""
RETRY_DELAY_MS: Final = 1_000
HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"}
COMPLETE: Final = "event: complete\ndata:\n\n"


def single_response(body: dict[str, Any]) -> Response:
    """Returns the response to a query or a mutation: one event, then `complete`."""
    return Response(f"event: next\ndata: {orjson.dumps(body).decode()}\n\n{COMPLETE}", headers=HEADERS, media_type=EVENT_STREAM)


def retry_response(reason: str) -> Response:
    """Returns a stream that ends at once, so that the client reconnects. After an error status, EventSource does not."""
    return Response(f": {reason}\nretry: {RETRY_DELAY_MS}\n\n", headers=HEADERS, media_type=EVENT_STREAM)


class EventStreamResponse(Response):
    """Streams the events of a subscription. It holds a connection slot, not a request slot."""

    media_type = EVENT_STREAM

    def __init__(self, stream: SubscriptionStream, connections: ConcurrencyLimiter) -> None:
        self.status_code = HTTPStatus.OK
        self.background = None
        self.init_headers(HEADERS)
        self._subscription = stream
        self._connections = connections
        self._is_quiet = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state_of(scope).kind = STREAM_KIND
        with hold_connection(scope, self._connections):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(send, f"retry: {RETRY_DELAY_MS}\n\n")
            keepalive_task = asyncio.create_task(self._send_keepalives(send))
            try:
                await self._send_events(send)
            finally:
                keepalive_task.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, send: Send) -> None:
        response_prefix = f"event: next\ndata: {self._subscription.response_prefix}"
        try:
            async with aclosing(self._subscription.events) as events:
                async for event in events:
                    await self._send(send, f"id: {event.position}\n{response_prefix}{event.text}{RESPONSE_SUFFIX}\n\n")
        except ShuttingDownError:
            return  # without `complete`, so that the client reconnects
        except ApiError as error:
            body = orjson.dumps({"errors": [one.formatted for one in to_graphql_errors(error)]}).decode()
            await self._send(send, f"event: next\ndata: {body}\n\n")
        await self._send(send, COMPLETE)

    async def _send_keepalives(self, send: Send) -> None:
        while True:
            self._is_quiet = True
            await asyncio.sleep(MAX_SILENCE_S / 2)
            if self._is_quiet:
                await self._send(send, ":\n\n")

    async def _send(self, send: Send, text: str) -> None:
        self._is_quiet = False
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
