"""Response cache: stores complete responses until the next commit and coalesces identical concurrent requests."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cachetools import LRUCache
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph import metrics
from graph.engine.commit_listener import CommitListener
from graph.http.admission import CHUNK_BYTES
from graph.http.middleware import get_request_id, record_request
from graph.http.request_state import RequestState, state_of

MAX_KEY_BYTES: Final = 16 * 1024
"""Maximum bytes of a request whose response may be cached."""
ENTRY_SIZE_DIVISOR: Final = 8
"""One entry may use at most this fraction (1/8) of the cache."""
ENTRY_OVERHEAD_BYTES: Final = 1_000
"""Approximate bytes of an entry in addition to its key and body."""

HITS, COALESCED, MISSES = (metrics.cached_responses.labels(outcome) for outcome in ("hit", "coalesced", "miss"))

CacheKey = tuple[bytes | str, ...]


@dataclass(frozen=True)
class CachedResponse:
    """A cache entry: a complete response and its size in memory with the key, in bytes."""

    start: Message
    body: bytes
    size: int

    async def send_to(self, send: Send, *headers: tuple[bytes, bytes]) -> None:
        """Sends the response with additional headers."""
        await send({**self.start, "headers": [*self.start["headers"], *headers]})
        await send({"type": "http.response.body", "body": self.body})


class RequestCancelledError(Exception):
    """Raised to the waiting requests when the in-flight request is cancelled: its client disconnected, or it timed out."""


class InFlightRequest:
    """A request in progress. Identical requests wait for `response`; None means that each must run on its own."""

    def __init__(self, response_cache: "ResponseCache", key: CacheKey, version: int, send: Send) -> None:
        self._response_cache = response_cache
        self._key = key
        self._version = version
        self._send = send
        self._start: Message | None = None
        self._parts: list[bytes] = []
        self.is_cacheable = False
        self.response: asyncio.Future[CachedResponse | None] = asyncio.get_running_loop().create_future()

    async def record(self, message: Message) -> None:
        """Records a message and sends it. Shares the complete response first, because this client may read slowly."""
        if message["type"] == "http.response.start":
            self._start = {**message, "headers": [*message["headers"]]}
        elif self.is_cacheable:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False) and self._start is not None:
                self._finish(self._start, b"".join(self._parts))
        await self._send(message)

    def release(self) -> None:
        """Lets the waiting requests run on their own."""
        self.is_cacheable = False
        if not self.response.done():
            self.response.set_result(None)

    def _finish(self, start: Message, body: bytes) -> None:
        if start["status"] == HTTPStatus.OK and not self.response.done():
            cached = CachedResponse(start, body, len(body) + sum(map(len, self._key)) + ENTRY_OVERHEAD_BYTES)
            self._response_cache.put(self._key, cached, self._version)
            self.response.set_result(cached)


def may_be_cached(scope: Scope) -> bool:
    """Whether the response cache records the response of this request."""
    return state_of(scope).in_flight_request is not None


def set_cacheable(scope: Scope, *, cacheable: bool = True) -> None:
    """Declares whether the response of a request stays the same until the next commit. Call it as early as possible."""
    in_flight_request = state_of(scope).in_flight_request
    if in_flight_request is not None:
        in_flight_request.is_cacheable = cacheable
        if not cacheable:
            in_flight_request.release()


class ResponseCache:
    """The cached responses of the current data version, least recently used first out, and the requests in progress."""

    def __init__(self, commits: CommitListener, max_bytes: int, prefixes: tuple[str, ...]) -> None:
        self._commits = commits
        self._max_bytes = max_bytes
        self._prefixes = prefixes
        self._version: int | None = None
        self._responses: LRUCache[CacheKey, CachedResponse] = LRUCache(max_bytes, getsizeof=lambda cached: cached.size)
        self.in_flight: dict[CacheKey, asyncio.Future[CachedResponse | None]] = {}

    def may_be_cached(self, scope: Scope) -> bool:
        """Whether the response of this request may be cached, by its method and path."""
        return scope["type"] == "http" and scope["method"] in ("GET", "POST") and scope["path"].startswith(self._prefixes)

    def check_version(self) -> int | None:
        """Returns the current data version, None if it is unknown. Clears the cache when the version changes."""
        version = self._commits.version()
        if version != self._version:
            self._responses.clear()
            self.in_flight.clear()  # waiting requests hold their futures; new ones must not join
            self._version = version
        return version

    @property
    def size(self) -> int:
        """Bytes of the cached responses."""
        return int(self._responses.currsize)

    def get(self, key: CacheKey) -> CachedResponse | None:
        """Returns the cached response. Call `check_version()` first."""
        return self._responses.get(key)

    def put(self, key: CacheKey, cached: CachedResponse, version: int) -> None:
        """Stores a response that was started at `version`, unless the data version has changed since."""
        if self._commits.version() == version == self._version and cached.size * ENTRY_SIZE_DIVISOR <= self._max_bytes:
            self._responses[key] = cached


class CacheFastPath:
    """Serves cached responses before all other middleware. Only for an API without keys, rate limits and CORS."""

    def __init__(self, app: ASGIApp, response_cache: ResponseCache) -> None:
        self.app = app
        self._response_cache = response_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._response_cache.may_be_cached(scope):
            started_at = time.perf_counter()
            key, receive = await _read_key(scope, receive)
            cached = None if key is None or self._response_cache.check_version() is None else self._response_cache.get(key)
            if cached is not None and len(cached.body) <= CHUNK_BYTES:  # a larger body needs a request slot while it is sent
                request_id = get_request_id(scope)
                HITS.inc()
                await cached.send_to(send, (b"x-request-id", request_id.encode()))
                record_request(scope, RequestState(request_id), cached.start["status"], len(cached.body), started_at)
                return
        await self.app(scope, receive, send)


class ResponseCacheMiddleware:
    """Serves a cached response to an identical request until the next commit.

    CommitListener reports commits within milliseconds. Without a connection to PostgreSQL, the cache neither stores nor serves.
    Identical concurrent requests are executed once.
    """

    def __init__(self, app: ASGIApp, response_cache: ResponseCache) -> None:
        self.app = app
        self._response_cache = response_cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = None
        if self._response_cache.may_be_cached(scope):
            key, receive = await _read_key(scope, receive)
        version = self._response_cache.check_version()
        if version is None or key is None:
            await self.app(scope, receive, send)
            return
        if (cached := self._response_cache.get(key)) is not None:
            HITS.inc()
            await cached.send_to(send)
        elif (cached := await self._join_in_flight(key)) is not None:
            COALESCED.inc()
            await cached.send_to(send)
        else:
            MISSES.inc()
            await self._forward(InFlightRequest(self._response_cache, key, version, send), key, scope, receive)

    async def _join_in_flight(self, key: CacheKey) -> CachedResponse | None:
        """Waits for an identical request in progress. Returns its response, None if this request must run on its own."""
        while (in_flight := self._response_cache.in_flight.get(key)) is not None:
            try:
                return await asyncio.shield(in_flight)
            except RequestCancelledError:
                continue  # another waiting request may be in progress now
        return None

    async def _forward(self, in_flight_request: InFlightRequest, key: CacheKey, scope: Scope, receive: Receive) -> None:
        state_of(scope).in_flight_request = in_flight_request
        self._response_cache.in_flight.setdefault(key, in_flight_request.response)
        try:
            await self.app(scope, receive, in_flight_request.record)
        except asyncio.CancelledError:
            if not in_flight_request.response.done():
                in_flight_request.response.set_exception(RequestCancelledError())
                in_flight_request.response.exception()  # marks it as retrieved: no warning if no request waits
            raise
        finally:
            if self._response_cache.in_flight.get(key) is in_flight_request.response:
                del self._response_cache.in_flight[key]
            in_flight_request.release()


async def _read_key(scope: Scope, receive: Receive) -> tuple[CacheKey | None, Receive]:
    body, receive = await _peek_body(scope, receive)
    return None if body is None else _build_key(scope, body), receive


def _build_key(scope: Scope, body: bytes) -> CacheKey | None:
    """Returns everything that the response depends on; None if the response may not be cached."""
    accept = encoding = content_type = b""
    for name, value in scope["headers"]:
        match name:
            # All values of a repeated header are part of the key: readers may use the first or the last.
            case b"accept":
                accept += b"," + value
            case b"accept-encoding":
                encoding += b"," + value
            case b"content-type":
                content_type += b"," + value
            case b"if-none-match" | b"range" | b"content-encoding":
                return None
    key = scope["method"], scope["path"], scope["query_string"], body, accept, encoding, content_type
    return key if sum(map(len, key)) <= MAX_KEY_BYTES else None


async def _peek_body(scope: Scope, receive: Receive) -> tuple[bytes | None, Receive]:
    """Returns the body if it is short and in one message, else None; and a `receive` that returns it again."""
    if scope["method"] == "GET":
        return b"", receive
    message: Any = await receive()
    messages = [message]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    body: bytes = message.get("body", b"")
    is_whole = message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= MAX_KEY_BYTES
    return body if is_whole else None, receive_again
