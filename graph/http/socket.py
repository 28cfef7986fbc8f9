"""GraphQL over WebSocket: Strawberry's graphql-transport-ws handler with limits, error codes and API keys.

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

from graph.engine.topics import ShuttingDownError
from graph.errors import ApiError, BadRequestError, BusyError, InternalError, RateLimitedError
from graph.http.admission import ConcurrencyLimiter, timeout_error
from graph.http.caller import Authenticator, address_of, context_of
from graph.http.problems import error_response
from graph.http.request import MAX_BODY_BYTES, parse_json
from graph.http.request_state import state_of
from graph.schema.context import Context
from graph.schema.executable import RESPONSE_SUFFIX, RequestRejectedError, Schema, SubscriptionStream, to_graphql_errors

CONNECTION_INIT_TIMEOUT: Final = timedelta(seconds=10)
MAX_OPERATIONS: Final = 100
"""Maximum concurrent operations of one connection."""
SERVICE_RESTART: Final = 1012
"""WebSocket close code "service restart": clients reconnect."""
MAX_REASON_BYTES: Final = 123
"""Maximum length of a close reason (RFC 6455, 5.5)."""

log = logging.getLogger(__name__)
logging.getLogger("strawberry.ws").setLevel(logging.ERROR)  # this module logs a rejected origin with the setting to change


class SocketAdapter(ASGIWebSocketAdapter):
    """Reads text messages up to the size limit of an HTTP body."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        while self.ws.application_state is not WebSocketState.DISCONNECTED:
            try:
                text = await self.ws.receive_text()
            except WebSocketDisconnect:
                return
            except KeyError as error:  # the message is binary
                raise NonTextMessageReceived from error
            if len(text) > MAX_BODY_BYTES:
                await self.ws.close(1009, f"Message exceeds the limit of {MAX_BODY_BYTES} characters")
                return
            try:
                message = parse_json(text, "A message")
            except BadRequestError as error:
                raise NonJsonMessageReceived from error
            # Many clients send `payload: null` instead of no payload.
            if isinstance(message, dict) and message.get("payload") is None:
                message = {name: value for name, value in message.items() if name != "payload"}
            yield message

    async def close(self, code: int, reason: str) -> None:
        await super().close(code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))


class SocketHandler(BaseGraphQLTransportWSHandler[Context, None]):
    """Handles one connection. A failed operation gets an error message; the connection stays open."""

    _active_subscriptions = 0

    async def handle_message(self, message: Message) -> None:
        if not _is_message(message):
            await self.handle_invalid_message("A message must have a type; a subscribe message also an id and a payload")
            return
        await super().handle_message(message)

    async def handle_connection_init(self, message: ConnectionInitMessage) -> None:
        """Reads the API key from the payload, because browsers cannot set headers. The headers of the upgrade also count."""
        payload = message.get("payload")
        if not self.connection_init_received and isinstance(payload, dict):
            self.context = self._endpoint.build_context(self._socket, payload)
        await super().handle_connection_init(message)

    async def handle_subscribe(self, message: SubscribeMessage) -> None:
        if self.connection_acknowledged and len(self.operations) >= MAX_OPERATIONS:
            overload_error = BusyError(f"Limit reached: {MAX_OPERATIONS} operations on this connection. Wait for one to end.")
            await self.send_message(
                {
                    "id": message["id"],
                    "type": "error",
                    "payload": [error.formatted for error in to_graphql_errors(overload_error)],
                }
            )
            return
        await super().handle_subscribe(message)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        """Executes one operation, or sends the events of a subscription until the client or the server ends it."""
        try:
            stream = await self._execute(operation)
            if stream is not None:
                with self._endpoint.subscriptions.acquire(address_of(self._socket.scope)):
                    await self._send_events(operation, stream)
        except ShuttingDownError:
            if not self._active_subscriptions:  # the last subscription of the connection closes it
                await self.websocket.close(SERVICE_RESTART, "Service restart: reconnect")
        except RequestRejectedError as rejection:
            await operation.send_initial_errors(rejection.errors)
        except ApiError as error:
            await operation.send_initial_errors(to_graphql_errors(error))
        except TimeoutError:
            await self.websocket.close(1013, "The client did not read the response")
        except WebSocketDisconnected:
            raise
        except Exception:
            log.exception("unexpected error in an operation over WebSocket")
            internal_error = InternalError(state_of(self._socket.scope).request_id)
            await operation.send_initial_errors(to_graphql_errors(internal_error))

    async def _execute(self, operation: Operation[Context, None]) -> SubscriptionStream | None:
        """Executes an operation and sends its result; for a subscription, returns the event stream.

        The request slot and the timeout apply until the result is sent. Raises TimeoutError if the client does not read it.
        """
        schema: Any = self.schema
        result = None
        try:
            with self._endpoint.slots.acquire(address_of(self._socket.scope)):
                async with asyncio.timeout(self._endpoint.request_timeout_s):
                    self.context.charge(1, already_charged=0)
                    prepared = await schema.prepare(
                        operation.query, operation.variables or {}, operation.operation_name or None, self.context
                    )
                    self.context.charge(prepared.cost)
                    if prepared.is_subscription:
                        stream: SubscriptionStream = await schema.start_subscription(prepared, self.context)
                        return stream
                    result = await schema.execute_operation(prepared, self.context.for_next_operation())
                    await operation.send_next(result)
                    await operation.send_operation_message({"id": operation.id, "type": "complete"})
                    return None
        except TimeoutError:
            if result is not None:
                raise
            raise timeout_error(self._endpoint.request_timeout_s) from None

    async def _send_events(self, operation: Operation[Context, None], stream: SubscriptionStream) -> None:
        """Sends each event of a subscription. Builds the text around the events only once."""
        response_prefix = f'{{"id":{orjson.dumps(operation.id).decode()},"type":"next","payload":{stream.response_prefix}'
        response_suffix = f"{RESPONSE_SUFFIX}}}"
        send = self._socket.send
        self._active_subscriptions += 1
        try:
            async with aclosing(stream.events) as events:
                async for event in events:
                    await send({"type": "websocket.send", "text": f"{response_prefix}{event.text}{response_suffix}"})
        except WebSocketDisconnect as error:
            raise WebSocketDisconnected from error
        finally:
            self._active_subscriptions -= 1

    @property
    def _endpoint(self) -> "SocketEndpoint":
        endpoint: SocketEndpoint = self.view  # type: ignore[assignment]  # Strawberry types it as a general view
        return endpoint

    @property
    def _socket(self) -> WebSocket:
        socket: WebSocket = self.websocket.ws  # type: ignore[attr-defined]  # the adapter wraps a Starlette WebSocket
        return socket


