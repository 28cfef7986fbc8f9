"""The storage of one collect: the outbox first, then PostgreSQL. If one of them is unavailable, it uses the other."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from db.errors import DatabaseError
from db.pool import Database
from db.queries import gaps, prices, write_lock
from db.queries.gaps import TickerMinute
from db.rows import PriceRow, Reason
from ingest.errors import OutboxError, OutboxFullError, StorageUnavailableError
from ingest.jobs.deadline import Deadline
from ingest.jobs.drain import drain, log_backlog
from ingest.jobs.store import StoreResult, store
from ingest.outbox import Outbox

log = logging.getLogger(__name__)

DATABASE_TIMEOUT_S = 3.0
"""Timeout for PostgreSQL in a block whose failure loses no price."""

T = TypeVar("T")


class PriceStorage:
    """Stores the prices of one collect. Without an outbox, they go directly into PostgreSQL.

    Remembers which server is unavailable, because each attempt to use a hanging one takes seconds.
    """

    def __init__(self, outbox: Outbox | None, db: Database, deadline: Deadline) -> None:
        self._outbox = outbox
        self._db = db
        self._deadline = deadline
        self._redis_is_unavailable = False
        self.database_is_unavailable = False
        self.stored = StoreResult()

    async def existing_tickers(self, tickers: Sequence[str], minute: int) -> set[str]:
        """Returns those of the tickers whose price of the minute is stored or queued, as far as the servers are available."""
        found = set(
            await self._with_outbox(lambda outbox: outbox.pending_tickers(tickers, minute), "cannot read queued prices") or ()
        )
        if self.database_is_unavailable:
            return found
        async with self.tolerate_database_outage("cannot read stored prices"):
            found |= await prices.tickers_stored_at(self._db, tickers, minute)
        return found

    async def save(self, rows: Sequence[PriceRow]) -> None:
        """Returns when the rows are in the outbox or committed. Raises StorageUnavailableError at the
        deadline, or at once for an error that a retry cannot fix.
        """
        if not rows:
            return
        try:
            async for attempt in self._deadline.retry_database():
                with attempt:
                    await self._save(rows)
        except DatabaseError as error:
            raise StorageUnavailableError(f"neither Redis nor PostgreSQL accepted the price: {error}") from error

    async def drain(self) -> None:
        """Commits the queued prices if both servers are available."""
        await self._with_outbox(self._drain, "queued prices are stored later")

    async def record_failures(self, failures: Mapping[TickerMinute, Reason], *, has_begun: bool) -> None:
        """Records why minutes have no price: in the outbox or, if Redis is unavailable, as gaps in PostgreSQL.

        A minute that has not begun by the exchange's clock cannot be a gap.
        """

        async def record_in_outbox(outbox: Outbox) -> bool:
            await outbox.record_failures(failures)
            return True

        if await self._with_outbox(record_in_outbox, "failure reasons go into PostgreSQL") or not failures:
            return
        if has_begun:
            async with (
                self.tolerate_database_outage("failure reasons are buffered in memory"),
                write_lock.write_transaction(self._db) as connection,
            ):
                await gaps.open_gaps(connection, failures)
        if (self.database_is_unavailable or not has_begun) and self._outbox is not None:
            self._outbox.buffer_failures(failures)

    @asynccontextmanager
    async def tolerate_database_outage(self, log_message: str) -> AsyncIterator[None]:
        """Tolerates a DatabaseError or a timeout in the block: logs `log_message` and marks PostgreSQL as unavailable."""
        try:
            async with Deadline(DATABASE_TIMEOUT_S).enforce():
                yield
        except DatabaseError as error:
            self.database_is_unavailable = True
            log.warning("%s: %s", log_message, error)
            if self._outbox is not None and not self._redis_is_unavailable:
                await log_backlog(self._outbox, error)
        else:
            self.database_is_unavailable = False

    async def _save(self, rows: Sequence[PriceRow]) -> None:
        async def save_through_outbox(outbox: Outbox) -> bool:
            await outbox.put(rows)
            if not self.database_is_unavailable:
                await self._drain(outbox)
            return True

        if await self._with_outbox(save_through_outbox, "prices go directly into PostgreSQL"):
            return
        try:
            async with self._deadline.enforce():
                self.stored.add(await store(self._db, rows))
        except DatabaseError:
            self._redis_is_unavailable = False  # Redis may be available before the database is
            raise

    async def _drain(self, outbox: Outbox) -> None:
        drained = StoreResult()
        try:
            async with self.tolerate_database_outage("prices are stored later"):
                await drain(outbox, self._db, drained)
        finally:
            self.stored.add(drained)
        if drained.new:
            self.database_is_unavailable = False  # slow because of a large backlog, but available

    async def _with_outbox(self, work: Callable[[Outbox], Awaitable[T]], log_message: str) -> T | None:
        """Returns the result of `work`; None if there is no outbox, its Redis is unavailable, or it is full."""
        if self._outbox is None or self._redis_is_unavailable:
            return None
        try:
            return await work(self._outbox)
        except OutboxError as error:
            self._redis_is_unavailable = not isinstance(error, OutboxFullError)
            log.warning("%s: %s", log_message, error)
            return None
