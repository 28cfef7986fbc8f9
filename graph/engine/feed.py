"""What was committed since: a number that grows with every commit that this process heard of."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from db import listening
from db.errors import DatabaseError
from db.listening import SILENCE_S
from graph.engine.background import running

AGAIN_S: Final = 0.5

log = logging.getLogger(__name__)


class Feed:
    """Counts commits. While it cannot hear, nobody may rely on it."""

    def __init__(self) -> None:
        self._count = 0
        self._heard_at = -SILENCE_S
        self._waiting: list[asyncio.Future[None]] = []
        self._is_deaf = False

    @property
    def count(self) -> int:
        """Commits heard of, while it could hear and before."""
        return self._count

    def version(self) -> int | None:
        """The same as before only if nothing was committed in between; None while it cannot be known."""
        return self._count if time.monotonic() - self._heard_at < SILENCE_S else None

    async def beyond(self, count: int) -> int:
        """Waits until more commits than `count` were heard of, or could have been missed; how many were."""
        while self._count <= count:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            except asyncio.CancelledError:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                raise
        return self._count

    @asynccontextmanager
    async def heard(self, dsn: str) -> AsyncIterator[None]:
        """Listens as long as the block runs; a connection that is lost is made again."""
        async with running(self._listen(dsn)):
            yield

    async def _listen(self, dsn: str) -> None:
        while True:
            try:
                await listening.listen(dsn, on_commit=self._committed, on_beat=self._beat, on_loss=self._lost)
            except DatabaseError as error:
                self._say(str(error))
            except Exception:
                log.exception("commits are not heard")
            self._lost()
            await asyncio.sleep(AGAIN_S)

    def invalidate(self) -> None:
        """Counts as a commit: whatever was derived from the database before is not used again."""
        self._committed()

    def _say(self, why: str) -> None:
        """Logs that commits are not heard, once."""
        if not self._is_deaf:
            log.warning("commits are not heard, so nothing is cached and events wait: %s; trying again", why)
        self._is_deaf = True

    def _committed(self) -> None:
        self._count += 1
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def _lost(self) -> None:
        self._heard_at = -SILENCE_S

    def _beat(self) -> None:
        self._heard_at = time.monotonic()
        if self._is_deaf:
            self._is_deaf = False
            log.info("commits are heard again")
