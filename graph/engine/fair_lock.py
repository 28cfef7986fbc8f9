"""A lock for work that blocks the event loop. It serves callers in round-robin order.

Each caller waits for at most one piece of work of every other caller.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLock:
    """A round-robin lock. Between two holders the event loop runs everything else that is ready."""

    def __init__(self) -> None:
        self._is_locked = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def acquire(self, caller: str) -> AsyncIterator[None]:
        """Waits for the lock and holds it for the length of the block."""
        if self._is_locked:
            await self._wait(caller)
        self._is_locked = True
        try:
            yield
        finally:
            self._release()

    async def _wait(self, caller: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._release()  # the lock was passed on at the moment of the cancellation
            else:
                self._remove_waiter(caller, future)
            raise

    def _remove_waiter(self, caller: str, future: "asyncio.Future[None]") -> None:
        waiting = self._waiting.get(caller)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[caller]

    def _release(self) -> None:
        """Passes the lock to the next caller and moves that caller to the end of the queue."""
        while self._waiting:
            caller, waiting = self._waiting.popitem(last=False)
            next_waiter = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting
            if not next_waiter.done():
                next_waiter.set_result(None)
                return  # the lock stays locked
        self._is_locked = False
