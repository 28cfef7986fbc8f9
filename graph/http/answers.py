"""Whole answers, kept until the next commit: who asks the same again gets the same, and nothing is asked of anybody."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import LRUCache
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph.engine.feed import Feed
from graph.http.middleware import id_of, told

BODY_MOST: Final = 16 * 1024
"""Bytes of a question whose answer is kept."""
SHARE_MOST: Final = 8
"""No answer takes more than this part of all that is kept."""
OVERHEAD: Final = 1_000
"""Bytes that an answer takes beside its text, roughly."""

Key = tuple[bytes | str, ...]


@dataclass
class Keep:
    """In the scope of a request: whether its answer depends on nothing but what is stored."""

    wanted: bool = False


def keep(scope: Scope) -> None:
    """Says of a request's answer that it is the same until the next commit."""
    asked: Keep | None = scope.get("keep")
    if asked is not None:
        asked.wanted = True


@dataclass(frozen=True)
class Answer:
    """What was sent."""

    start: Message
    body: bytes

    async def give(self, send: Send, *headers: tuple[bytes, bytes]) -> None:
        """Sends it once more, with more headers."""
        await send({**self.start, "headers": [*self.start["headers"], *headers]})
        await send({"type": "http.response.body", "body": self.body})


@dataclass
class _Taken:
    """An answer on its way, and a copy of it."""

    send: Send
    start: Message | None = None
    parts: list[bytes] = field(default_factory=list)
    whole: bool = False

    async def note(self, message: Message) -> None:
        """Notes a message, and sends it on."""
        if message["type"] == "http.response.start":
            self.start = {**message, "headers": [*message["headers"]]}
        else:
            self.parts.append(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        await self.send(message)


class Kept:
    """The answers of the present version of the data, those asked for last, and the questions being asked."""

    def __init__(self, feed: Feed, bytes_most: int, prefixes: tuple[str, ...]) -> None:
        self._feed = feed
        self._bytes_most = bytes_most
        self._prefixes = prefixes
        self._version: int | None = None
        self._answers: LRUCache[Key, Answer] = LRUCache(bytes_most, getsizeof=lambda answer: len(answer.body) + OVERHEAD)
        self.pending: dict[Key, asyncio.Future[Answer | None]] = {}

    def version(self, scope: Scope) -> int | None:
        """That of the data now, if it is known and this request's answer could be one to keep."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "POST") or not scope["path"].startswith(self._prefixes):
            return None
        version = self._feed.version()
        if version != self._version:
            self._answers.clear()
            self.pending.clear()  # who waits for an answer of before has its future; nobody else joins
            self._version = version
        return version

    def get(self, key: Key) -> Answer | None:
        """The answer to the question, if it is kept."""
        return self._answers.get(key)

    def put(self, key: Key, answer: Answer, version: int) -> None:
        """Keeps an answer that was begun at the version, unless something was committed since."""
        if self._feed.version() == version == self._version and len(answer.body) * SHARE_MOST <= self._bytes_most:
            self._answers[key] = answer


class Shortcut:
    """Before everything else: what is kept goes out at once. For where nobody has to be known or counted first."""

    def __init__(self, app: ASGIApp, kept: Kept) -> None:
        self.app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._kept.version(scope) is not None:
            began = time.perf_counter()
            body, receive = await _peeked(scope, receive)
            key = None if body is None else _key(scope, body)
            answer = None if key is None else self._kept.get(key)
            if answer is not None:
                request_id = id_of(scope)
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
        version = self._kept.version(scope)
        body, receive = (None, receive) if version is None else await _peeked(scope, receive)
        key = None if body is None else _key(scope, body)
        if version is None or key is None:
            await self.app(scope, receive, send)
            return
        answer = self._kept.get(key) or await self._joined(key)
        if answer is not None:
            await answer.give(send)
        else:
            await self._asked(key, version, scope, receive, send)

    async def _joined(self, key: Key) -> Answer | None:
        """The answer to the same question where it is being asked; None where it is not, or where that came to nothing."""
        pending = self._kept.pending.get(key)
        return None if pending is None else await asyncio.shield(pending)

    async def _asked(self, key: Key, version: int, scope: Scope, receive: Receive, send: Send) -> None:
        keep = scope["keep"] = Keep()
        taken = _Taken(send)
        pending: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._kept.pending.setdefault(key, pending)
        answer = None
        try:
            await self.app(scope, receive, taken.note)
            if keep.wanted and taken.whole and taken.start is not None:
                answer = Answer(taken.start, b"".join(taken.parts))
                self._kept.put(key, answer, version)
        finally:
            pending.set_result(answer)
            if self._kept.pending.get(key) is pending:
                del self._kept.pending[key]


def _key(scope: Scope, body: bytes) -> Key | None:
    """All that the answer depends on; None where it is none to keep."""
    accept = encoding = b""
    for name, value in scope["headers"]:
        match name:
            case b"accept":
                accept = value
            case b"accept-encoding":
                encoding = value
            case b"content-type":
                if value != b"application/json":
                    body += b"\0" + value
            case b"if-none-match" | b"range" | b"content-encoding":
                return None
    return scope["method"], scope["path"], scope["query_string"], body, accept, encoding


async def _peeked(scope: Scope, receive: Receive) -> tuple[bytes | None, Receive]:
    """The body where it came in one piece and is short; and a way to receive it once more."""
    if scope["method"] == "GET":
        return b"", receive
    message: Any = await receive()
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    body: bytes = message.get("body", b"")
    is_whole = message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= BODY_MOST
    return body if is_whole else None, receive_again
