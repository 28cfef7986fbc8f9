"""A server that follows the primary: answers are read there while it is known to hold all that was committed a moment ago."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

from db import tracing
from db.errors import DatabaseError, DatabaseUnavailableError
from db.pool import Database, Executor, Record, connect, open_database, own_errors
from db.queries import version
from db.queries.version import Newest
from graph import metrics
from graph.engine.feed import AGAIN_S, Feed

LOOKED_EVERY_S: Final = 1.0
"""Where nothing is committed; after a commit at once."""
WAITED_S: Final = 0.01
"""Between two looks at least."""
SILENCE_S: Final = 2.0

BY_REPLICA, BY_PRIMARY = (metrics.read_by.labels(server) for server in ("replica", "primary"))

log = logging.getLogger(__name__)

T = TypeVar("T")


class Replica:
    """Knows how far a replica is, by asking it for what the primary held a moment before.

    A server never goes back, so what it held once bounds how old anything is that is read there later. Only one server may
    therefore be behind the address: connections to another are refused.
    """

    def __init__(self, feed: Feed, dsn: str, at_most_s: float) -> None:
        """`at_most_s`: an answer holds everything that was committed so many seconds before it was asked for."""
        self._feed = feed
        self._dsn = dsn
        self._at_most_s = at_most_s
        self._level_at = time.monotonic()
        self._level_with = -1
        self._is_there = False
        self._was_near: bool | None = None
        self._server = ""
        self._database: Database

    @property
    def behind_s(self) -> float:
        """It holds everything that was committed so many seconds ago, as far as is known."""
        return time.monotonic() - self._level_at

    def reader(self, primary: Database) -> tuple[Executor, bool]:
        """What a whole answer is read from, and whether that holds every commit that was heard of."""
        if not self._is_near:
            BY_PRIMARY.inc()
            return primary, True
        BY_REPLICA.inc()
        return _Reader(self._database, primary), self._level_with == self._feed.count

    @asynccontextmanager
    async def followed(self, primary: Database, statement_timeout_s: float) -> AsyncIterator[None]:
        """Follows it as long as the block runs."""
        opened = open_database(
            self._dsn, application_name="tickgraph api", statement_timeout_s=statement_timeout_s, accept=self._accept
        )
        async with opened as self._database:
            with tracing.unseen():
                task = asyncio.create_task(self._follow(primary))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    @property
    def _is_near(self) -> bool:
        return self._is_there and self.behind_s < self._at_most_s

    async def _accept(self, connection: Executor) -> None:
        if await version.server(connection) != self._server:
            raise DatabaseUnavailableError("DATABASE_READ_URL leads to more than one server: name one of them")

    async def _follow(self, primary: Database) -> None:
        while True:
            try:
                await self._look(primary)
            except DatabaseError as error:
                self._is_there = False
                self._tell(str(error))
            except Exception:
                self._is_there = False
                log.exception("the replica is not followed")
            await asyncio.sleep(AGAIN_S)

    async def _look(self, primary: Database) -> None:
        """Finds out again and again what the replica holds. Raises DatabaseError where one of the two is away."""
        connection = await connect(self._dsn)
        try:
            with own_errors():
                async with asyncio.timeout(SILENCE_S):
                    self._server = await version.server(connection)
            while True:
                heard, began = self._feed.count, time.monotonic()
                if await self._reaches(connection, await version.newest(primary), began):
                    self._level_at, self._level_with, self._is_there = began, heard, True
                self._tell("it is behind")
                await asyncio.sleep(WAITED_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOKED_EVERY_S):
                        await self._feed.beyond(heard)
        finally:
            connection.terminate()

    async def _reaches(self, connection: Executor, newest: Newest, began: float) -> bool:
        """Waits until the replica holds that, as long as it is of any use."""
        while True:
            with own_errors():
                async with asyncio.timeout(SILENCE_S):
                    if await version.holds(connection, newest):
                        return True
            if time.monotonic() - began >= self._at_most_s:
                return False
            await asyncio.sleep(WAITED_S)

    def _tell(self, reason: str) -> None:
        """Logs it where the answers come from another server than before."""
        if self._is_near != self._was_near:
            self._was_near = self._is_near
            if self._is_near:
                log.info("answers are read from the replica")
            else:
                log.warning("answers are read from the primary, not from the replica (DATABASE_READ_URL): %s", reason)


class _Reader:
    """Reads one answer from the replica, or what is left of it from the primary: never the other way round, back in time."""

    def __init__(self, replica: Database, primary: Database) -> None:
        self._from = replica
        self._primary = primary

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        return await self._read(lambda db: db.fetch(statement, *args))

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        return await self._read(lambda db: db.fetchrow(statement, *args))

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        return await self._read(lambda db: db.fetchval(statement, *args))

    async def execute(self, statement: str, /, *args: Any) -> str:
        return await self._read(lambda db: db.execute(statement, *args))

    async def _read(self, ask: Callable[[Database], Awaitable[T]]) -> T:
        try:
            return await ask(self._from)
        except DatabaseUnavailableError:
            if self._from is self._primary:
                raise
            BY_PRIMARY.inc()
            self._from = self._primary
        return await ask(self._primary)
