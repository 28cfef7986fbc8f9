"""What surrounds every request: its id, its line in the log, and an answer even where we made a mistake."""

import logging
import random
import re
import time
from http import HTTPStatus
from urllib.parse import quote

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from graph import metrics
from graph.errors import InternalError
from graph.http.problems import refusal

log = logging.getLogger("graph.access")
mistakes = logging.getLogger("graph.mistakes")

SHOWN = 200
"""Characters of a path in the log."""
WELL_FORMED = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


def shown(path: str) -> str:
    """A path as a line of the log can hold it: no line of its own making, and not too long."""
    quoted = quote(path, errors="replace")
    return quoted if len(quoted) <= SHOWN else f"{quoted[:SHOWN]}…"


class Recorded:
    """Gives each request an id, a line in the log (method, path, status, duration, bytes), and at the worst a 500.

    A well-formed X-Request-ID is taken over; the id stands in the answer, in every line of the log, and is all that a client
    is told of a mistake of ours. (One class for all of it: each wrapper around `send` costs every request.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request_id = scope["request_id"] = id_of(scope)
        bind_contextvars(request_id=request_id)  # of this task alone: each request has its own
        if scope["type"] == "http":
            await self._recorded(scope, receive, send)
        else:
            began = time.perf_counter()
            try:
                await self.app(scope, receive, send)
            finally:
                lasted = {"request_id": request_id, "duration_ms": round((time.perf_counter() - began) * 1000, 1)}
                log.info("WEBSOCKET %s", shown(scope["path"]), extra=lasted)

    async def _recorded(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        header = (b"x-request-id", scope["request_id"].encode())
        status, size = 0, 0

        async def send_and_note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            mistakes.exception("unexpected error in %s %s", scope["method"], shown(scope["path"]))
            if status:
                raise
            await refusal(scope, InternalError(scope["request_id"]))(scope, receive, send_and_note)
        finally:
            told(scope, scope["request_id"], status, size, began)


class Compressed(GZipMiddleware):
    """Compresses for whoever takes it; the others are not even looked at. (Each answer's Vary tells that there are both.)"""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        takes_it = scope["type"] == "http" and any(
            name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"]
        )
        await (super().__call__ if takes_it else self.app)(scope, receive, send)


KINDS = {"graphql": "graphql", "prices": "rest", "export": "export", "health": "health", "fetch-prices": "rest"}
"""What requests are counted as, by the first part of their path; anything else is a page."""
STREAM = "stream"
"""What an answer that goes on is counted as."""


def told(scope: Scope, request_id: str, status: int, size: int, began: float) -> None:
    """Counts a request that `began` at that reading of the performance counter, and writes its line of the log."""
    first, _, rest = scope["path"][1:].partition("/")
    kind = scope.get("kind") or KINDS.get(rest.partition("/")[0] if first == "v1" else first, "page")
    metrics.requests.labels(kind, status).inc()
    if kind != STREAM:  # which lasts as long as its client likes
        metrics.request_seconds.labels(kind).observe(time.perf_counter() - began)
    # Files and health are asked for again and again, and nobody looks for them in the log.
    level = logging.DEBUG if status < HTTPStatus.BAD_REQUEST and (kind == "health" or first == "static") else logging.INFO
    if log.isEnabledFor(level):
        took = {"status": int(status), "duration_ms": round((time.perf_counter() - began) * 1000, 1), "bytes": size}
        log.log(level, "%s %s", scope["method"], shown(scope["path"]), extra={"request_id": request_id, **took})


def id_of(scope: Scope) -> str:
    """The request's own id where it sent a good one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and WELL_FORMED.fullmatch(value):
            return str(value.decode())
    return f"{random.getrandbits(128):032x}"  # no secret, and the system's own randomness costs a kept answer a tenth
