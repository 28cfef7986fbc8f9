"""Refusals over HTTP: `application/problem+json` (RFC 9457), whose `detail` the older clients read."""

from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from db.tables import IS_NO_NAME
from graph.engine.translation import told

RETRY_AFTER_S = 2


def problem(status: int, detail: str, code: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal; one that passes says when to come back."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    more = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(orjson.dumps(body), status, media_type="application/problem+json", headers=more | (headers or {}))


async def on_known_error(_request: Request, error: Exception) -> Response:
    """For the errors that `graph.engine.translation` knows."""
    known = told(error)
    if known is None:
        raise error
    return problem(known.status, str(known), known.code)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """For what routing refuses: no such path, no such method (with Allow)."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers) if error.headers else None
    phrase = HTTPStatus(error.status_code).phrase
    detail = phrase
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            detail = "There is nothing at this path; /docs lists what there is."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"This path takes {(headers or {}).get('Allow', 'other methods')}."
    return problem(error.status_code, detail, phrase.upper().replace(" ", "_"), headers)


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
