"""Recent events in memory that many subscribers share.

Each subscriber has its own position. A slow subscriber delays no other.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

EVENT_RETENTION_S: Final = 30.0
MAX_EVENTS: Final = 10_000
"""Maximum number of events of one topic in memory."""
BATCH_SIZE: Final = 25
"""Subscribers woken, or events delivered to one subscriber, before the event loop runs other tasks."""


class ShuttingDownError(Exception):
    """Raised when this process shuts down. Subscribers should reconnect."""


class Event(NamedTuple):
    """An event as subscribers receive it."""

    position: int
    """Increases with each event of a topic."""
    text: str
    """JSON."""


class Topic:
    """The events of one selection in memory, and the subscribers that wait for the next event."""

    def __init__(self, base_position: int) -> None:
        self.base_position = base_position
        """All events after this position are in memory."""
        self.subscribers = 0
        self._events: deque[tuple[float, Event]] = deque()
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._create_closing_error: Callable[[], Exception] | None = None
        self._closes_immediately = False

    def events_after(self, position: int) -> list[Event]:
        """Returns the events after the position, in order."""
        found = []
        for _, event in reversed(self._events):
            if event.position <= position:
                break
            found.append(event)
        return found[::-1]

    def require_open(self) -> None:
        """Raises the error of `close` if the topic was closed immediately."""
        if self._create_closing_error is not None and self._closes_immediately:
            raise self._create_closing_error()

    async def wait_for_events_after(self, position: int) -> list[Event]:
        """Waits for events after the position and returns them. Raises the error of `close` if there are none left."""
        while not (found := self.events_after(position)):
            if self._create_closing_error is not None:
                raise self._create_closing_error()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
        return found

    def put(self, new_events: Iterable[Event]) -> None:
        """Adds events and drops old ones. Call `wake` afterwards."""
        now = time.monotonic()
        self._events.extend((now, event) for event in new_events)
        while len(self._events) > 1 and (self._events[0][0] < now - EVENT_RETENTION_S or len(self._events) > MAX_EVENTS):
            self.base_position = self._events.popleft()[1].position

    async def wake(self) -> None:
        """Wakes the waiting subscribers in batches, so that other requests can run in between."""
        for number, waiter in enumerate(list(self._waiters), 1):
            if not waiter.done():
                waiter.set_result(None)
            if number % BATCH_SIZE == 0:
                await asyncio.sleep(0)

    def close(self, create_error: Callable[[], Exception] = ShuttingDownError, *, immediately: bool = False) -> None:
        """Closes the topic. `create_error` returns the error for a subscriber. Only the first call has an effect.

        A subscriber receives its error after the events in memory, or `immediately`, even if it is still catching up.
        """
        if self._create_closing_error is None:
            self._create_closing_error = create_error
            self._closes_immediately = immediately
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
