"""Work that blocks the event loop, one piece at a time, callers in turn: nobody waits behind more than one piece of another."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLane:
    """A lane with room for one. Between two pieces of work the event loop does everything else that is ready."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Holds the lane for the block, as soon as it is the caller's turn."""
        if self._is_taken:
            await self._wait(caller)
        self._is_taken = True
        try:
            yield
        finally:
            self._hand_on()

    async def _wait(self, caller: str) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._hand_on()  # the turn came in the moment of the cancellation
            else:
                self._forget(caller, mine)
            raise

    def _forget(self, caller: str, future: "asyncio.Future[None]") -> None:
        waiting = self._waiting.get(caller)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[caller]

    def _hand_on(self) -> None:
        """Gives the lane to the next caller, who goes to the end of the line then."""
        while self._waiting:
            caller, waiting = self._waiting.popitem(last=False)
            following = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting
            if not following.done():
                following.set_result(None)
                return  # it stays taken
        self._is_taken = False
