"""The history that the ids of the database belong to: a restore or a failover with lost commits replaces it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from db.errors import DatabaseError
from db.pool import Database
from db.queries import version
from db.queries.version import History
from graph.engine.background import running
from graph.engine.feed import AGAIN_S, Feed

READ_EVERY_S: Final = 5.0
"""Where no commit is heard of; after a commit, and after a connection that was lost, at once."""

log = logging.getLogger(__name__)


class HistoryWatch:
    """Notices when the database is another one than before: another identity, or a data version that went back."""

    def __init__(self, feed: Feed, on_change: Callable[[int], None], delivered: Callable[[], int] = int) -> None:
        """`on_change` gets the last id that both histories hold; `delivered` gives the last id that a subscriber was given."""
        self._feed = feed
        self._delivered = delivered
        self._on_change = on_change
        self._seen: History | None = None

    @property
    def epoch(self) -> int:
        """The first id of the present epoch; 0 where it was never read."""
        return 0 if self._seen is None else self._seen.epoch

    @property
    def forked_at(self) -> int:
        """The last id that the present history took over from the one before; 0 where it was never read."""
        return 0 if self._seen is None else self._seen.forked_at

    @asynccontextmanager
    async def watched(self, db: Database) -> AsyncIterator[None]:
        """Reads the history again and again as long as the block runs."""
        async with running(self._watch(db)):
            yield

    async def look(self, db: Database) -> None:
        """Reads the history once. Raises DatabaseError."""
        delivered = self._delivered()  # before the look: what is committed meanwhile is no other history
        found, before = await version.history(db), self._seen
        if before is None:
            self._seen = found
            return
        # What was delivered since the new epoch began is no part of the history before it.
        newest = max(before.version, delivered if found.epoch == before.epoch or delivered < found.epoch else 0)
        fork = await version.fork_of(db, newest) if found.epoch != before.epoch else None
        self._seen = found
        is_other = fork is not None or found.version < newest or found.identity != before.identity
        if is_other or found.epoch != before.epoch:
            self._feed.invalidate()  # cursors and tags of before are none any more
        if is_other:
            resume_from = min(newest, found.version) if fork is None else fork
            log.warning(
                "the database holds another history since a restore or a failover: its newest id is %d, the newest before was "
                "%d; caches are dropped, and subscriptions end with HISTORY_CHANGED to resume from %d",
                *(found.version, newest, resume_from),
            )
            self._on_change(resume_from)

    async def _watch(self, db: Database) -> None:
        heard = -1
        while True:
            try:
                heard = self._feed.count
                await self.look(db)
            except DatabaseError as error:
                log.debug("the history is read again once the database answers: %s", error)
                await asyncio.sleep(AGAIN_S)
                continue
            except Exception:
                log.exception("the history of the database could not be read")
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_S):
                    await self._feed.beyond(heard)
