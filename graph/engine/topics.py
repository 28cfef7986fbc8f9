"""What is told to many at once: kept in memory for a while, each subscriber at its own place in it, and nobody waited for."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

IN_MEMORY_S: Final = 30.0
IN_MEMORY_MOST: Final = 10_000
"""Events of one topic."""
AT_ONCE: Final = 25
"""Subscribers served, or events told to one, before others get their turn of the event loop."""


class LeavingError(Exception):
    """Raised when this process is about to end: whoever listens should come back."""


class Event(NamedTuple):
    """An event as it is told."""

    position: int
    """Grows with each event of a topic."""
    text: str
    """JSON."""


class Topic:
    """The events of one question that are in memory, and who waits for the next."""

    def __init__(self, begins: int) -> None:
        self.begins = begins
        """All events after this position are in memory."""
        self.subscribers = 0
        self._events: deque[tuple[float, Event]] = deque()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._end: Callable[[], Exception] | None = None
        self._ends_at_once = False

    def beyond(self, position: int) -> list[Event]:
        """The events after the position, in order."""
        found = []
        for _, event in reversed(self._events):
            if event.position <= position:
                break
            found.append(event)
        return found[::-1]

    def require_open(self) -> None:
        """Raises what `end` was given where it ends at once."""
        if self._end is not None and self._ends_at_once:
            raise self._end()

    async def further(self, position: int) -> list[Event]:
        """The same, but waits until there are some. Raises what `end` was given where there are none and none will come."""
        while not (found := self.beyond(position)):
            if self._end is not None:
                raise self._end()
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = None
            try:
                await waiting
            finally:
                self._waiting.pop(waiting, None)
        return found

    def put(self, new: Iterable[Event]) -> None:
        """Adds events, and lets go of old ones. `wake` then."""
        now = time.monotonic()
        self._events.extend((now, event) for event in new)
        while len(self._events) > 1 and (self._events[0][0] < now - IN_MEMORY_S or len(self._events) > IN_MEMORY_MOST):
            self.begins = self._events.popleft()[1].position

    async def wake(self) -> None:
        """Lets those who wait look again, a few at a time, so that small requests are answered in between."""
        for number, one in enumerate(list(self._waiting), 1):
            if not one.done():
                one.set_result(None)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    def end(self, error: Callable[[], Exception] = LeavingError, *, at_once: bool = False) -> None:
        """Ends it once: for whoever has been told everything, or `at_once` for those, too, who still catch up."""
        if self._end is None:
            self._end = error
            self._ends_at_once = at_once
            for one in self._waiting:
                if not one.done():
                    one.set_result(None)
