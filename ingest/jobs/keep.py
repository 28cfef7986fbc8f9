"""Storage as one collect sees it: the outbox first, then PostgreSQL, and the one without the other where one is away."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from db.errors import DatabaseError
from db.pool import Database
from db.queries import gaps, prices, writing
from db.queries.gaps import Minute
from db.tables import PriceRow, Reason
from ingest.errors import NotKeptError, OutboxError, OutboxFullError
from ingest.jobs.deadline import Deadline
from ingest.jobs.drain import drain, say_how_many_wait
from ingest.jobs.store import Stored, store
from ingest.outbox import Outbox

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""How long PostgreSQL is waited for where nothing is lost without it."""

T = TypeVar("T")


class Keeping:
    """Keeps what a collect fetched. Without an outbox everything goes straight into PostgreSQL.

    Remembers which server is away: each look at one that hangs takes seconds.
    """

    def __init__(self, outbox: Outbox | None, db: Database, deadline: Deadline) -> None:
        self._outbox = outbox
        self._db = db
        self._deadline = deadline
        self._redis_is_away = False
        self.database_is_away = False
        self.done = Stored()

    async def there(self, tickers: Sequence[str], minute: int) -> set[str]:
        """Those of the tickers whose price of the minute is stored or waits; as far as it can be told."""
        found = set(await self._with_outbox(lambda outbox: outbox.waits(tickers, minute), "what waits cannot be told") or ())
        if self.database_is_away:
            return found
        async with self.patiently("what is stored cannot be told"):
            found |= await prices.stored_at(self._db, tickers, minute)
        return found

    async def keep(self, rows: Sequence[PriceRow]) -> None:
        """Returns when the rows are safe: in the outbox, or committed. Raises NotKeptError where the time ends before."""
        if not rows:
            return
        try:
            async for attempt in self._deadline.while_database_is_away():
                with attempt:
                    await self._keep(rows)
        except DatabaseError as error:
            raise NotKeptError(f"neither Redis nor PostgreSQL took it: {error}") from error

    async def drain(self) -> None:
        """Commits what waits in the outbox, as far as both servers are there."""
        await self._with_outbox(self._drain, "what waits is stored later")

    async def note(self, failures: Mapping[Minute, Reason], *, begun: bool) -> None:
        """Leaves evidence of why minutes have no price, where somebody will find it.

        Into PostgreSQL it goes as gaps, which a minute that has not `begun` by the exchange's clock cannot be.
        """

        async def beside_the_outbox(outbox: Outbox) -> bool:
            await outbox.note(failures)
            return True

        if await self._with_outbox(beside_the_outbox, "evidence goes into PostgreSQL") or not failures:
            return
        if begun:
            async with self.patiently("evidence is kept in memory"), writing.turn(self._db) as connection:
                await gaps.open_(connection, failures)
        if (self.database_is_away or not begun) and self._outbox is not None:
            self._outbox.remember(failures)

    @asynccontextmanager
    async def patiently(self, otherwise: str) -> AsyncIterator[None]:
        """For what can do without PostgreSQL: says `otherwise` where it does not answer soon, and remembers that it is away."""
        try:
            async with Deadline(PATIENCE_S).enforced():
                yield
        except DatabaseError as error:
            self.database_is_away = True
            log.warning("%s: %s", otherwise, error)
            if self._outbox is not None and not self._redis_is_away:
                await say_how_many_wait(self._outbox, error)
        else:
            self.database_is_away = False

    async def _keep(self, rows: Sequence[PriceRow]) -> None:
        async def through_the_outbox(outbox: Outbox) -> bool:
            await outbox.put(rows)
            if not self.database_is_away:
                await self._drain(outbox)
            return True

        if await self._with_outbox(through_the_outbox, "prices go straight into PostgreSQL"):
            return
        try:
            async with self._deadline.enforced():
                self.done.add(await store(self._db, rows))
        except DatabaseError:
            self._redis_is_away = False  # it may be back before the database is
            raise

    async def _drain(self, outbox: Outbox) -> None:
        drained = Stored()
        try:
            async with self.patiently("prices are stored later"):
                await drain(outbox, self._db, drained)
        finally:
            self.done.add(drained)
        if drained.new:
            self.database_is_away = False  # slow with much to store, but there

    async def _with_outbox(self, work: Callable[[Outbox], Awaitable[T]], otherwise: str) -> T | None:
        """What the work gives; None where there is no outbox, or its Redis is away, or it is full."""
        if self._outbox is None or self._redis_is_away:
            return None
        try:
            return await work(self._outbox)
        except OutboxError as error:
            self._redis_is_away = not isinstance(error, OutboxFullError)
            log.warning("%s: %s", otherwise, error)
            return None
