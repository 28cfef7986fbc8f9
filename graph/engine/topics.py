"""Recent events in memory that many subscribers share.

Each subscriber has its own position. A slow subscriber delays no other.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, NamedTuple, TypeVar

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

    def on_empty(self) -> None:
        """Called when the last subscriber has left."""

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


K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Topic)


class TopicRegistry(Generic[K, T]):
    """The topics of a process by their selection. A topic exists while it has subscribers."""

    def __init__(self, create: Callable[[K], T]) -> None:
        self._create = create
        self._topics: dict[K, T] = {}
        self._is_shutting_down = False

    def __bool__(self) -> bool:
        return bool(self._topics)

    @property
    def subscribers(self) -> int:
        """Number of active subscriptions."""
        return sum(topic.subscribers for topic in self._topics.values())

    def items(self) -> list[tuple[K, T]]:
        """Returns the topics with their selections."""
        return list(self._topics.items())

    def shut_down(self) -> None:
        """Ends every subscription with ShuttingDownError, after the events in memory are delivered."""
        self._is_shutting_down = True
        for topic in self._topics.values():
            topic.close()

    @contextmanager
    def join(self, selection: K) -> Iterator[T]:
        """Joins the topic of the selection for the length of the block."""
        topic = self._topics.get(selection)
        if topic is None:
            topic = self._topics[selection] = self._create(selection)
        if self._is_shutting_down:
            topic.close()
        topic.subscribers += 1
        try:
            yield topic
        finally:
            topic.subscribers -= 1
            if not topic.subscribers:
                topic.on_empty()
                self.discard(selection, topic)

    def discard(self, selection: K, topic: T) -> None:
        """Removes the topic, so that the next subscriber gets a new one. Its subscribers keep it."""
        if self._topics.get(selection) is topic:
            del self._topics[selection]
