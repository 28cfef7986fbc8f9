"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http/draft/), and GraphiQL for whoever comes with a browser."""

from collections.abc import Collection
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import orjson
from graphql import GraphQLError
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from graph.engine import limits
from graph.errors import BadRequestError, MethodError, NotAcceptableError, RequestError
from graph.http import asked
from graph.http.asked import Asked
from graph.http.caller import context_of
from graph.http.negotiation import GRAPHQL, JSON, answer_type, wants_page
from graph.http.socket import SocketEndpoint
from graph.schema.executable import RefusedError, Schema

STATIC = Path(__file__).parent.parent / "static"
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS")
ALLOW: Final = ", ".join(METHODS)

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


class GraphQLEndpoint:
    """An ASGI application: queries by GET and POST, mutations by POST, each answered as the client accepts it."""

    def __init__(self, schema: Schema, *, graphiql: bool, origins: Collection[str]) -> None:
        self._schema = schema
        self._graphiql = graphiql
        self._socket = SocketEndpoint(schema, origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except RequestError as error:
            media = answer_type(request.headers.get("Accept", "")) or JSON
            refusal = {"message": str(error), "extensions": error.extensions}
            response = _answer({"errors": [refusal]}, media, error.status, error.headers)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        """The page, or the answer. Raises RequestError where there can be neither."""
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ALLOW})
        if request.method not in METHODS:
            raise MethodError(f"GraphQL is asked by GET or POST, not by {request.method[:20]}", {"Allow": ALLOW})
        accept = request.headers.get("Accept", "")
        if self._graphiql and request.method != "POST" and not request.query_params and wants_page(accept):
            return page("graphiql.html")
        media = answer_type(accept)
        if media is None:
            raise NotAcceptableError(f"Accept: answers are {GRAPHQL} or {JSON}, in utf-8")
        is_post = request.method == "POST"
        query = await asked.from_body(request) if is_post else asked.from_url(request.query_params)
        return await self._answered(request, query, media)

    async def _answered(self, request: Request, query: Asked, media: str) -> Response:
        if not query.query:
            raise BadRequestError("query is missing: send the GraphQL document in it")
        get = request.method != "POST"
        try:
            result, cost = await self._schema.answer(
                query.query, query.variables, query.operation_name, context_of(request), only_queries=get
            )
        except RefusedError as refused:
            return _refused(refused.errors, media)
        body: dict[str, Any] = {"errors": [error.formatted for error in result.errors]} if result.errors else {}
        body["data"] = result.data
        if query.extensions.get("cost") is True:
            body["extensions"] = {"cost": {"asked": cost, "most": limits.COST_MOST}}
        return _answer(body, media)


def _refused(errors: list[GraphQLError], media: str) -> Response:
    """For what was not executed: no `data`. As JSON with 200, which older clients expect; they read no body of another."""
    status = HTTPStatus.BAD_REQUEST if media == GRAPHQL else HTTPStatus.OK
    return _answer({"errors": [error.formatted for error in errors]}, media, status)


def _answer(body: dict[str, Any], media: str, status: int = HTTPStatus.OK, more: dict[str, str] | None = None) -> Response:
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "X-Content-Type-Options": "nosniff"} | (more or {})
    return Response(orjson.dumps(body), status, headers | {"Content-Type": f"{media}; charset=utf-8"})
