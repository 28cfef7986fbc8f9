"""GraphQL over HTTP (https://graphql.github.io/graphql-over-http/draft/), and GraphiQL for whoever comes with a browser."""

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from graphql import GraphQLError, OperationType
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from db.errors import DatabaseError
from graph.engine import freshness, limits
from graph.errors import (
    ApiError,
    MethodError,
    NotAcceptableError,
    PersistedQueryNotFoundError,
    TooComplexError,
    UnavailableError,
)
from graph.http import answers, asked, events
from graph.http.admission import Slots
from graph.http.asked import Asked
from graph.http.caching import keeping
from graph.http.caller import context_of
from graph.http.negotiation import EVENTS, GRAPHQL, JSON, answer_type, takes_events, wants_page
from graph.http.persisted import PersistedQueries
from graph.http.problems import graphql_answer, on_known_error
from graph.schema.context import Context
from graph.schema.executable import Prepared, RefusedError, Schema

STATIC = Path(__file__).parent.parent / "static"
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS")
ALLOW: Final = ", ".join(METHODS)

NOT_HERE: Final = (
    "A subscription has many answers: ask for it over WebSocket (graphql-transport-ws), or with `Accept: text/event-stream`"
)

# ReDoc would fetch its maker's logo, and run its search in a worker made of a blob.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
)


def page(name: str, policy: str = CONTENT_SECURITY_POLICY, status: int = HTTPStatus.OK) -> HTMLResponse:
    """A page of ours, which may use nothing from another host."""
    headers = {"Content-Security-Policy": policy, "Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(_html(name), status, headers)


@cache
def _html(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


class GraphQLEndpoint:
    """An ASGI application: queries by GET and POST, mutations by POST, each answered as the client accepts it.

    `closed`: reading needs a key, so nothing on the way may keep an answer for others.
    """

    def __init__(self, schema: Schema, connections: Slots, *, graphiql: bool, closed: bool) -> None:
        """`connections`: places for those that stay open."""
        self._schema = schema
        self._connections = connections
        self._graphiql = graphiql
        self._closed = closed
        self._persisted = PersistedQueries()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except (ApiError, DatabaseError) as error:
            response = await on_known_error(request, error)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        """The page, or the answer. Raises ApiError where there can be neither."""
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ALLOW})
        if request.method not in METHODS:
            raise MethodError(f"GraphQL is asked by GET or POST, not by {request.method[:20]}", {"Allow": ALLOW})
        accept = request.headers.get("Accept", "")
        if self._graphiql and request.method != "POST" and wants_page(accept):
            return page("graphiql.html")
        media = answer_type(accept) or (EVENTS if takes_events(accept) else None)
        if media is None:
            raise NotAcceptableError(f"Accept: answers are {GRAPHQL}, {JSON} or {EVENTS}, in utf-8")
        is_post = request.method == "POST"
        sent = await asked.from_body(request) if is_post else asked.from_url(request.query_params)
        try:
            context = context_of(request)
            text = self._persisted.text_of(sent)
            prepared = await self._schema.prepare(text, sent.variables, sent.operation_name, context)
            self._persisted.remember(sent)
            if prepared.is_subscription:
                return await self._subscribed(request, context, prepared, takes_events=takes_events(accept))
            question = prepared.document.selections, prepared.operation, prepared.variables, context.now()
            stays = freshness.is_only_of_what_is_stored(*question)
            answers.keep(request.scope, wanted=stays and context.is_current)
            if is_post:
                context.spend(prepared.cost)
                return await self._answered(request, context, prepared, sent, media, {})
            return await self._kept(request, context, prepared, sent, media, stays=stays)
        except RefusedError as refused:
            answers.keep(request.scope, wanted=False)
            errors = refused.errors
        except (PersistedQueryNotFoundError, TooComplexError) as error:
            errors = RefusedError(error).errors
        if media == EVENTS:  # a status that is not 200 keeps an EventSource from coming back
            media = GRAPHQL
        # As JSON with 200, which older clients expect; they read no body of another.
        status = HTTPStatus.BAD_REQUEST if media == GRAPHQL else HTTPStatus.OK
        return graphql_answer({"errors": [error.formatted for error in errors]}, media, status)

    async def _subscribed(self, request: Request, context: Context, prepared: Prepared, *, takes_events: bool) -> Response:
        """A stream of the answers to a subscription."""
        answers.keep(request.scope, wanted=False)
        if not takes_events:
            raise RefusedError(GraphQLError(NOT_HERE))
        context.spend(prepared.cost)
        try:
            subscribed = await self._schema.begin(prepared, context)
        except RefusedError as refused:
            if refused.code != UnavailableError.code:
                raise
            return events.come_back(refused.errors[0].message)
        return events.Stream(subscribed, self._connections)

    async def _kept(
        self, request: Request, context: Context, prepared: Prepared, sent: Asked, media: str, *, stays: bool
    ) -> Response:
        """The answer to a GET, which caches may keep; 304 for who has it."""
        if prepared.operation.operation is not OperationType.QUERY:
            raise MethodError("By GET only queries are answered: send a mutation by POST", {"Allow": "POST"})
        context.spend(prepared.cost)
        kept = await keeping(context, prepared, media, sent.extensions, self._schema.digest, private=self._closed, stays=stays)
        headers = {**kept.headers, "Vary": "Accept, Accept-Encoding" + (", Authorization, X-API-Key" if self._closed else "")}
        if kept.is_known(request.headers.get("If-None-Match", "")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return await self._answered(request, context, prepared, sent, media, headers)

    async def _answered(
        self, request: Request, context: Context, prepared: Prepared, sent: Asked, media: str, headers: dict[str, str]
    ) -> Response:
        result = await self._schema.answer(prepared, context)
        body: dict[str, Any] = {"errors": [error.formatted for error in result.errors]} if result.errors else {}
        body["data"] = result.data
        if sent.extensions.get("cost") is True:
            body["extensions"] = {"cost": {"asked": prepared.cost, "most": limits.COST_MOST}}
        if result.errors:
            answers.keep(request.scope, wanted=False)
            headers = {}
        return events.single(body) if media == EVENTS else graphql_answer(body, media, headers=headers)
