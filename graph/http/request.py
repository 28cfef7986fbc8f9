"""Parses and validates a GraphQL request from an HTTP request, within size limits.

Follows the GraphQL over HTTP specification (https://graphql.github.io/graphql-over-http/draft/).
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request

from graph.errors import BadRequestError, PayloadTooLargeError, UnsupportedMediaTypeError
from graph.http.negotiation import parse_media_parameters

MAX_BODY_BYTES = 256 * 1024
"""Limit for the body as received and for the body after decompression."""
MAX_JSON_DEPTH = 32
"""Maximum nesting of lists and objects."""
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""zlib's window bits for each supported content coding."""


@dataclass(frozen=True)
class GraphQLRequest:
    """The parameters of a GraphQL request."""

    query: str | None
    operation_name: str | None
    variables: dict[str, Any]
    extensions: dict[str, Any]
    document_id: str | None = None
    """Id of a trusted document."""


def parse_query_string(params: QueryParams) -> GraphQLRequest:
    """Parses the query string of a GET request. Raises BadRequestError."""
    for name in ("query", "documentId", "operationName", "variables", "extensions"):
        if len(params.getlist(name)) > 1:
            raise BadRequestError(f"{name} was sent {len(params.getlist(name))} times. Send it once.")
    parts: dict[str, Any] = {name: params[name] for name in ("query", "documentId", "operationName") if name in params}
    for name in ("variables", "extensions"):
        if params.get(name):
            parts[name] = parse_json(params[name].encode(), name)
    return _build_request(parts)


async def parse_body(request: Request) -> GraphQLRequest:
    """Parses the body of a POST request.

    Raises BadRequestError, UnsupportedMediaTypeError or PayloadTooLargeError.
    """
    _require_json(request.headers.get("Content-Type", ""))
    body = await _read_body(request)
    parts = parse_json(body, "The body")
    if isinstance(parts, list):
        raise BadRequestError("Batching is not supported: send each request separately, not as an array")
    if not isinstance(parts, dict):
        raise BadRequestError("The body should be a JSON object with a `query`")
    return _build_request(parts)


@lru_cache(64)
def _require_json(content_type: str) -> None:
    media, _, parameters = content_type.partition(";")
    if media.strip().lower() != "application/json":
        actual = f"{media.strip()[:60]!r}" if media.strip() else "none"
        raise UnsupportedMediaTypeError(f"Content-Type: send application/json, not {actual}")
    charset = parse_media_parameters(parameters).get("charset", "utf-8")
    if charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaTypeError(f"Content-Type: send utf-8, not {charset[:40]!r}")


async def _read_body(request: Request) -> bytes:
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity", *_WINDOW_BITS):
        raise UnsupportedMediaTypeError(f"Content-Encoding: send gzip, deflate or none, not {coding[:40]!r}")
    decompressor = zlib.decompressobj(_WINDOW_BITS[coding]) if coding in _WINDOW_BITS else None
    received_bytes, body = 0, bytearray()
    async for chunk in request.stream():
        received_bytes += len(chunk)
        try:
            # Decompresses at most one byte over the limit: enough to detect an oversized body.
            body += chunk if decompressor is None else decompressor.decompress(chunk, MAX_BODY_BYTES + 1 - len(body))
        except zlib.error as error:
            raise BadRequestError(f"The body is not valid {coding}: {error}") from error
        if received_bytes > MAX_BODY_BYTES or len(body) > MAX_BODY_BYTES:
            raise PayloadTooLargeError(f"The body exceeds the limit of {MAX_BODY_BYTES} bytes. Send a smaller request.")
    return bytes(body)


def parse_json(text: bytes | str, subject: str) -> Any:
    """Parses a JSON text. Raises BadRequestError if it is invalid or nested too deeply."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"{subject} is not JSON: {error}") from error
    level, depth = [parsed], 0
    while level := [member for value in level if isinstance(value, dict | list) for member in _members(value)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise BadRequestError(f"{subject} exceeds the nesting limit of {MAX_JSON_DEPTH} levels")
    return parsed


def _members(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _build_request(parts: Mapping[str, Any]) -> GraphQLRequest:
    query, name = parts.get("query"), parts.get("operationName")
    if query is not None and not isinstance(query, str):
        raise BadRequestError("query should be a string: the GraphQL document")
    if name is not None and not isinstance(name, str):
        raise BadRequestError("operationName should be a string")
    document_id = parts.get("documentId")
    if document_id is not None and not isinstance(document_id, str):
        raise BadRequestError("documentId should be a string: the id of a trusted document")
    return GraphQLRequest(
        query, name or None, _get_object(parts, "variables"), _get_object(parts, "extensions"), document_id or None
    )


def _get_object(parts: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = parts.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequestError(f"{name} should be a JSON object")
    return value
