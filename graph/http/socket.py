"""GraphQL over WebSocket: the graphql-transport-ws protocol, by Strawberry, with our bounds, errors and keys.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from strawberry.asgi import ASGIWebSocketAdapter, GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived, WebSocketDisconnected
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation
from strawberry.subscriptions.protocols.graphql_transport_ws.types import (
    ConnectionInitMessage,
    Message,
    SubscribeMessage,
)
from strawberry.types.unset import UNSET

from graph.engine.topics import LeavingError
from graph.errors import ApiError, BadRequestError, BusyError, InternalError, RateLimitedError
from graph.http.admission import Slots, took_too_long
from graph.http.asked import BODY_MOST, json_of
from graph.http.caller import Callers, address_of, context_of
from graph.http.problems import refusal
from graph.schema.context import Context
from graph.schema.executable import END, RefusedError, Schema, Subscribed

GREETED_WITHIN: Final = timedelta(seconds=10)
OPERATIONS_MOST: Final = 100
"""Of one connection at once."""
COME_BACK: Final = 1012
"""The code of a service that starts anew: clients come back after a moment."""
REASON_MOST: Final = 123
"""Bytes of the reason for which a WebSocket is closed, by RFC 6455."""

log = logging.getLogger(__name__)
logging.getLogger("strawberry.ws").setLevel(logging.ERROR)  # its warning of a refused origin names no setting of ours


class Adapter(ASGIWebSocketAdapter):
    """Messages as text, none longer than a body may be."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        while self.ws.application_state is not WebSocketState.DISCONNECTED:
            try:
                text = await self.ws.receive_text()
            except WebSocketDisconnect:
                return
            except KeyError as error:  # bytes
                raise NonTextMessageReceived from error
            if len(text) > BODY_MOST:
                await self.ws.close(1009, f"a message may have {BODY_MOST} characters")
                return
            try:
                message = json_of(text, "A message")
            except BadRequestError as error:
                raise NonJsonMessageReceived from error
            # Without a payload, as many clients say it.
            if isinstance(message, dict) and message.get("payload") is None:
                message = {name: value for name, value in message.items() if name != "payload"}
            yield message

    async def close(self, code: int, reason: str) -> None:
        await super().close(code, reason.encode()[:REASON_MOST].decode(errors="ignore"))


class Handler(BaseGraphQLTransportWSHandler[Context, None]):
    """One connection. A bad operation gets its error, and the connection goes on."""

    _telling = 0
    """Subscriptions."""

    async def handle_message(self, message: Message) -> None:
        if not _is_message(message):
            await self.handle_invalid_message("A message is an object with a type, a subscribe one with an id and a payload")
            return
        await super().handle_message(message)

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        """Takes the key out of the payload, where browsers can put it; the upgrade's headers count as well."""
        payload = message.get("payload")
        if not self.connection_init_received and isinstance(payload, dict):
            self.context = self._endpoint.context_of(self._socket, payload)
        await super().handle_connection_init(message)

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        if self.connection_acknowledged and len(self.operations) >= OPERATIONS_MOST:
            busy = BusyError(f"A connection may have {OPERATIONS_MOST} operations at once; wait for one")
            await self.send_message(
                {"id": message["id"], "type": "error", "payload": [error.formatted for error in RefusedError(busy).errors]}
            )
            return
        await super().handle_subscribe(message)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        """Answers one operation, or tells of a subscription's events until one side ends it."""
        try:
            subscribed = await self._answered(operation)
            if subscribed is not None:
                with self._endpoint.subscriptions.taken(address_of(self._socket.scope)):
                    await self._tell(operation, subscribed)
        except LeavingError:
            if not self._telling:  # the others of this connection have told what is there, too
                await self.websocket.close(COME_BACK, "Come back: this process ends")
        except RefusedError as refused:
            await operation.send_initial_errors(refused.errors)
        except ApiError as error:
            await operation.send_initial_errors(RefusedError(error).errors)
        except TimeoutError:
            await self.websocket.close(1013, "The answer was not taken")
        except WebSocketDisconnected:
            raise
        except Exception:
            log.exception("unexpected error in an operation over WebSocket")
            mistake = InternalError(self._socket.scope["request_id"])
            await operation.send_initial_errors(RefusedError(mistake).errors)

    async def _answered(self, operation: Operation[Context, None]) -> Subscribed | None:
        """Answers in a slot and with a deadline that hold until the answer was taken; the events, where it has many answers.

        Raises TimeoutError where the answer is not taken.
        """
        schema: Any = self.schema
        result = None
        try:
            with self._endpoint.slots.taken(address_of(self._socket.scope)):
                async with asyncio.timeout(self._endpoint.at_most_s):
                    self.context.spend(1, paid=0)
                    asked = await schema.prepare(
                        operation.query, operation.variables or {}, operation.operation_name or None, self.context
                    )
                    self.context.spend(asked.cost)
                    if asked.is_subscription:
                        subscribed: Subscribed = await schema.begin(asked, self.context)
                        return subscribed
                    result = await schema.answer(asked, self.context.again())
                    await operation.send_next(result)
                    await operation.send_operation_message({"id": operation.id, "type": "complete"})
                    return None
        except TimeoutError:
            if result is not None:
                raise
            raise took_too_long(self._endpoint.at_most_s) from None

    async def _tell(self, operation: Operation[Context, None], subscribed: Subscribed) -> None:
        """Sends each event, in an envelope that is written once."""
        begin = f'{{"id":{orjson.dumps(operation.id).decode()},"type":"next","payload":{subscribed.begin}'
        end = f"{END}}}"
        send = self._socket.send
        self._telling += 1
        try:
            async with aclosing(subscribed.events) as events:
                async for event in events:
                    await send({"type": "websocket.send", "text": f"{begin}{event.text}{end}"})
        except WebSocketDisconnect as error:
            raise WebSocketDisconnected from error
        finally:
            self._telling -= 1

    @property
    def _endpoint(self) -> "SocketEndpoint":
        endpoint: SocketEndpoint = self.view  # type: ignore[assignment]  # Strawberry knows it as any view
        return endpoint

    @property
    def _socket(self) -> WebSocket:
        socket: WebSocket = self.websocket.ws  # type: ignore[attr-defined]  # the adapter's is Starlette's
        return socket


