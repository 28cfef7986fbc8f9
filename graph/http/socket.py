"""GraphQL over WebSocket: the graphql-transport-ws protocol, by Strawberry, with our bounds, errors and keys.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

from collections.abc import AsyncGenerator, Collection
from datetime import timedelta
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from strawberry.asgi import ASGIWebSocketAdapter, GraphQL
from strawberry.http.exceptions import NonJsonMessageReceived, NonTextMessageReceived
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler, Operation
from strawberry.subscriptions.protocols.graphql_transport_ws.types import Message

from graph.http.asked import BODY_MOST
from graph.http.caller import context_of
from graph.schema.context import Context
from graph.schema.executable import RefusedError, Schema

GREETED_WITHIN: Final = timedelta(seconds=10)
OPERATIONS_MOST: Final = 100
"""Of one connection at once."""


class Adapter(ASGIWebSocketAdapter):
    """Messages as text, none longer than a body may be."""

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        try:
            async for text in self.ws.iter_text():
                if len(text) > BODY_MOST:
                    await self.ws.close(1009, f"a message may have {BODY_MOST} characters")
                    return
                yield orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise NonJsonMessageReceived from error
        except KeyError as error:  # bytes
            raise NonTextMessageReceived from error

    async def send_json(self, message: Any) -> None:
        await self.ws.send_text(orjson.dumps(message).decode())


class Handler(BaseGraphQLTransportWSHandler[Context, None]):
    """One connection. A bad operation gets its error, and the connection goes on."""

    async def handle_message(self, message: Message) -> None:
        if not _is_message(message):
            await self.handle_invalid_message("A message is an object with a type, a subscribe one with an id and a payload")
            return
        await super().handle_message(message)

    async def run_operation(self, operation: Operation[Context, None]) -> None:
        schema: Any = self.schema
        try:
            result, _ = await schema.answer(operation.query, operation.variables or {}, operation.operation_name, self.context)
        except RefusedError as refused:
            await operation.send_initial_errors(refused.errors)
            return
        await operation.send_next(result)
        await operation.send_operation_message({"id": operation.id, "type": "complete"})


class SocketEndpoint(GraphQL[Context, None]):
    """Connections of the subprotocol `graphql-transport-ws` from allowed origins; others are refused."""

    websocket_adapter_class = Adapter
    graphql_transport_ws_handler_class = Handler

    def __init__(self, schema: Schema, origins: Collection[str]) -> None:
        super().__init__(
            schema,
            subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL],
            connection_init_wait_timeout=GREETED_WITHIN,
            max_subscriptions_per_connection=OPERATIONS_MOST,
            allowed_origins=list(origins),
        )

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return context_of(request)


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
        and isinstance(payload.get("variables") or {}, dict)
        and isinstance(payload.get("operationName") or "", str)
    )
