"""Who is let in, how much each may ask, how many requests are answered at once, and for how long."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph import metrics
from graph.engine.allowance import WINDOW_S, Allowance
from graph.errors import RETRY_AFTER_S, ApiError, BusyError, RateLimitedError, TimedOutError, UnauthenticatedError
from graph.http.caller import Callers, address_of
from graph.http.negotiation import wants_page
from graph.http.problems import GRAPHQL_PATH, refusal

WATCHED_AFTER_S: Final = 0.05
PART: Final = 256 * 1024
"""Bytes of an answer that are sent at once."""


class Known:
    """Tells who calls, and lets in who may read; to `open_` paths and those below them everybody.

    A WebSocket is let in: browsers send its key in the first message.
    """

    def __init__(self, app: ASGIApp, callers: Callers, open_: tuple[str, ...]) -> None:
        self.app = app
        self._callers = callers
        self._open = open_

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope["caller"] = self._callers.who(scope, Headers(scope=scope))
        if scope["type"] == "http" and not scope["caller"].may_read and not self._is_open(scope):
            await refusal(scope, UnauthenticatedError())(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == GRAPHQL_PATH:  # the page, which asks nothing by itself
            return scope["method"] == "GET" and not scope["query_string"] and wants_page(Headers(scope=scope).get("Accept", ""))
        return any(path == one or (one != "/" and path.startswith(f"{one}/")) for one in self._open)


class Rates:
    """Takes one of the caller's allowance for each request, whatever becomes of it, and tells what is left."""

    def __init__(self, app: ASGIApp, allowance: Allowance) -> None:
        self.app = app
        self._allowance = allowance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = scope["caller"].name

        # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f'"cost";q={self._allowance.per_minute};w={WINDOW_S}'
                whole_in = round(self._allowance.whole_in_s(caller))
                headers["RateLimit"] = f'"cost";r={self._allowance.left(caller)};t={whole_in}'
            await send(message)

        try:
            self._allowance.spend(caller, 1)
        except ApiError as error:
            await refusal(scope, error)(scope, receive, send_with_rate)
        else:
            await self.app(scope, receive, send_with_rate)


class Slots:
    """Places for what goes on at once: so many in all, and so many of one address."""

    def __init__(self, limit: str, what: str, most: int, most_of_one: int) -> None:
        """`limit` is its name in metrics, `what` there may be `most` of, for messages."""
        self._limit = limit
        self._what = what
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()
        self._in_all = 0

    @contextmanager
    def taken(self, address: str) -> Iterator[None]:
        """Holds a place. Raises BusyError at once where none is free, RateLimitedError where the client has its share."""
        if self._taken[address] >= self._most_of_one:
            metrics.saturated.labels(f"{self._limit}_per_client").inc()
            raise RateLimitedError(
                f"{self._most_of_one} {self._what} from this client: end one, or retry in {RETRY_AFTER_S} s", RETRY_AFTER_S
            )
        if self._in_all >= self._most:
            metrics.saturated.labels(self._limit).inc()
            raise BusyError(f"The server is busy: {self._most} {self._what}. Retry in a few seconds.")
        self._taken[address] += 1
        self._in_all += 1
        try:
            yield
        finally:
            self._in_all -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]


@contextmanager
def held_open(scope: Scope, connections: Slots) -> Iterator[None]:
    """For an answer that lasts as long as its client likes: it takes a connection's place, and gives its request's back.

    Raises BusyError or RateLimitedError where no place is free.
    """
    with connections.taken(address_of(scope)):
        request: ExitStack = scope["slot"]
        request.close()
        yield


class InFlight:
    """Answers as many requests at once as there are slots; the others get 503 and when to come back."""

    def __init__(self, app: ASGIApp, slots: Slots) -> None:
        self.app = app
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            with ExitStack() as slot:
                slot.enter_context(self._slots.taken(address_of(scope)))
                scope["slot"] = slot  # an answer without end gives it back early
                await self.app(scope, receive, send)
        except (BusyError, RateLimitedError) as error:
            await refusal(scope, error)(scope, receive, send)


class WhileWanted:
    """Ends the work on a request when its client has gone, or when its time is up; the statement it waits for ends as well.

    Most requests are answered before anybody could have gone, so a client is only watched when its answer takes a while.
    """

    def __init__(self, app: ASGIApp, at_most_s: float) -> None:
        self.app = app
        self._at_most_s = at_most_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wanted = _Wanted(scope, receive, send, self._at_most_s)
        try:
            await self.app(scope, wanted.receive, wanted.send)
        except asyncio.CancelledError:
            if not wanted.is_over or wanted.task.uncancel():
                raise
            if not wanted.is_gone and not wanted.started:
                await refusal(scope, took_too_long(self._at_most_s))(scope, receive, send)
        finally:
            wanted.stop_watching()


class _Wanted:
    """One request's messages, its deadline, and whether its client is still there."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, at_most_s: float) -> None:
        self._receive = receive
        self._send = send
        self._left_s = max(0.0, at_most_s - WATCHED_AFTER_S)
        self._has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
        self._all_came = not self._has_body
        self._is_late = False
        self.started = False
        self.is_gone = False
        self.is_over = False
        self.task = _current_task()
        self._timer = asyncio.get_running_loop().call_later(min(at_most_s, WATCHED_AFTER_S), self._watch)
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """The next message, for whoever reads the body. After its end it waits for ever: the watcher waits for the rest."""
        if not self._has_body:
            self._has_body = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._all_came:
            await asyncio.get_running_loop().create_future()
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()
            await asyncio.get_running_loop().create_future()
        self._all_came = not message.get("more_body", False)
        self._listen()
        return message

    async def send(self, message: Message) -> None:
        """Sends. Once the answer begins only the client's own pace counts, not the deadline."""
        self.started = True
        body = message.get("body", b"")
        # In parts, so that whoever reads slowly keeps the slot that it was given, not our memory.
        last = (len(body) - 1) // PART * PART if body else 0
        for start in range(0, last, PART):
            await self._send({"type": "http.response.body", "body": body[start : start + PART], "more_body": True})
        await self._send({**message, "body": body[last:]} if last else message)

    def stop_watching(self) -> None:
        """For when the work is done."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _watch(self) -> None:
        self._is_late = True
        self._timer = asyncio.get_running_loop().call_later(self._left_s, self._expire)
        self._listen()

    def _listen(self) -> None:
        """Waits for the client to go, from the end of its body on, if the answer takes long enough for that."""
        if self._is_late and self._all_came and self._watcher is None:
            self._watcher = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _expire(self) -> None:
        if not self.started:
            self._end()

    def _leave(self) -> None:
        self.is_gone = True
        self._end()

    def _end(self) -> None:
        self.is_over = True
        self.task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  whatever runs here runs in one
    return task


def took_too_long(at_most_s: float) -> TimedOutError:
    """For what took longer than it may."""
    return TimedOutError(f"The request took longer than the {at_most_s:g} s it may; ask for less")
