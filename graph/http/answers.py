"""Whole answers, kept until the next commit: who asks the same again gets the same, and nothing is asked of anybody."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cachetools import LRUCache
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph import metrics
from graph.engine.feed import Feed
from graph.http.admission import PART
from graph.http.middleware import id_of, told

KEY_MOST: Final = 16 * 1024
"""Bytes of a question whose answer is kept."""
SHARE_MOST: Final = 8
"""No answer takes more than this part of all that is kept."""
OVERHEAD: Final = 1_000
"""Bytes that an answer takes beside its text, roughly."""

KEPT, SHARED, MADE = (metrics.answers.labels(by) for by in ("kept", "shared", "made"))

Key = tuple[bytes | str, ...]


@dataclass(frozen=True)
class Answer:
    """What was sent, and how much of memory it takes with its question."""

    start: Message
    body: bytes
    size: int

    async def give(self, send: Send, *headers: tuple[bytes, bytes]) -> None:
        """Sends it once more, with more headers."""
        await send({**self.start, "headers": [*self.start["headers"], *headers]})
        await send({"type": "http.response.body", "body": self.body})


class LeftError(Exception):
    """What became of a question whose client went before there was an answer."""


class _Asking:
    """A question on its way: who else asks it waits for `found`, which is None where each has to ask for itself."""

    def __init__(self, kept: "Kept", key: Key, version: int, send: Send) -> None:
        self._kept = kept
        self._key = key
        self._version = version
        self._send = send
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self.is_wanted = False
        self.found: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

    async def note(self, message: Message) -> None:
        """Notes a message, and sends it on: at the end after telling the others, for this client may take its time."""
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": [*message["headers"]]}
        elif self.is_wanted:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False) and self._start is not None:
                self._finish(self._start, b"".join(self._parts))
        await self._send(message)

    def refuse(self) -> None:
        """Lets those who wait ask for themselves."""
        self.is_wanted = False
        if not self.found.done():
            self.found.set_result(None)

    def _finish(self, start: Message, body: bytes) -> None:
        if start["status"] == HTTPStatus.OK and not self.found.done():
            answer = Answer(start, body, len(body) + sum(map(len, self._key)) + OVERHEAD)
            self._kept.put(self._key, answer, self._version)
            self.found.set_result(answer)


def keep(scope: Scope, *, wanted: bool = True) -> None:
    """Says, as early as it is known, whether a request's answer is the same until the next commit."""
    asking: _Asking | None = scope.get("asking")
    if asking is not None:
        asking.is_wanted = wanted
        if not wanted:
            asking.refuse()


class Kept:
    """The answers of the present version of the data, those asked for last, and the questions being asked."""

    def __init__(self, feed: Feed, bytes_most: int, prefixes: tuple[str, ...]) -> None:
        self._feed = feed
        self._bytes_most = bytes_most
        self._prefixes = prefixes
        self._version: int | None = None
        self._answers: LRUCache[Key, Answer] = LRUCache(bytes_most, getsizeof=lambda answer: answer.size)
        self.asked: dict[Key, asyncio.Future[Answer | None]] = {}

    def is_kind(self, scope: Scope) -> bool:
        """Whether this request's answer could be one to keep."""
        return scope["type"] == "http" and scope["method"] in ("GET", "POST") and scope["path"].startswith(self._prefixes)

    def version(self) -> int | None:
        """That of the data now, if it is known."""
        version = self._feed.version()
        if version != self._version:
            self._answers.clear()
            self.asked.clear()  # who waits for an answer of before has its future; nobody else joins
            self._version = version
        return version

    @property
    def size(self) -> int:
        """Bytes of the answers kept."""
        return int(self._answers.currsize)

    def get(self, key: Key) -> Answer | None:
        """The answer to the question, if it is kept. Ask for the version first."""
        return self._answers.get(key)

    def put(self, key: Key, answer: Answer, version: int) -> None:
        """Keeps an answer that was begun at the version, unless something was committed since."""
        if self._feed.version() == version == self._version and answer.size * SHARE_MOST <= self._bytes_most:
            self._answers[key] = answer


class Shortcut:
    """Before everything else: what is kept goes out at once. For where nobody has to be known or counted first."""

    def __init__(self, app: ASGIApp, kept: Kept) -> None:
        self.app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._kept.is_kind(scope):
            began = time.perf_counter()
            key, receive = await _asked(scope, receive)
            answer = None if key is None or self._kept.version() is None else self._kept.get(key)
            if answer is not None and len(answer.body) <= PART:  # bigger ones need a slot until they are taken
                request_id = id_of(scope)
                KEPT.inc()
                await answer.give(send, (b"x-request-id", request_id.encode()))
                told(scope, request_id, answer.start["status"], len(answer.body), began)
                return
        await self.app(scope, receive, send)


class Answers:
    """Gives out an answer again to the same question for as long as nothing was committed.

    Which commits there were, the feed hears within a moment; where it cannot hear, nothing is kept and nothing given. The
    same questions that are asked at once are asked of the database once.
    """

    def __init__(self, app: ASGIApp, kept: Kept) -> None:
        self.app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = None
        if self._kept.is_kind(scope):
            key, receive = await _asked(scope, receive)
        version = self._kept.version()
        if version is None or key is None:
            await self.app(scope, receive, send)
            return
        if (answer := self._kept.get(key)) is not None:
            KEPT.inc()
            await answer.give(send)
        elif (answer := await self._joined(key)) is not None:
            SHARED.inc()
            await answer.give(send)
        else:
            MADE.inc()
            await self._ask(_Asking(self._kept, key, version, send), key, scope, receive)

    async def _joined(self, key: Key) -> Answer | None:
        """The answer to the same question where it is being asked; None where each has to ask for itself."""
        while (asked := self._kept.asked.get(key)) is not None:
            try:
                return await asyncio.shield(asked)
            except LeftError:
                continue  # another of those who waited may have asked by now
        return None

    async def _ask(self, asking: _Asking, key: Key, scope: Scope, receive: Receive) -> None:
        scope["asking"] = asking
        self._kept.asked.setdefault(key, asking.found)
        try:
            await self.app(scope, receive, asking.note)
        except asyncio.CancelledError:
            if not asking.found.done():
                asking.found.set_exception(LeftError())
                asking.found.exception()  # it is no mistake if nobody waits
            raise
        finally:
            if self._kept.asked.get(key) is asking.found:
                del self._kept.asked[key]
            asking.refuse()


async def _asked(scope: Scope, receive: Receive) -> tuple[Key | None, Receive]:
    body, receive = await _peeked(scope, receive)
    return None if body is None else _key(scope, body), receive


def _key(scope: Scope, body: bytes) -> Key | None:
    """All that the answer depends on; None where it is none to keep."""
    accept = encoding = kind = b""
    for name, value in scope["headers"]:
        match name:
            # Joined, for whoever looks at them later may take the first or the last of several.
            case b"accept":
                accept += b"," + value
            case b"accept-encoding":
                encoding += b"," + value
            case b"content-type":
                kind += b"," + value
            case b"if-none-match" | b"range" | b"content-encoding":
                return None
    key = scope["method"], scope["path"], scope["query_string"], body, accept, encoding, kind
    return key if sum(map(len, key)) <= KEY_MOST else None


async def _peeked(scope: Scope, receive: Receive) -> tuple[bytes | None, Receive]:
    """The body where it came in one piece and is short; and a way to receive it once more."""
    if scope["method"] == "GET":
        return b"", receive
    message: Any = await receive()
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    body: bytes = message.get("body", b"")
    is_whole = message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= KEY_MOST
    return body if is_whole else None, receive_again
