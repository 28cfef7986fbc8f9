"""Detects that a restore, or a failover that lost commits, replaced the history that ids belong to."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from db.errors import DatabaseError
from db.pool import Database
from db.queries import version
from db.queries.version import History
from graph.engine.background import background_task
from graph.engine.commit_listener import RETRY_INTERVAL_S, CommitListener

READ_INTERVAL_S: Final = 5.0
"""Interval without commits. Each commit and each new connection triggers a check at once."""

log = logging.getLogger(__name__)


class HistoryWatch:
    """Detects a replaced history: an epoch that lost ids, another database identity, or a data version that decreased."""

    def __init__(
        self, commits: CommitListener, on_change: Callable[[int], None], last_delivered_id: Callable[[], int] = lambda: 0
    ) -> None:
        """Takes two callbacks.

        `on_change` receives the last id that both histories share. `last_delivered_id` returns the last id that a subscriber
        received.
        """
        self._commits = commits
        self._last_delivered_id = last_delivered_id
        self._on_change = on_change
        self._history: History | None = None

    @property
    def epoch(self) -> int:
        """The first id of the current epoch; 0 before the first check."""
        return 0 if self._history is None else self._history.epoch

    @property
    def forked_at(self) -> int:
        """The last id that the current history shares with the previous one; 0 before the first check."""
        return 0 if self._history is None else self._history.forked_at

    @asynccontextmanager
    async def run_in_background(self, db: Database) -> AsyncIterator[None]:
        """Checks the history repeatedly while the block runs."""
        async with background_task(self._watch(db)):
            yield

    async def check(self, db: Database) -> None:
        """Reads the history once, and calls `on_change` if it was replaced. Raises DatabaseError."""
        # Read before the query: after it, the id may exceed `current.version` without a restore.
        delivered_id = self._last_delivered_id()
        current, previous = await version.history(db), self._history
        if previous is None:
            self._history = current
            return
        # Ids delivered since the start of the new epoch do not belong to the previous history.
        newest = max(previous.version, delivered_id if current.epoch == previous.epoch or delivered_id < current.epoch else 0)
        fork = await version.fork_of(db, newest) if current.epoch != previous.epoch else None
        self._history = current
        was_replaced = fork is not None or current.version < newest or current.identity != previous.identity
        if was_replaced or current.epoch != previous.epoch:
            self._commits.invalidate()  # older cursors and ETags are invalid now
        if was_replaced:
            resume_from = min(newest, current.version) if fork is None else fork
            log.warning(
                "a restore or a failover replaced the history of the database: its newest id is %d, the newest id before was "
                "%d; caches are cleared, and subscriptions end with HISTORY_CHANGED and can resume from %d",
                *(current.version, newest, resume_from),
            )
            self._on_change(resume_from)

    async def _watch(self, db: Database) -> None:
        commit_count = -1
        while True:
            try:
                commit_count = self._commits.count
                await self.check(db)
            except DatabaseError as error:
                log.debug("the history could not be read: %s; retrying", error)
                await asyncio.sleep(RETRY_INTERVAL_S)
                continue
            except Exception:
                log.exception("the history of the database could not be checked; retrying")
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_INTERVAL_S):
                    await self._commits.wait_for_commit_after(commit_count)
