"""Answers as server-sent events: the distinct connections mode of graphql-sse, which EventSource and curl understand as well.

https://github.com/enisdenjo/graphql-sse/blob/master/PROTOCOL.md
"""

import asyncio
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from graph.engine.topics import LeavingError
from graph.errors import ApiError
from graph.http.admission import Slots, held_open
from graph.http.middleware import STREAM
from graph.http.negotiation import EVENTS
from graph.schema.executable import END, RefusedError, Subscribed

QUIET_S: Final = 12.0
"""After so long without an event a comment is sent, so that nobody on the way takes the connection for dead."""
COME_BACK_MS: Final = 1_000
HEADERS: Final = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"}
COMPLETE: Final = "event: complete\ndata:\n\n"


def single(body: dict[str, Any]) -> Response:
    """The one answer to a query or a mutation."""
    return Response(f"event: next\ndata: {orjson.dumps(body).decode()}\n\n{COMPLETE}", headers=HEADERS, media_type=EVENTS)


def come_back(why: str) -> Response:
    """For what cannot be told now: a stream that ends, so that the client comes back. At a status an EventSource gives up."""
    return Response(f": {why}\nretry: {COME_BACK_MS}\n\n", headers=HEADERS, media_type=EVENTS)


class Stream(Response):
    """The answers to a subscription. It holds a place among the connections, not among the requests."""

    media_type = EVENTS

    def __init__(self, subscribed: Subscribed, connections: Slots) -> None:
        self.status_code = HTTPStatus.OK
        self.background = None
        self.init_headers(HEADERS)
        self._subscribed = subscribed
        self._connections = connections
        self._is_quiet = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["kind"] = STREAM
        with held_open(scope, self._connections):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._send(send, f"retry: {COME_BACK_MS}\n\n")
            keeping = asyncio.create_task(self._keep_open(send))
            try:
                await self._tell(send)
            finally:
                keeping.cancel()
            await send({"type": "http.response.body", "body": b""})

    async def _tell(self, send: Send) -> None:
        begin = f"event: next\ndata: {self._subscribed.begin}"
        try:
            async with aclosing(self._subscribed.events) as events:
                async for event in events:
                    await self._send(send, f"id: {event.position}\n{begin}{event.text}{END}\n\n")
        except LeavingError:
            return  # without `complete`, so that the client comes back
        except ApiError as error:
            body = orjson.dumps({"errors": [one.formatted for one in RefusedError(error).errors]}).decode()
            await self._send(send, f"event: next\ndata: {body}\n\n")
        await self._send(send, COMPLETE)

    async def _keep_open(self, send: Send) -> None:
        while True:
            self._is_quiet = True
            await asyncio.sleep(QUIET_S / 2)
            if self._is_quiet:
                await self._send(send, ":\n\n")

    async def _send(self, send: Send, text: str) -> None:
        self._is_quiet = False
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
