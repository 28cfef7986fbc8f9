"""Middleware around every request: request id, access log, response to an internal error, compression."""

import logging
import random
import re
import time
from functools import cache
from http import HTTPStatus
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from graph import metrics
from graph.errors import InternalError
from graph.http.problems import error_response
from graph.http.request_state import RequestState, create_state, state_of

log = logging.getLogger("graph.access")
error_log = logging.getLogger("graph.errors")

MAX_PATH_LENGTH = 200
"""Maximum characters of a path in the log."""
REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def format_path(path: str) -> str:
    """Returns a path for the log: percent-encoded, so that it contains no line break, and truncated."""
    quoted = quote(path, errors="replace")
    return quoted if len(quoted) <= MAX_PATH_LENGTH else f"{quoted[:MAX_PATH_LENGTH]}…"


class AccessLogMiddleware:
    """Gives each request an id and an access log line: method, path, status, duration, bytes.

    The id is the client's X-Request-ID if that is well-formed. It is in the response and in every log line. An unexpected
    exception becomes a 500 response that contains only the id. One class does all this, because each wrapper around `send`
    costs time in every request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = create_state(scope, get_request_id(scope)).request_id
        bind_contextvars(request_id=request_id)  # applies to this task only; each request has its own task
        if scope["type"] == "http":
            await self._handle_http(scope, receive, send)
        else:
            started_at = time.perf_counter()
            try:
                await self.app(scope, receive, send)
            finally:
                fields = {"request_id": request_id, "duration_ms": round((time.perf_counter() - started_at) * 1000, 1)}
                log.info("WEBSOCKET %s", format_path(scope["path"]), extra=fields)

    async def _handle_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.perf_counter()
        header = (b"x-request-id", state_of(scope).request_id.encode())
        status, size = 0, 0

        async def send_and_record(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        except Exception:
            error_log.exception("unexpected error in %s %s", scope["method"], format_path(scope["path"]))
            if status:
                raise
            await error_response(scope, InternalError(state_of(scope).request_id))(scope, receive, send_and_record)
        finally:
            record_request(scope, state_of(scope), status, size, started_at)


class CompressionMiddleware(GZipMiddleware):
    """Compresses responses for clients that accept gzip. Bypasses Starlette's middleware for all others.

    Starlette adds `Accept-Encoding` to a Vary header that has it already; each name is sent once.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        # A range, and a digest, are of the uncompressed representation.
        may_compress = (
            b"gzip" in headers.get(b"accept-encoding", b"") and b"range" not in headers and b"want-repr-digest" not in headers
        )
        if not may_compress:
            await self.app(scope, receive, send)
            return

        async def send_with_unique_vary(message: Message) -> None:
            if message["type"] == "http.response.start":
                message_headers = MutableHeaders(raw=message["headers"])
                if "vary" in message_headers:
                    message_headers["vary"] = ", ".join(dict.fromkeys(message_headers["vary"].split(", ")))
            await send(message)

        await super().__call__(scope, receive, send_with_unique_vary)


KIND_BY_PATH = {"graphql": "graphql", "export": "export", "health": "health", "udf": "rest"} | dict.fromkeys(
    ("prices", "fetch-prices", "candles", "tickers", "coverage"), "rest"
)
"""Metric label of a request by the first segment of its path; all other paths are pages."""
STREAM_KIND = "stream"
"""Metric label of an event stream."""


# Finding the series by its labels takes as long as the increment.
_request_counter = cache(metrics.requests.labels)
_duration_histogram = cache(metrics.request_seconds.labels)


def record_request(scope: Scope, state: RequestState, status: int, size: int, started_at: float) -> None:
    """Counts a request and writes its access log line. `started_at` is a reading of `time.perf_counter`."""
    first, _, remainder = scope["path"][1:].partition("/")
    kind = state.kind or KIND_BY_PATH.get(remainder.partition("/")[0] if first == "v1" else first, "page")
    _request_counter(kind, status).inc()
    if kind != STREAM_KIND:  # the client determines the duration of a stream
        _duration_histogram(kind).observe(time.perf_counter() - started_at)
    # Static files and health checks are frequent, so successful ones are logged at DEBUG level only.
    level = logging.DEBUG if status < HTTPStatus.BAD_REQUEST and (kind == "health" or first == "static") else logging.INFO
    if log.isEnabledFor(level):
        fields = {"status": int(status), "duration_ms": round((time.perf_counter() - started_at) * 1000, 1), "bytes": size}
        log.log(level, "%s %s", scope["method"], format_path(scope["path"]), extra={"request_id": state.request_id, **fields})


def get_request_id(scope: Scope) -> str:
    """Returns the X-Request-ID of the request if it is well-formed, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID_PATTERN.fullmatch(value):
            return str(value.decode())
    return f"{random.getrandbits(128):032x}"  # not a secret; secrets.token_hex would add a tenth to a cache hit
