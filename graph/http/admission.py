"""How many requests are answered at once, and for how long: what is too much is refused, what nobody wants any more ends."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from secrets import compare_digest

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph.errors import ApiError, BusyError, TimedOutError, UnauthenticatedError
from graph.http.negotiation import JSON
from graph.http.problems import RETRY_AFTER_S, problem


class Keys:
    """Lets in who brings a key whose digest is listed; to `open_` paths and those below them everybody."""

    def __init__(self, app: ASGIApp, digests: Sequence[str], open_: Sequence[str]) -> None:
        self.app = app
        self._digests = digests
        self._open = tuple(open_)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_open(scope["path"]) or self._brings_one(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = UnauthenticatedError("Reading needs a key: send `Authorization: Bearer …` or `X-API-Key: …`")
        await refusal(scope, error, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in self._open)

    def _brings_one(self, headers: Headers) -> bool:
        scheme, _, sent = headers.get("Authorization", "").partition(" ")
        key = sent.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")
        digest = sha256(key.encode()).hexdigest()
        # All are compared, so that the time tells nothing of which was near.
        return key != "" and sum(compare_digest(digest, known) for known in self._digests) > 0


class InFlight:
    """Answers at most so many requests at once, in all and of one address; the others get 503 and when to come back."""

    def __init__(self, app: ASGIApp, most: int, most_of_one: int) -> None:
        self.app = app
        self._most = most
        self._most_of_one = most_of_one
        self._of: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        address = scope["client"][0] if scope.get("client") else ""
        if self._of.total() >= self._most:
            await refusal(scope, BusyError(f"{self._most} requests are being answered; come back"))(scope, receive, send)
        elif self._of[address] >= self._most_of_one:
            said = f"{self._most_of_one} requests of yours are being answered; wait for one, or come back"
            await refusal(scope, BusyError(said))(scope, receive, send)
        else:
            await self._counted(address, scope, receive, send)

    async def _counted(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        self._of[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]


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
            said = f"The request took longer than the {self._at_most_s:g} s it may; ask for less"
            await refusal(scope, TimedOutError(said))(scope, receive, send)


def refusal(scope: Scope, error: ApiError, more: dict[str, str] | None = None) -> Response:
    """The error as the path's clients read it."""
    headers = ({"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, BusyError) else {}) | (more or {})
    if scope["path"] != "/graphql":
        return problem(error.status, str(error), error.code, headers)
    body = orjson.dumps({"errors": [{"message": str(error), "extensions": error.extensions}]})
    return Response(body, error.status, headers | {"Cache-Control": "no-store"}, media_type=JSON)
