"""What surrounds every request: its id, its line in the log, and an answer even where we made a mistake."""

import logging
import re
import time
import uuid
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph.errors import InternalError
from graph.http.problems import refusal

log = logging.getLogger("graph.access")
mistakes = logging.getLogger("graph.mistakes")

SHOWN = 200
"""Characters of a path in the log."""
WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def shown(path: str) -> str:
    """A path as a line of the log can hold it: no line of its own making, and not too long."""
    quoted = quote(path, errors="replace")
    return quoted if len(quoted) <= SHOWN else f"{quoted[:SHOWN]}…"


class RequestId:
    """Takes over a well-formed X-Request-ID or makes one; puts it into the answer and into every line of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("X-Request-ID", "")
        request_id = sent if WELL_FORMED.fullmatch(sent) else uuid.uuid4().hex
        scope["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class AccessLog:
    """One line a request: method, path, status, duration, bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status, size = 0, 0

        async def send_and_count(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_count)
        finally:
            took = {"status": status, "duration_ms": round((time.perf_counter() - began) * 1000, 1), "bytes": size}
            log.info("%s %s", scope["method"], shown(scope["path"]), extra=took)


class Mistakes:
    """Turns an exception that nobody expected into a 500 in the asked format: the request's id, and nothing of the inside."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            mistakes.exception("unexpected error in %s %s", scope["method"], shown(scope["path"]))
            if started:
                raise
            await refusal(scope, InternalError(scope["request_id"]))(scope, receive, send)