class SocketEndpoint(GraphQL[Context, None]):
    """Connections of the subprotocol `graphql-transport-ws` from allowed origins; others are refused.

    Each connection takes one of the `connections`, each operation one of the `slots` and `at_most_s` seconds, each subscription
    one of the `subscriptions`.
    """

    websocket_adapter_class = Adapter
    graphql_transport_ws_handler_class = Handler

    def __init__(
        self,
        schema: Schema,
        callers: Callers,
        slots: Slots,
        connections: Slots,
        subscriptions: Slots,
        *,
        origins: Collection[str],
        at_most_s: float,
    ) -> None:
        super().__init__(
            schema,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
            connection_init_wait_timeout=GREETED_WITHIN,
            allowed_origins=list(origins),
        )
        self._callers = callers
        self._connections = connections
        self.slots = slots
        self.subscriptions = subscriptions
        self.at_most_s = at_most_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._connections.taken(address_of(scope)):
                await super().__call__(scope, receive, send)
        except (BusyError, RateLimitedError) as error:
            await WebSocket(scope, receive, send).send_denial_response(refusal(scope, error))

    def is_websocket_origin_allowed(self, request: Any, origin: str) -> bool:
        """Whether a page of another origin may connect; says what to set where not."""
        allowed = super().is_websocket_origin_allowed(request, origin)
        if not allowed:
            log.warning(
                "a page of %.200s may not connect to %.200s: name it in CORS_ORIGINS; or, where a proxy stands before the API, "
                "name that in TRUSTED_PROXIES and have it send Host or X-Forwarded-Host as its client did",
                *(origin, request.headers.get("host", "")),
            )
        return allowed

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return context_of(request)

    def encode_json(self, data: object) -> str:
        """A message as text."""
        return orjson.dumps(data).decode()

    async def on_ws_connect(self, context: Context) -> Any:
        """Lets the connection begin. Raises ConnectionRejectionError where it may not read: closed with 4403."""
        if not context.may_read:
            raise ConnectionRejectionError
        return UNSET

    def context_of(self, socket: WebSocket, payload: dict[str, object]) -> Context:
        """The context of a connection that brings its key in the payload of its first message."""
        sent = {name.lower(): value for name, value in payload.items() if isinstance(value, str)}
        brings_key = "authorization" in sent or "x-api-key" in sent
        return context_of(socket, self._callers.who(socket.scope, sent) if brings_key else None)


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return False
    if message["type"] in ("subscribe", "complete") and not isinstance(message.get("id"), str):
        return False
    if message["type"] != "subscribe":
        return True
    payload = message.get("payload")
    return (
        isinstance(payload, dict)
        and isinstance(payload.get("query"), str)
        and isinstance(payload.get("variables"), dict | None)
        and isinstance(payload.get("operationName"), str | None)
    )
