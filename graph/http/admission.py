"""Admission control: authentication, rate limits, concurrency limits and request timeouts."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph import metrics
from graph.engine.rate_limit import WINDOW_S, CostBudget
from graph.errors import RETRY_AFTER_S, BusyError, RateLimitedError, TimedOutError, UnauthenticatedError
from graph.http.caller import Authenticator, address_of
from graph.http.negotiation import prefers_html
from graph.http.problems import GRAPHQL_PATH, error_response
from graph.http.request_state import state_of

WATCH_DELAY_S: Final = 0.05
"""Age of a request, in seconds, at which the monitor starts to wait for a disconnect. Most requests end before."""
STATIC_PREFIX: Final = "/static/"
CHUNK_BYTES: Final = 256 * 1024
"""Maximum bytes of a response body in one ASGI message."""


class ConcurrencyLimiter:
    """Limits what runs at the same time: in total, and for one client address."""

    def __init__(self, name: str, description: str, max_total: int, max_per_client: int) -> None:
        """`name` is the limit's label in metrics. `description` names the limited thing in messages."""
        self._name = name
        self._description = description
        self._max_total = max_total
        self._max_per_client = max_per_client
        self._count_by_address: Counter[str] = Counter()
        self._total = 0

    def acquire(self, address: str) -> "Slot":
        """Returns a slot, which is held until its release or the end of its `with` block.

        Raises RateLimitedError at the limit of this address, BusyError at the total limit. It never waits.
        """
        if self._count_by_address[address] >= self._max_per_client:
            metrics.saturated.labels(f"{self._name}_per_client").inc()
            raise RateLimitedError(
                f"Limit reached: {self._max_per_client} {self._description} from this client. Retry in {RETRY_AFTER_S} s.",
                RETRY_AFTER_S,
            )
        if self._total >= self._max_total:
            metrics.saturated.labels(self._name).inc()
            raise BusyError(f"The server is busy: {self._max_total} {self._description}. Retry in a few seconds.")
        self._count_by_address[address] += 1
        self._total += 1
        return Slot(self, address)

    def _release(self, address: str) -> None:
        self._total -= 1
        self._count_by_address[address] -= 1
        if not self._count_by_address[address]:
            del self._count_by_address[address]


class Slot:
    """A slot of a ConcurrencyLimiter."""

    __slots__ = ("_address", "_limiter")

    def __init__(self, limiter: ConcurrencyLimiter, address: str) -> None:
        self._limiter: ConcurrencyLimiter | None = limiter
        self._address = address

    def release(self) -> None:
        """Releases the slot. Only the first call has an effect."""
        if self._limiter is not None:
            self._limiter._release(self._address)  # noqa: SLF001  the two classes are one
            self._limiter = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def hold_connection(scope: Scope, connections: ConcurrencyLimiter) -> Iterator[None]:
    """Holds a connection slot for a response of unlimited duration, and releases its request slot.

    Raises BusyError or RateLimitedError if no connection slot is free.
    """
    with connections.acquire(address_of(scope)):
        slot = state_of(scope).slot
        if slot is not None:
            slot.release()
        yield


