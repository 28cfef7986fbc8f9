"""Counts the commits of which PostgreSQL notifies this process."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from db import notifications
from db.errors import DatabaseError
from db.notifications import HEARTBEAT_TIMEOUT_S
from graph.engine.background import background_task

RETRY_INTERVAL_S: Final = 0.5

log = logging.getLogger(__name__)


class CommitListener:
    """Counts commits. While the connection is lost, the count is unreliable and `version` returns None."""

    def __init__(self, on_ticks: Callable[[str], None] = lambda _: None) -> None:
        """`on_ticks` gets each notification of ticks, which arrives on the same connection."""
        self._on_ticks = on_ticks
        self._count = 0
        self._last_heartbeat_at = -HEARTBEAT_TIMEOUT_S
        self._waiters: list[asyncio.Future[None]] = []
        self._is_disconnected = False

    @property
    def count(self) -> int:
        """Number of commits notified so far."""
        return self._count

    def version(self) -> int | None:
        """Returns a number that changes with each commit; None while notifications may be missing."""
        return self._count if time.monotonic() - self._last_heartbeat_at < HEARTBEAT_TIMEOUT_S else None

    async def wait_for_commit_after(self, count: int) -> int:
        """Waits until the number of commits exceeds `count`, and returns it. A new connection counts as a commit."""
        while self._count <= count:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise
        return self._count

    @asynccontextmanager
    async def run_in_background(self, dsn: str) -> AsyncIterator[None]:
        """Listens while the block runs, and reconnects after a lost connection."""
        async with background_task(self._listen(dsn)):
            yield

    async def _listen(self, dsn: str) -> None:
        while True:
            try:
                await notifications.listen(
                    dsn,
                    on_commit=self._on_commit,
                    on_ticks=self._on_ticks,
                    on_heartbeat=self._on_heartbeat,
                    on_loss=self._on_loss,
                )
            except DatabaseError as error:
                self._log_disconnect(str(error))
            except Exception:
                log.exception("listening for commits failed; retrying")
            self._on_loss()
            await asyncio.sleep(RETRY_INTERVAL_S)

    def invalidate(self) -> None:
        """Counts as a commit, so that nothing derived from the database before is used again."""
        self._on_commit()

    def _log_disconnect(self, reason: str) -> None:
        """Logs once that the connection is lost."""
        if not self._is_disconnected:
            log.warning("listening for commits failed, so nothing is cached and events are delayed: %s; retrying", reason)
        self._is_disconnected = True

    def _on_commit(self) -> None:
        self._count += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _on_loss(self) -> None:
        self._last_heartbeat_at = -HEARTBEAT_TIMEOUT_S

    def _on_heartbeat(self) -> None:
        self._last_heartbeat_at = time.monotonic()
        if self._is_disconnected:
            self._is_disconnected = False
            log.info("listening for commits works again")