class SocketEndpoint(GraphQL[Context, None]):
    """Accepts connections with the subprotocol `graphql-transport-ws` from allowed origins.

    The limiter `connections` counts the connections, `slots` the running operations, `subscriptions` the subscriptions. An
    operation must finish within `request_timeout_s`.
    """

    websocket_adapter_class = SocketAdapter
    graphql_transport_ws_handler_class = SocketHandler

    def __init__(
        self,
        schema: Schema,
        authenticator: Authenticator,
        slots: ConcurrencyLimiter,
        connections: ConcurrencyLimiter,
        subscriptions: ConcurrencyLimiter,
        *,
        origins: Collection[str],
        request_timeout_s: float,
    ) -> None:
        super().__init__(
            schema,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
            connection_init_wait_timeout=CONNECTION_INIT_TIMEOUT,
            allowed_origins=list(origins),
        )
        self._authenticator = authenticator
        self._connections = connections
        self.slots = slots
        self.subscriptions = subscriptions
        self.request_timeout_s = request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._connections.acquire(address_of(scope)):
                await super().__call__(scope, receive, send)
        except (BusyError, RateLimitedError) as error:
            await WebSocket(scope, receive, send).send_denial_response(error_response(scope, error))

    def is_websocket_origin_allowed(self, request: Any, origin: str) -> bool:
        """Whether a page of another origin may connect. Logs which setting allows it if it may not."""
        allowed = super().is_websocket_origin_allowed(request, origin)
        if not allowed:
            log.warning(
                "rejected a WebSocket from origin %.200s to host %.200s. Add the origin to CORS_ORIGINS. Behind a proxy, add "
                "the proxy to TRUSTED_PROXIES and let it forward the client's Host as Host or X-Forwarded-Host.",
                *(origin, request.headers.get("host", "")),
            )
        return allowed

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return context_of(request)

    def encode_json(self, data: object) -> str:
        """Returns a message as JSON text."""
        return orjson.dumps(data).decode()

    async def on_ws_connect(self, context: Context) -> Any:
        """Accepts the connection. Raises ConnectionRejectionError without read permission: close code 4403."""
        if not context.may_read:
            raise ConnectionRejectionError
        return UNSET

    def build_context(self, socket: WebSocket, payload: dict[str, object]) -> Context:
        """Returns the context of a connection, with the key from the payload of its first message if it has one."""
        headers = {name.lower(): value for name, value in payload.items() if isinstance(value, str)}
        has_key = "authorization" in headers or "x-api-key" in headers
        return context_of(socket, self._authenticator.identify(socket.scope, headers) if has_key else None)


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
