"""The GraphQL endpoint over HTTP (https://graphql.github.io/graphql-over-http/draft/), with GraphiQL for browsers."""

from dataclasses import replace
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from graphql import GraphQLError, OperationType
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from db.errors import DatabaseError
from db.queries import version
from graph.engine import cacheability, limits
from graph.errors import (
    ApiError,
    MethodNotAllowedError,
    NotAcceptableError,
    PersistedQueryNotFoundError,
    TooComplexError,
    UnavailableError,
)
from graph.http import response_cache, sse
from graph.http.admission import ConcurrencyLimiter
from graph.http.cache_control import cache_policy
from graph.http.caller import context_of
from graph.http.negotiation import EVENT_STREAM, GRAPHQL, JSON, accepts_sse, prefers_html, response_media_type
from graph.http.persisted_queries import PersistedQueries
from graph.http.problems import GraphQLResponse, on_known_error
from graph.http.request import GraphQLRequest, parse_body, parse_query_string
from graph.http.root_path import root_path_of
from graph.schema.context import Context
from graph.schema.executable import PreparedOperation, RequestRejectedError, Schema, to_graphql_errors

STATIC_DIR = Path(__file__).parent.parent / "static"
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS")
ALLOW: Final = ", ".join(METHODS)

SUBSCRIPTION_TRANSPORT_MESSAGE: Final = (
    "A subscription needs a stream: use WebSocket (graphql-transport-ws) or send `Accept: text/event-stream`"
)

# ReDoc requires data: and blob: URLs. This policy also blocks the logo that ReDoc loads from another host.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
)


