"""A server that follows the primary: answers are read there while it is known to hold all that was committed a moment ago."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import asyncpg

from db.errors import DatabaseError, DatabaseUnavailableError, RowRefusedError, StatementTimeoutError
from db.pool import Database, Executor, Record, connect, open_database, own_errors
from db.queries import version
from db.queries.version import Newest
from graph import metrics
from graph.engine.background import running
from graph.engine.feed import AGAIN_S, Feed

LOOKED_EVERY_S: Final = 1.0
"""Where nothing is committed; after a commit at once."""
WAITED_S: Final = 0.01
"""Between two looks at least."""
SILENCE_S: Final = 2.0
MISTAKEN_S: Final = 30.0
"""Until an address is tried again that leads to no replica of ours."""

BY_REPLICA, BY_PRIMARY = (metrics.read_by.labels(server) for server in ("replica", "primary"))

log = logging.getLogger(__name__)

T = TypeVar("T")


class MistakenError(Exception):
    """Raised where the address leads to something else than one replica of the primary."""


@dataclass(frozen=True)
class _Mark:
    """What the primary held."""

    newest: Newest
    at: float
    """By the monotonic clock."""
    heard: int
    """Commits that had been heard of."""


class Replica:
    """Knows how far a replica is, by asking it for what the primary held a moment before.

    A server that runs never goes back, so what it held once bounds how old anything is that is read there later. Whatever may
    lead to another server, or to the same one started again, ends with the connection that this is known by, and with it all
    others end.
    """

    def __init__(self, feed: Feed, dsn: str, at_most_s: float) -> None:
        """`at_most_s`: an answer holds everything that was committed so many seconds before it was asked for."""
        self._feed = feed
        self._dsn = dsn
        self._at_most_s = at_most_s
        self._level_at = time.monotonic()
        self._level_with = -1
        self._database: Database | None = None
        """None where there is nothing to read from."""
        self._was_near: bool | None = None

    @property
    def behind_s(self) -> float:
        """It holds everything that was committed so many seconds ago, as far as is known."""
        return time.monotonic() - self._level_at

    def reader(self, primary: Database) -> tuple[Executor, bool]:
        """What a whole answer is read from, and whether that holds every commit that was heard of."""
        if self._database is None or not self._is_near:
            BY_PRIMARY.inc()
            return primary, True
        BY_REPLICA.inc()
        return _Reader(self._database, primary), self._level_with == self._feed.count

    @asynccontextmanager
    async def followed(self, primary: Database, statement_timeout_s: float) -> AsyncIterator[None]:
        """Follows it as long as the block runs."""
        async with running(self._follow(primary, statement_timeout_s)):
            yield

    @property
    def _is_near(self) -> bool:
        return self._database is not None and self.behind_s < self._at_most_s

    async def _follow(self, primary: Database, statement_timeout_s: float) -> None:
        while True:
            again_s = AGAIN_S
            try:
                await self._connected(primary, statement_timeout_s)
            except DatabaseError as error:
                self._tell(str(error))
            except MistakenError as mistake:
                self._tell(str(mistake))
                again_s = MISTAKEN_S
            except Exception:
                log.exception("the replica is not followed")
            await asyncio.sleep(again_s)

    async def _connected(self, primary: Database, statement_timeout_s: float) -> None:
        """Follows one server until its connection ends. Raises DatabaseError then, or MistakenError."""
        connection = await connect(self._dsn)
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        connection.add_termination_listener(lambda _: self._end(ended, DatabaseUnavailableError("its connection ended")))
        try:
            server = await _within(SILENCE_S, version.server(connection))

            async def accept(other: Executor) -> None:
                try:
                    found = await _within(SILENCE_S, version.server(other))
                except DatabaseError as error:
                    self._end(ended, error)
                    raise
                if found != server:
                    self._end(ended, MistakenError("it leads to more than one server: name one of them"))
                    raise DatabaseUnavailableError("another server")

            name = "tickgraph api"
            opened = open_database(self._dsn, application_name=name, statement_timeout_s=statement_timeout_s, accept=accept)
            async with opened as database:
                looking = asyncio.create_task(self._look(primary, connection, database, ended))
                first: list[asyncio.Future[Any]] = [looking, ended]
                try:
                    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._database = None
                    looking.cancel()
                    database.terminate()  # whoever waits for it goes on with the primary
                    (failed,) = await asyncio.gather(looking, return_exceptions=True)
            raise ended.result() if ended.done() else failed
        finally:
            connection.terminate()

    def _end(self, ended: "asyncio.Future[Exception]", why: Exception) -> None:
        self._database = None
        if not ended.done():
            ended.set_result(why)

    async def _look(
        self, primary: Database, connection: asyncpg.Connection, database: Database, ended: "asyncio.Future[Exception]"
    ) -> NoReturn:
        """Finds out again and again what the replica holds. Raises DatabaseError where it is away, or MistakenError."""
        marks: deque[_Mark] = deque()
        while True:
            if not marks or time.monotonic() - marks[-1].at > LOOKED_EVERY_S:
                with suppress(DatabaseError):  # the primary's: what is known of the replica gets older
                    at, heard = time.monotonic(), self._feed.count
                    marks.append(_Mark(await version.newest(primary), at, heard))
            if marks and await _holds(connection, marks[0].newest) and not ended.done():
                self._level_at, self._level_with = marks[0].at, marks[0].heard
                self._database = database
                marks.popleft()
            elif marks and time.monotonic() - marks[0].at >= self._at_most_s:
                marks.popleft()  # of no use any more
            self._tell("it is behind")
            await asyncio.sleep(WAITED_S)
            if not marks:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOKED_EVERY_S):
                        await self._feed.beyond(self._level_with)

    def _tell(self, reason: str) -> None:
        """Logs it where the answers come from another server than before."""
        if self._is_near != self._was_near:
            self._was_near = self._is_near
            if self._is_near:
                log.info("answers are read from the replica")
            else:
                log.warning("answers are read from the primary, not from the replica (DATABASE_READ_URL): %s", reason)


async def _holds(connection: asyncpg.Connection, newest: Newest) -> bool:
    found = await _within(SILENCE_S, version.held(connection, newest))
    if not found.follows:
        raise MistakenError("it follows no other server: name a streaming replica of the database")
    return found.holds


async def _within(seconds: float, asked: Awaitable[T]) -> T:
    with own_errors():
        async with asyncio.timeout(seconds):
            return await asked


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
        asked = self._from  # another statement of the same answer may turn to the primary meanwhile
        try:
            return await ask(asked)
        except (StatementTimeoutError, RowRefusedError):
            raise  # of the statement's own making
        except DatabaseError:
            if asked is self._primary:
                raise
            if self._from is not self._primary:
                self._from = self._primary
                BY_PRIMARY.inc()
        return await ask(self._primary)