class AdmissionMiddleware:
    """Admits a request: identifies its caller, checks the permission to read, holds a slot, and charges it to the rate limit.

    Cancels the request, and its SQL statement, when the client disconnects or the request timeout expires. A path in
    `public_paths`, or below one, requires no key; `/` has no paths below it. A WebSocket handshake requires none either:
    browsers send the key in the first message. Static files count for no limit: without one of its modules, the page stays
    empty, and an office opens many at once. One class does all this, because each layer costs time in every request.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        public_paths: tuple[str, ...],
        slots: ConcurrencyLimiter,
        cost_budget: CostBudget | None,
        request_timeout_s: float,
    ) -> None:
        """Without a `cost_budget` there is no rate limit."""
        self.app = app
        self._authenticator = authenticator
        self._public_paths = public_paths
        self._slots = slots
        self._cost_budget = cost_budget
        self._request_timeout_s = request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        state = state_of(scope)
        state.caller = self._authenticator.identify(scope)
        if scope["type"] == "websocket" or scope["path"].startswith(STATIC_PREFIX):
            await self.app(scope, receive, send)
        elif not state.caller.may_read and not self._is_public(scope):
            await error_response(scope, UnauthenticatedError())(scope, receive, send)
        else:
            try:
                with self._slots.acquire(address_of(scope)) as state.slot:
                    await self._run(scope, receive, self._add_rate_headers(send, state.caller.name))
            except (BusyError, RateLimitedError) as error:
                await error_response(scope, error)(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        monitor = _RequestMonitor(scope, receive, send, self._request_timeout_s)
        try:
            if self._cost_budget is not None:
                self._cost_budget.charge(state_of(scope).caller.name, 1)
            await self.app(scope, monitor.receive, monitor.send)
        except RateLimitedError as error:
            await error_response(scope, error)(scope, receive, send)
        except asyncio.CancelledError:
            if not monitor.is_cancelled or monitor.task.uncancel():
                raise
            if not monitor.is_disconnected and not monitor.response_started:
                await error_response(scope, timeout_error(self._request_timeout_s))(scope, receive, send)
        finally:
            monitor.stop_watching()

    def _add_rate_headers(self, send: Send, caller: str) -> Send:
        """Returns a `send` that adds the RateLimit headers.

        See https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/.
        """
        budget = self._cost_budget
        if budget is None:
            return send

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f'"cost";q={budget.per_minute};w={WINDOW_S}'
                headers["RateLimit"] = f'"cost";r={budget.remaining(caller)};t={round(budget.reset_after_s(caller))}'
            await send(message)

        return send_with_rate

    def _is_public(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == GRAPHQL_PATH:  # the GraphiQL page itself contains no data
            return (
                scope["method"] == "GET" and not scope["query_string"] and prefers_html(Headers(scope=scope).get("Accept", ""))
            )
        return any(
            path == public_path or (public_path != "/" and path.startswith(f"{public_path}/"))
            for public_path in self._public_paths
        )


class _RequestMonitor:
    """Passes on the messages of one request and detects its timeout and the client's disconnect."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_timeout_s: float) -> None:
        self._receive = receive
        self._send = send
        self._remaining_s = max(0.0, request_timeout_s - WATCH_DELAY_S)
        # The endpoints read no body of a GET request, so the watcher does.
        has_body = scope["method"] not in ("GET", "HEAD") and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
        )
        self._is_body_complete = not has_body
        self._must_deliver_empty_body = not has_body
        self._is_slow = False
        self.response_started = False
        self.is_disconnected = False
        self.is_cancelled = False
        self.task = _current_task()
        self._timer = asyncio.get_running_loop().call_later(min(request_timeout_s, WATCH_DELAY_S), self._on_slow)
        self._watcher: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """Returns the next message of the body. After the body it never returns: the watcher receives the rest."""
        if self._must_deliver_empty_body:
            self._must_deliver_empty_body = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._is_body_complete:
            await asyncio.get_running_loop().create_future()
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._on_disconnect()
            await asyncio.get_running_loop().create_future()
        self._is_body_complete = not message.get("more_body", False)
        self._watch_for_disconnect()
        return message

    async def send(self, message: Message) -> None:
        """Sends a message. The timeout no longer applies once the response has started."""
        self.response_started = True
        body = message.get("body", b"")
        # Between chunks, `send` waits for the client. So a slow client holds its slot, but not the whole body in memory.
        last = (len(body) - 1) // CHUNK_BYTES * CHUNK_BYTES if body else 0
        for start in range(0, last, CHUNK_BYTES):
            await self._send({"type": "http.response.body", "body": body[start : start + CHUNK_BYTES], "more_body": True})
        await self._send({**message, "body": body[last:]} if last else message)

    def stop_watching(self) -> None:
        """Stops the timer and the watcher after the request."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _on_slow(self) -> None:
        self._is_slow = True
        self._timer = asyncio.get_running_loop().call_later(self._remaining_s, self._on_timeout)
        self._watch_for_disconnect()

    def _watch_for_disconnect(self) -> None:
        """Starts to wait for a disconnect, once the body is complete and the response takes longer than WATCH_DELAY_S."""
        if self._is_slow and self._is_body_complete and self._watcher is None:
            self._watcher = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_disconnect()

    def _on_timeout(self) -> None:
        if not self.response_started:
            self._cancel()

    def _on_disconnect(self) -> None:
        self.is_disconnected = True
        self._cancel()

    def _cancel(self) -> None:
        """Cancels the request once: a second cancellation would interrupt its cleanup."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self.task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  ASGI applications always run in a task
    return task


def timeout_error(request_timeout_s: float) -> TimedOutError:
    """Returns the error for a request that exceeded its timeout."""
    return TimedOutError(f"The request exceeded the timeout of {request_timeout_s:g} s. Request less data.")