def html_page(scope: Scope, name: str, policy: str = CONTENT_SECURITY_POLICY, status: int = HTTPStatus.OK) -> HTMLResponse:
    """Returns a static page with its links under ROOT_PATH. Its policy blocks resources from other hosts."""
    headers = {"Content-Security-Policy": policy, "Vary": "Accept", "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(_read_html(name, root_path_of(scope)), status, headers)


@cache
def _read_html(name: str, root_path: str) -> str:
    return (STATIC_DIR / name).read_text(encoding="utf-8").replace('="/', f'="{root_path}/')


async def _pin_version(context: Context, request: GraphQLRequest, prepared: PreparedOperation) -> PreparedOperation:
    """Lets all fields read the current data version, if the response must state it. Returns the operation with its new cost."""
    if request.extensions.get("version") is not True:
        return prepared
    context.version = await version.current(context.db)
    cost = limits.estimate_cost(prepared.document.selections, prepared.operation, prepared.variables, reads_snapshot=True)
    limits.check_cost(cost)
    return replace(prepared, cost=cost)


class GraphQLEndpoint:
    """Executes queries and subscriptions by GET and POST, and mutations by POST. The Accept header selects the media type.

    `requires_key`: clients need an API key, so shared caches must not store responses.
    """

    def __init__(self, schema: Schema, connections: ConcurrencyLimiter, *, graphiql: bool, requires_key: bool) -> None:
        """`connections` limits the open event streams."""
        self._schema = schema
        self._connections = connections
        self._graphiql = graphiql
        self._requires_key = requires_key
        self._persisted = PersistedQueries(schema.trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except (ApiError, DatabaseError) as error:
            response = await on_known_error(request, error)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        """Returns GraphiQL or the response to an operation. Raises ApiError if it can return neither."""
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ALLOW})
        if request.method not in METHODS:
            raise MethodNotAllowedError(f"Method {request.method[:20]} is not supported. Use GET or POST.", {"Allow": ALLOW})
        accept = request.headers.get("Accept", "")
        if self._graphiql and request.method != "POST" and prefers_html(accept):
            return html_page(request.scope, "graphiql.html")
        media_type = response_media_type(accept) or (EVENT_STREAM if accepts_sse(accept) else None)
        if media_type is None:
            raise NotAcceptableError(f"Accept: the available media types are {GRAPHQL}, {JSON} and {EVENT_STREAM}, in utf-8")
        is_post = request.method == "POST"
        graphql_request = await parse_body(request) if is_post else parse_query_string(request.query_params)
        try:
            context = context_of(request)
            document = self._persisted.get_document(graphql_request)
            prepared = await self._schema.prepare(document, graphql_request.variables, graphql_request.operation_name, context)
            self._persisted.store(graphql_request)
            prepared = await _pin_version(context, graphql_request, prepared)
            if prepared.is_subscription:
                return await self._subscribe(request, context, prepared, accepts_sse=accepts_sse(accept))
            is_cacheable = (not is_post or response_cache.may_be_cached(request.scope)) and (
                cacheability.depends_only_on_stored_data(
                    prepared.document.selections, prepared.operation, prepared.variables, context.now()
                )
            )
            response_cache.set_cacheable(request.scope, cacheable=is_cacheable and context.is_current)
            if is_post:
                context.charge(prepared.cost)
                return await self._execute(request, context, prepared, graphql_request, media_type, {})
            return await self._respond_to_get(
                request, context, prepared, graphql_request, media_type, is_cacheable=is_cacheable
            )
        except RequestRejectedError as rejection:
            response_cache.set_cacheable(request.scope, cacheable=False)
            errors = rejection.errors
        except (PersistedQueryNotFoundError, TooComplexError) as error:
            errors = to_graphql_errors(error)
        if media_type == EVENT_STREAM:  # a status other than 200 keeps EventSource from repeating the request
            media_type = GRAPHQL
        # application/json has status 200: older clients read the body only with 200.
        status = HTTPStatus.BAD_REQUEST if media_type == GRAPHQL else HTTPStatus.OK
        return GraphQLResponse({"errors": [error.formatted for error in errors]}, media_type, status)

    async def _subscribe(
        self, request: Request, context: Context, prepared: PreparedOperation, *, accepts_sse: bool
    ) -> Response:
        """Returns the event stream of a subscription."""
        response_cache.set_cacheable(request.scope, cacheable=False)
        if not accepts_sse:
            raise RequestRejectedError(GraphQLError(SUBSCRIPTION_TRANSPORT_MESSAGE))
        context.charge(prepared.cost)
        try:
            stream = await self._schema.start_subscription(prepared, context)
        except RequestRejectedError as rejection:
            if rejection.code != UnavailableError.code:
                raise
            return sse.retry_response(rejection.errors[0].message)
        return sse.EventStreamResponse(stream, self._connections)

    async def _respond_to_get(
        self,
        request: Request,
        context: Context,
        prepared: PreparedOperation,
        graphql_request: GraphQLRequest,
        media_type: str,
        *,
        is_cacheable: bool,
    ) -> Response:
        """Returns the response to a GET request with caching headers; 304 if the client has it already."""
        if prepared.operation.operation is not OperationType.QUERY:
            raise MethodNotAllowedError("GET supports only queries. Send a mutation by POST.", {"Allow": "POST"})
        context.charge(prepared.cost)
        policy = await cache_policy(
            context,
            prepared,
            media_type,
            graphql_request.variables,
            graphql_request.extensions,
            self._schema.digest,
            private=self._requires_key,
            is_cacheable=is_cacheable,
        )
        headers = {
            **policy.headers,
            "Vary": "Accept, Accept-Encoding" + (", Authorization, X-API-Key" if self._requires_key else ""),
        }
        if policy.is_not_modified(request.headers.get("If-None-Match", "")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return await self._execute(request, context, prepared, graphql_request, media_type, headers)

    async def _execute(
        self,
        request: Request,
        context: Context,
        prepared: PreparedOperation,
        graphql_request: GraphQLRequest,
        media_type: str,
        headers: dict[str, str],
    ) -> Response:
        result = await self._schema.execute_operation(prepared, context)
        body: dict[str, Any] = {"errors": [error.formatted for error in result.errors]} if result.errors else {}
        body["data"] = result.data
        extensions: dict[str, Any] = {}
        if graphql_request.extensions.get("cost") is True:
            extensions["cost"] = {"asked": prepared.cost, "most": limits.MAX_COST}
        if context.version is not None:
            extensions["version"] = str(context.version)
        if extensions:
            body["extensions"] = extensions
        if result.errors:
            response_cache.set_cacheable(request.scope, cacheable=False)
            headers = {}
        return sse.single_response(body) if media_type == EVENT_STREAM else GraphQLResponse(body, media_type, headers=headers)
