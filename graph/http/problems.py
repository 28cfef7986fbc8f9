"""Refusals over HTTP: GraphQL's errors, or `application/problem+json` (RFC 9457), whose `detail` the older clients read."""

from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from db.tables import IS_NO_NAME
from graph import metrics
from graph.engine.translation import told
from graph.errors import ApiError
from graph.http.negotiation import JSON, answer_type

GRAPHQL_PATH: Final = "/graphql"


def refusal(scope: Scope, error: ApiError) -> Response:
    """The error as clients of the path read it."""
    metrics.refusals.labels(error.code).inc()
    if scope["path"] != GRAPHQL_PATH:
        return _problem(error.status, str(error), error.code, error.headers)
    media = answer_type(Headers(scope=scope).get("Accept", "")) or JSON
    body = {"errors": [{"message": str(error), "extensions": error.extensions}]}
    return graphql_answer(body, media, error.status, error.headers)


def graphql_answer(
    body: dict[str, Any], media: str, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """An answer of GraphQL over HTTP, which nobody keeps unless its headers say so."""
    usual = {"Cache-Control": "no-store", "Vary": "Accept, Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(body), status, usual | (headers or {}) | {"Content-Type": f"{media}; charset=utf-8"})


async def on_known_error(request: Request, error: Exception) -> Response:
    """For the errors that `graph.engine.translation` knows."""
    known = told(error)
    if known is None:
        raise error
    return refusal(request.scope, known)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """For what routing refuses: no such path, no such method (with Allow)."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers) if error.headers else {}
    phrase = HTTPStatus(error.status_code).phrase
    detail = phrase
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            detail = "There is nothing at this path; /docs lists what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"This path takes {headers.get('Allow', 'other methods')}."
    return _problem(error.status_code, detail, phrase.upper().replace(" ", "_"), headers)


def complaint(error: ValidationError) -> str:
    """What was wrong with the first parameter that was: its name, what came, what would be right."""
    first: dict[str, Any] = dict(error.errors()[0])
    name = str(first["loc"][0]) if first["loc"] else "query"
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] == "missing":
        return f"{name}: is required"
    if first["type"] == "string_pattern_mismatch":
        message = IS_NO_NAME
    message = message.partition(", unable to parse")[0]
    came = repr(first["input"])
    came = came if len(came) <= 60 else f"{came[:57]}…"  # noqa: PLR2004  a line's worth
    return f"{name}: {message}" if str(first["input"]) in message else f"{name}: {came} {message}"


def _problem(status: int, detail: str, code: str, headers: dict[str, str]) -> Response:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    return Response(orjson.dumps(body), status, media_type="application/problem+json", headers=headers)
