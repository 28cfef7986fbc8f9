"""Error responses: GraphQL errors, or `application/problem+json` (RFC 9457); older clients read its `detail`."""

from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from db.rows import INVALID_NAME
from graph import metrics
from graph.engine.client_errors import to_client_error
from graph.errors import ApiError
from graph.http.negotiation import JSON, response_media_type

GRAPHQL_PATH: Final = "/graphql"
DEFAULT_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Vary": "Accept, Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


class GraphQLResponse(Response):
    """A GraphQL response. It is not cacheable unless `headers` override Cache-Control. Its headers are encoded once."""

    def __init__(
        self, body: dict[str, Any], media: str, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        self.status_code = int(status)
        self.background = None
        self.body = orjson.dumps(body)
        length = (b"content-length", str(len(self.body)).encode())
        self.raw_headers = [*_encode_headers(media, tuple((headers or {}).items())), length]


@lru_cache(64)
def _encode_headers(media: str, headers: tuple[tuple[str, str], ...]) -> list[tuple[bytes, bytes]]:
    found = DEFAULT_HEADERS | dict(headers) | {"Content-Type": f"{media}; charset=utf-8"}
    return [(name.lower().encode(), value.encode()) for name, value in found.items()]


def error_response(scope: Scope, error: ApiError) -> Response:
    """Returns the error in the format of the requested path, and counts it."""
    metrics.rejected_requests.labels(error.code).inc()
    if scope["path"] != GRAPHQL_PATH:
        return _problem(error.status, str(error), error.code, error.headers)
    media = response_media_type(Headers(scope=scope).get("Accept", "")) or JSON
    body = {"errors": [{"message": str(error), "extensions": error.extensions}]}
    return GraphQLResponse(body, media, error.status, error.headers)


async def on_known_error(request: Request, error: Exception) -> Response:
    """Handles the exceptions that `graph.engine.client_errors` converts to an ApiError."""
    api_error = to_client_error(error)
    if api_error is None:
        raise error
    return error_response(request.scope, api_error)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Handles the errors of routing: unknown path, unsupported method."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers) if error.headers else {}
    phrase = HTTPStatus(error.status_code).phrase
    detail = phrase
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            detail = "This path does not exist. See /docs for the available paths."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"This path supports {headers.get('Allow', 'other methods')}."
    return _problem(error.status_code, detail, phrase.upper().replace(" ", "_"), headers)


def format_validation_error(error: ValidationError) -> str:
    """Describes the first invalid parameter: its name, its value, what is expected."""
    first: dict[str, Any] = dict(error.errors()[0])
    name = str(first["loc"][0]) if first["loc"] else "query"
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] == "missing":
        return f"{name}: is required"
    if first["type"] == "string_pattern_mismatch":
        message = INVALID_NAME
    message = message.partition(", unable to parse")[0]
    actual = repr(first["input"])
    actual = actual if len(actual) <= 60 else f"{actual[:57]}…"  # noqa: PLR2004  at most one line
    return f"{name}: {message}" if str(first["input"]) in message else f"{name}: {actual} {message}"


def _problem(status: int, detail: str, code: str, headers: dict[str, str]) -> Response:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    return Response(orjson.dumps(body), status, media_type="application/problem+json", headers=headers)
