"""GraphQL over HTTP, and GraphiQL for whoever comes with a browser."""

from functools import cache
from pathlib import Path
from typing import Any

import orjson
from cross_web import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL

from graph.http.caller import context_of
from graph.schema.context import Context
from graph.schema.executable import Schema

STATIC = Path(__file__).parent.parent / "static"


# ReDoc would fetch its maker's logo, and run its search in a worker made of a blob.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
)


def page(name: str) -> HTMLResponse:
    """A page of ours, which may use nothing from another host."""
    return HTMLResponse(_html(name), headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})


@cache
def _html(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


class GraphQLEndpoint(GraphQL[Context, None]):
    """Strawberry's endpoint with our context, our page and a fast encoder."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema, graphql_ide="graphiql", subscription_protocols=())

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return context_of(request)

    async def render_graphql_ide(self, request: Request) -> Response:
        return page("graphiql.html")

    def encode_json(self, data: object) -> bytes:
        return orjson.dumps(data)

    def parse_json(self, data: str | bytes) -> Any:
        value = super().parse_json(data)
        if not isinstance(value, dict | list):
            raise HTTPException(400, "Send a JSON object with a `query`")
        return value

    def decode_json(self, data: str | bytes) -> Any:
        return orjson.loads(data)
