"""A GraphQL request out of an HTTP request: read with bounds, and each part of it of the right kind.

By the GraphQL over HTTP specification (https://graphql.github.io/graphql-over-http/draft/).
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request

from graph.errors import BadRequestError, MediaTypeError, TooLargeError
from graph.http.negotiation import parameters_of

BODY_MOST = 256 * 1024
"""Bytes, as sent and as unpacked."""
JSON_DEPTH_MOST = 32
"""Levels of lists and objects."""
_INFLATE = {"gzip": 31, "deflate": 15}
"""Content codings by zlib's window bits."""


@dataclass(frozen=True)
class Asked:
    """What a client asks."""

    query: str | None
    operation_name: str | None
    variables: dict[str, Any]
    extensions: dict[str, Any]


def from_url(sent: QueryParams) -> Asked:
    """From the query string of a GET. Raises BadRequestError."""
    for name in ("query", "operationName", "variables", "extensions"):
        if len(sent.getlist(name)) > 1:
            raise BadRequestError(f"{name} came {len(sent.getlist(name))} times; send it once")
    parts: dict[str, Any] = {name: sent[name] for name in ("query", "operationName") if name in sent}
    for name in ("variables", "extensions"):
        if sent.get(name):
            parts[name] = json_of(sent[name].encode(), name)
    return _checked(parts)


async def from_body(request: Request) -> Asked:
    """From the body of a POST. Raises BadRequestError, MediaTypeError or TooLargeError."""
    media, _, parameters = request.headers.get("Content-Type", "").partition(";")
    if media.strip().lower() != "application/json":
        came = f"{media.strip()[:60]!r}" if media.strip() else "none"
        raise MediaTypeError(f"Content-Type: send application/json, not {came}")
    charset = parameters_of(parameters).get("charset", "utf-8")
    if charset not in ("utf-8", "utf8"):
        raise MediaTypeError(f"Content-Type: send utf-8, not {charset[:40]!r}")
    body = await _body(request)
    parts = json_of(body, "The body")
    if isinstance(parts, list):
        raise BadRequestError("Several requests in one (an array) are not taken: send each by itself")
    if not isinstance(parts, dict):
        raise BadRequestError("The body should be a JSON object with a `query`")
    return _checked(parts)


async def _body(request: Request) -> bytes:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity", *_INFLATE):
        raise MediaTypeError(f"Content-Encoding: send gzip, deflate or none, not {coding[:40]!r}")
    unpacking = zlib.decompressobj(_INFLATE[coding]) if coding in _INFLATE else None
    read, body = 0, bytearray()
    async for chunk in request.stream():
        read += len(chunk)
        try:
            # A byte over the bound is enough to know.
            body += chunk if unpacking is None else unpacking.decompress(chunk, BODY_MOST + 1 - len(body))
        except zlib.error as error:
            raise BadRequestError(f"The body is not {coding}: {error}") from error
        if read > BODY_MOST or len(body) > BODY_MOST:
            raise TooLargeError(f"The body is longer than {BODY_MOST} bytes: ask for less at once")
    return bytes(body)


def json_of(text: bytes | str, what: str) -> Any:
    """The value of a JSON text. Raises BadRequestError where it is none, or nested too deeply."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"{what} is not JSON: {error}") from error
    level, depth = [parsed], 0
    while level := [below for one in level if isinstance(one, dict | list) for below in _members(one)]:
        depth += 1
        if depth > JSON_DEPTH_MOST:
            raise BadRequestError(f"{what} is nested more than {JSON_DEPTH_MOST} levels deep")
    return parsed


def _members(one: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one


def _checked(parts: Mapping[str, Any]) -> Asked:
    query, name = parts.get("query"), parts.get("operationName")
    if query is not None and not isinstance(query, str):
        raise BadRequestError("query should be a string: the GraphQL document")
    if name is not None and not isinstance(name, str):
        raise BadRequestError("operationName should be a string")
    return Asked(query, name or None, _object(parts, "variables"), _object(parts, "extensions"))


def _object(parts: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = parts.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{name} should be a JSON object")
    return value
