"""Reads from a streaming replica while its lag is known to be below a limit, and from the primary otherwise."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import asyncpg

from db.errors import DatabaseError, DatabaseUnavailableError, RowRejectedError, StatementTimeoutError
from db.pool import Database, Executor, Record, connect, open_database, translate_errors
from db.queries import version
from db.queries.version import LastCommit
from graph import metrics
from graph.engine.background import background_task
from graph.engine.commit_listener import RETRY_INTERVAL_S, CommitListener

CHECK_INTERVAL_S: Final = 1.0
"""Interval without commits. Each commit triggers a check at once."""
MIN_CHECK_INTERVAL_S: Final = 0.01
"""Minimum interval between two checks."""
SERVER_TIMEOUT_S: Final = 2.0
NOT_A_REPLICA_RETRY_INTERVAL_S: Final = 30.0
"""Interval before an address that is not a replica of the primary is tried again."""

REPLICA_READS, PRIMARY_READS = (metrics.reads_by_server.labels(server) for server in ("replica", "primary"))

log = logging.getLogger(__name__)

T = TypeVar("T")


class NotAReplicaError(Exception):
    """Raised when the address does not lead to exactly one replica of the primary."""


@dataclass(frozen=True)
class _PrimarySnapshot:
    """The state of the primary at one point in time."""

    newest: LastCommit
    taken_at: float
    """Seconds of the monotonic clock."""
    commit_count: int
    """Number of commits notified before."""


class Replica:
    """Measures the lag of a replica: it checks whether the replica has what the primary had a moment before.

    A running server never loses data, so each passed check bounds the age of all later reads from it. The checks use one
    connection. When it ends, the address may lead to another server or to a restarted one, so all other connections are closed.
    """

    def __init__(self, commits: CommitListener, dsn: str, max_lag_s: float) -> None:
        """`max_lag_s`: a response includes everything that was committed this many seconds before its request."""
        self._commits = commits
        self._dsn = dsn
        self._max_lag_s = max_lag_s
        self._caught_up_at = time.monotonic()
        self._caught_up_commit_count = -1
        self._database: Database | None = None
        """None while the replica must not be read."""
        self._was_usable: bool | None = None

    @property
    def lag_s(self) -> float:
        """Upper bound of the lag: the replica has everything that was committed this many seconds ago."""
        return time.monotonic() - self._caught_up_at

    def reader(self, primary: Database) -> tuple[Executor, bool]:
        """Returns the reader for one whole response, and whether it has every commit notified so far."""
        if self._database is None or not self._is_usable:
            PRIMARY_READS.inc()
            return primary, True
        REPLICA_READS.inc()
        return _ReplicaReader(self._database, primary), self._caught_up_commit_count == self._commits.count

    @asynccontextmanager
    async def run_in_background(self, primary: Database, statement_timeout_s: float) -> AsyncIterator[None]:
        """Connects to the replica and measures its lag while the block runs."""
        async with background_task(self._follow(primary, statement_timeout_s)):
            yield

    @property
    def _is_usable(self) -> bool:
        return self._database is not None and self.lag_s < self._max_lag_s

    async def _follow(self, primary: Database, statement_timeout_s: float) -> None:
        while True:
            retry_interval_s = RETRY_INTERVAL_S
            try:
                await self._follow_server(primary, statement_timeout_s)
            except DatabaseError as error:
                self._log_source_change(str(error))
            except NotAReplicaError as error:
                self._log_source_change(str(error))
                retry_interval_s = NOT_A_REPLICA_RETRY_INTERVAL_S
            except Exception:
                log.exception("the lag of the replica could not be measured; retrying")
            await asyncio.sleep(retry_interval_s)

    async def _follow_server(self, primary: Database, statement_timeout_s: float) -> None:
        """Measures one server until its connection ends. Raises DatabaseError then, or NotAReplicaError."""
        connection = await connect(self._dsn)
        end_reason: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        connection.add_termination_listener(
            lambda _: self._stop_using(end_reason, DatabaseUnavailableError("its connection closed"))
        )
        try:
            server = await _with_timeout(SERVER_TIMEOUT_S, version.read_server_start(connection))

            async def require_same_server(connection_to_check: Executor) -> None:
                try:
                    found = await _with_timeout(SERVER_TIMEOUT_S, version.read_server_start(connection_to_check))
                except DatabaseError as error:
                    self._stop_using(end_reason, error)
                    raise
                if found != server:
                    self._stop_using(
                        end_reason, NotAReplicaError("it leads to more than one server; set the address of one of them")
                    )
                    raise DatabaseUnavailableError("the address leads to another server")

            name = "tickgraph api"
            opened = open_database(
                self._dsn, application_name=name, statement_timeout_s=statement_timeout_s, check_connection=require_same_server
            )
            async with opened as database:
                polling = asyncio.create_task(self._poll_lag(primary, connection, database, end_reason))
                futures: list[asyncio.Future[Any]] = [polling, end_reason]
                try:
                    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._database = None
                    polling.cancel()
                    database.terminate()  # waiting requests continue with the primary
                    (polling_error,) = await asyncio.gather(polling, return_exceptions=True)
            raise end_reason.result() if end_reason.done() else polling_error
        finally:
            connection.terminate()

    def _stop_using(self, end_reason: "asyncio.Future[Exception]", error: Exception) -> None:
        self._database = None
        if not end_reason.done():
            end_reason.set_result(error)

    async def _poll_lag(
        self, primary: Database, connection: asyncpg.Connection, database: Database, end_reason: "asyncio.Future[Exception]"
    ) -> NoReturn:
        """Measures the lag repeatedly. Raises DatabaseError if the replica is unavailable, or NotAReplicaError."""
        snapshots: deque[_PrimarySnapshot] = deque()
        while True:
            if not snapshots or time.monotonic() - snapshots[-1].taken_at > CHECK_INTERVAL_S:
                with suppress(DatabaseError):  # the primary is unavailable: the measured lag grows meanwhile
                    taken_at, commit_count = time.monotonic(), self._commits.count
                    snapshots.append(_PrimarySnapshot(await version.read_last_commit(primary), taken_at, commit_count))
            if snapshots and await _has_caught_up(connection, snapshots[0].newest) and not end_reason.done():
                self._caught_up_at, self._caught_up_commit_count = snapshots[0].taken_at, snapshots[0].commit_count
                self._database = database
                snapshots.popleft()
            elif snapshots and time.monotonic() - snapshots[0].taken_at >= self._max_lag_s:
                snapshots.popleft()  # older than the limit, so useless
            self._log_source_change("its lag exceeds the limit")
            await asyncio.sleep(MIN_CHECK_INTERVAL_S)
            if not snapshots:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_INTERVAL_S):
                        await self._commits.wait_for_commit_after(self._caught_up_commit_count)

    def _log_source_change(self, reason: str) -> None:
        """Logs when reads change from one server to the other."""
        if self._is_usable != self._was_usable:
            self._was_usable = self._is_usable
            if self._is_usable:
                log.info("reading from the replica")
            else:
                log.warning("reading from the primary, not from the replica (DATABASE_READ_URL): %s", reason)


async def _has_caught_up(connection: asyncpg.Connection, newest: LastCommit) -> bool:
    found = await _with_timeout(SERVER_TIMEOUT_S, version.replica_state(connection, newest))
    if not found.is_replica:
        raise NotAReplicaError("it follows no other server; set the address of a streaming replica of the database")
    return found.is_caught_up


async def _with_timeout(seconds: float, awaitable: Awaitable[T]) -> T:
    with translate_errors():
        async with asyncio.timeout(seconds):
            return await awaitable


class _ReplicaReader:
    """Executes the statements of one response on the replica, and after an error the remaining ones on the primary.

    It never changes from the primary to the replica, which may be older.
    """

    def __init__(self, replica: Database, primary: Database) -> None:
        self._server = replica
        self._primary = primary

    async def fetch(self, statement: str, /, *args: Any) -> list[Record]:
        return await self._read(lambda db: db.fetch(statement, *args))

    async def fetchrow(self, statement: str, /, *args: Any) -> Record | None:
        return await self._read(lambda db: db.fetchrow(statement, *args))

    async def fetchval(self, statement: str, /, *args: Any) -> Any:
        return await self._read(lambda db: db.fetchval(statement, *args))

    async def execute(self, statement: str, /, *args: Any) -> str:
        return await self._read(lambda db: db.execute(statement, *args))

    async def _read(self, query: Callable[[Database], Awaitable[T]]) -> T:
        server = self._server  # a concurrent statement of the same response may change to the primary
        try:
            return await query(server)
        except (StatementTimeoutError, RowRejectedError):
            raise  # caused by the statement, not by the server
        except DatabaseError:
            if server is self._primary:
                raise
            if self._server is not self._primary:
                self._server = self._primary
                PRIMARY_READS.inc()
        return await query(self._primary)
