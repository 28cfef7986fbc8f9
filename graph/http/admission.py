"""Who is let in, how much each may ask, how many requests are answered at once, and for how long."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph.engine.allowance import WINDOW_S, Allowance
from graph.errors import ApiError, BusyError, TimedOutError, UnauthenticatedError
from graph.http.caller import Callers, address_of
from graph.http.negotiation import wants_page
from graph.http.problems import GRAPHQL_PATH, refusal


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

    def __init__(self, what: str, most: int, most_of_one: int) -> None:
        self._what = what
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()
        self._in_all = 0

    @contextmanager
    def taken(self, address: str) -> Iterator[None]:
        """Holds a place. Raises BusyError at once where none is free."""
        if self._in_all >= self._most:
            raise BusyError(f"{self._most} {self._what}; come back")
        if self._taken[address] >= self._most_of_one:
            raise BusyError(f"{self._most_of_one} {self._what} of yours; end one, or come back")
        self._taken[address] += 1
        self._in_all += 1
        try:
            yield
        finally:
            self._in_all -= 1
            self._taken[address] -= 1
            if not self._taken[address]:
                del self._taken[address]


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
            with self._slots.taken(address_of(scope)):
                await self.app(scope, receive, send)
        except BusyError as error:
            await refusal(scope, error)(scope, receive, send)


class WhileWanted:
    """Ends the work on a request when its client has gone, or when its time is up; the statement it waits for ends as well."""

    def __init__(self, app: ASGIApp, at_most_s: float) -> None:
        self.app = app
        self._at_most_s = at_most_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # One message ahead and no more: a body that nobody reads stays where it is.
        messages: asyncio.Queue[Message] = asyncio.Queue(1)
        started = False

        async def listen() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                await messages.put(message)

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        async def work() -> None:
            await self.app(scope, messages.get, send_and_note)

        working = asyncio.create_task(work())
        listening = asyncio.create_task(listen())
        try:
            await asyncio.wait({working, listening}, timeout=self._at_most_s, return_when=asyncio.FIRST_COMPLETED)
            gone = listening.done()
        finally:
            listening.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        if not working.cancelled():
            working.result()
        elif not started and not gone:
            await refusal(scope, took_too_long(self._at_most_s))(scope, receive, send)


def took_too_long(at_most_s: float) -> TimedOutError:
    """For what took longer than it may."""
    return TimedOutError(f"The request took longer than the {at_most_s:g} s it may; ask for less")
